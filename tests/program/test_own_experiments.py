"""`run_lt_experiments.sh own`: from csvs to a report, with real processes and a tiny network; resumed, in folds, refused."""
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.factories import ROOT, write_images
from tools.own_experiments import main
from utils.common import InputError
from utils.training.own_series import choose_method

NETWORK = '''
from torch import nn
from models.arch import as_arch

def build(n_classes, pretrained, im_size):
    return as_arch(nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                                 nn.Linear(8, n_classes)), n_classes)
'''
# The tiny set has equal class names and disjoint noise, but smooth images of one class may look alike to the search for duplicates.
COUNTS = {'train': (16, 8, 4), 'val': (6, 4, 3), 'test': (5, 4, 3)}
SHORT = ['--', '--n_epochs', '1', '--batch_size', '4', '--num_workers', '0', '--cache_dir', 'cache', '--device', 'cpu']


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder with the set `set` and the network net.py:build."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    write_images(tmp_path / 'set', COUNTS)
    (tmp_path / 'net.py').write_text(NETWORK)
    return tmp_path


def words(*flags):
    return ['--csv_train', 'set/train.csv', '--data_path', 'set/images', '--model_name', 'net.py:build', '--init', 'none',
            '--im_size', '32', '--recipes', 'plain', 'crt', '--seeds', '0', '1', *flags, *SHORT]


def run(*flags):
    return subprocess.run([sys.executable, '-m', 'tools.own_experiments', *words(*flags)], env=os.environ | {'PYTHONPATH': str(ROOT)},
                          capture_output=True, text=True)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A finished series of two methods and two seeds, run two at a time."""
    folder = tmp_path_factory.mktemp('own')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv('OMP_NUM_THREADS', '1')
        write_images(folder / 'set', COUNTS)
        (folder / 'net.py').write_text(NETWORK)
        done = run('--jobs', '2')
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done


def test_everything_is_written(finished):
    folder, _ = finished
    assert sorted(path.name for path in (folder / 'results/own').iterdir()) == [
        'commands.sh', 'duplicates.csv', 'fingerprint.json', 'model', 'selection.csv', 'tested.json']
    assert {'performance_test.txt', 'results_test.csv', 'results_test.json', 'report.html'} <= {
        path.name for path in (folder / 'results/own/model').iterdir()}


def test_the_fingerprint_has_data_plan_and_reasons(finished):
    folder, _ = finished
    found = json.loads((folder / 'results/own/fingerprint.json').read_text())
    assert [of['images'] for of in found['splits'].values()] == [28, 13, 12] and (found['copies'], found['duplicates']) == (0, 0)
    assert found['plan']['methods'] == ['plain', 'crt'] and set(found['plan']['reasons']) >= {'im_size', 'batch_size', 'methods', 'metric'}


def test_the_method_is_chosen_on_the_validation_images(finished):
    folder, _ = finished
    selection = pd.read_csv(folder / 'results/own/selection.csv')
    assert selection.groupby('method').part.apply(list).to_dict() == {'plain': ['seed0', 'seed1'], 'crt': ['seed0', 'seed1']}
    best = selection.groupby('method', sort=False).score.mean().idxmax()
    tested = json.loads((folder / 'results/own/tested.json').read_text())
    assert tested['method'] == best and len(tested['compared']) == 4 and tested['results'] == ['results/own/model', 'experiments/own/model']
    for method, part, score in selection.itertuples(index=False):
        log = (folder / 'experiments/own' / method / part / 'log.jsonl').read_text()
        assert json.loads(log)['val']['bacc'] == pytest.approx(score, abs=1e-6)


def test_the_test_is_calibrated_and_averages_the_seeds(finished):
    folder, _ = finished
    results = json.loads((folder / 'results/own/model/results_test.json').read_text())
    assert results['temperature']['csv'] == 'set/val.csv' and 'own/model' in results['checkpoint']['folder']
    assert '2 networks, seeds 0 and 1' in (folder / 'results/own/model/report.html').read_text()


def test_the_saved_commands_are_those_that_ran(finished):
    folder, done = finished
    script = [line for line in (folder / 'results/own/commands.sh').read_text().splitlines() if line.startswith('python ')]
    assert sorted(script) == sorted(line[2:] for line in done.stderr.splitlines() if line.startswith('$ '))
    assert sum('train_lt_mxp.py' in line for line in script) == 6  # stage one, plain and crt, for two seeds


def test_lines_of_parallel_trainings_are_named(finished):
    _, done = finished
    assert {'train own/plain/seed0', 'train own/stage_one/seed1'} <= {line.split(': ')[0] for line in done.stdout.splitlines()}
    assert '[12/' not in done.stderr and '[11/11' in done.stderr


def test_the_same_command_repeats_nothing(finished, monkeypatch):
    folder, _ = finished
    monkeypatch.chdir(folder)
    before = (folder / 'results/own/model/results_test.csv').stat().st_mtime_ns
    done = run()
    assert done.returncode == 0 and '$ ' not in done.stderr
    assert (folder / 'results/own/model/results_test.csv').stat().st_mtime_ns == before


def test_a_second_test_of_the_same_images_is_refused(finished, monkeypatch):
    folder, _ = finished
    monkeypatch.chdir(folder)
    for flags in (['--seeds', '0'], ['--recipes', 'plain'], ['--seeds', '0', '1', '2']):
        with pytest.raises(InputError, match=r'the test images were used for a choice that did not compare the same networks \(different: '
                                             'experiments/own/.*remove results/own/tested.json and results/own/model and experiments'):
            main(words(*flags))


@pytest.mark.parametrize(('flags', 'message'), [(['--im_size', '64'], 'a series with other --im_size'),
                                                (['--csv_test', 'set/other.csv'], 'a series with other --csv_test, --csv_test')])
def test_other_settings_need_another_folder(finished, monkeypatch, flags, message):
    folder, _ = finished
    monkeypatch.chdir(folder)
    Path('set/other.csv').write_text(''.join(Path('set/test.csv').read_text().splitlines(True)[:-1]))
    with pytest.raises(InputError, match=f'fingerprint.json is of {message}: give another --save_path, or remove experiments/own'):
        main(words(*flags))


def test_a_dry_run_prints_the_commands_and_writes_nothing(here, capsys):
    main(words('--dry_run'))
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert [line[1] if line[1] != '-m' else line[2] for line in lines] == [
        'tools.check_data', *['train_lt_mxp.py'] * 6, 'tools.ensemble_runs', 'tools.calibrate',
        'test_with_labels_eyepacs.py', 'tools.report']
    assert not Path('results').exists() and not Path('experiments').exists()


def test_each_stage_one_has_its_own_folder_whatever_the_order(here, capsys):
    main(words('--dry_run', '--seeds', '0', '--recipes', 'mixup_two_stage', 'crt', 'two_stage'))
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines() if 'train_lt_mxp' in line]
    runs = {line[line.index('--save_path') + 1]: line for line in lines}
    assert list(runs) == [f'own/{name}/seed0' for name in ('stage_one_mixup', 'stage_one', 'mixup_two_stage', 'crt', 'two_stage')]
    assert '--do_mixup' in runs['own/stage_one_mixup/seed0'] and '--do_mixup' not in runs['own/stage_one/seed0']
    starts = {run: line[line.index('--pretrained_weights') + 1] for run, line in runs.items() if '--pretrained_weights' in line}
    assert starts == {'own/mixup_two_stage/seed0': 'experiments/own/stage_one_mixup/seed0',
                      'own/crt/seed0': 'experiments/own/stage_one/seed0', 'own/two_stage/seed0': 'experiments/own/stage_one/seed0'}


def test_methods_are_compared_over_the_folds(here, capsys):
    main(words('--folds', '3', '--seeds', '0', '--dry_run', '--no_test'))
    report = [shlex.split(line) for line in capsys.readouterr().out.splitlines() if 'tools.report' in line]
    assert len(report) == 1 and report[0][3:9] == ['results/own/plain', 'results/own/crt', '--baseline', 'plain', '--out',
                                                   'results/own/report_folds.html']
    assert not Path('experiments').exists()


def test_leakage_ends_the_series_before_training(here):
    train = pd.read_csv('set/train.csv', dtype=str)
    pd.concat([train, pd.read_csv('set/test.csv', dtype=str).head(1)]).to_csv('set/train.csv', index=False)
    done = run()
    assert done.returncode == 1 and '1 image appears in both set/train.csv and set/test.csv' in done.stdout
    assert done.stderr.splitlines()[-1].startswith('error: failed: check the data (see above)')
    assert not Path('experiments/own').exists() and not Path('results/own/fingerprint.json').exists()


def test_an_interrupted_series_goes_on_where_it_stopped(here):
    done = run('--seeds', '0', '--save_path', 'x', '--recipes', 'plain', '--metric', 'bacc')
    assert done.returncode == 0
    os.remove('results/x/plain/seed0/report.html')
    os.remove('experiments/x/plain/seed0/val_metrics.txt')
    done = run('--seeds', '0', '--save_path', 'x', '--recipes', 'plain', '--metric', 'bacc')
    titles = [line.split('] ')[1] for line in done.stderr.splitlines() if line.startswith('[')]
    assert done.returncode == 0 and titles == ['train x/plain/seed0', 'write the report']


def test_an_ensemble_of_an_earlier_choice_is_replaced(here):
    assert run('--no_test', '--recipes', 'plain').returncode == 0
    done = run('--no_test', '--recipes', 'plain', '--seeds', '0', '2')
    titles = [line.split('] ')[1] for line in done.stderr.splitlines() if line.startswith('[')]
    assert done.returncode == 0 and titles == ['train own/plain/seed2', 'average 2 networks']
    assert [member['seed'] for member in json.loads(Path('experiments/own/model/config.cfg').read_text())['members']] == [0, 2]


def test_the_test_can_wait(here):
    first = run('--seeds', '0', '--recipes', 'plain', '--no_test')
    assert first.returncode == 0 and not Path('results/own/tested.json').exists() and not Path('results/own/plain').exists()
    done = run('--seeds', '0', '--recipes', 'plain')
    titles = [line.split('] ')[1] for line in done.stderr.splitlines() if line.startswith('[')]
    assert done.returncode == 0 and titles == ['calibrate', 'test plain', 'write the report']
    assert 'Test, once, of plain training. Validation balanced accuracy: plain training ' in Path(
        'results/own/plain/seed0/report.html').read_text()
    other = run('--seeds', '0', '--recipes', 'plain', '--save_path', 'again')
    assert '* Warning: the test images have been used before, see results/own/tested.json' in other.stdout


def test_folds(here):
    os.remove('set/test.csv')
    done = run('--folds', '3', '--seeds', '0', '--recipes', 'plain')
    assert done.returncode == 0, done.stderr
    parts = [pd.read_csv(f'experiments/own/folds/val_fold{i}.csv') for i in (1, 2, 3)]
    assert sorted(pd.concat(parts).image_id) == sorted(pd.concat([pd.read_csv(f'set/{split}.csv') for split in ('train', 'val')]).image_id)
    assert all(part.label.value_counts().to_dict().keys() == {0, 1, 2} for part in parts)
    assert Path('experiments/own/model/config.cfg').exists() and not Path('results/own/tested.json').exists()
    page = Path('results/own/report_folds.html').read_text()
    assert 'each image is scored by the network that was not trained on it' in page and '41 images' in page


@pytest.mark.parametrize(('flags', 'message'), [
    (['--seeds', '0', '0'], '--seeds different numbers of 0 or more'), (['--jobs', '0'], '--jobs must be positive'),
    (['--folds', '1'], '--folds must be at least 2, and takes a single seed'),
    (['--folds', '3', '--seeds', '0', '1'], '--folds must be at least 2, and takes a single seed'),
    (['--by', 'age'], r"--by, --per: set/test\.csv has no further column 'age' \(its columns: image_id, name, label\)"),
    (['--per', 'name:worst'], '--per name:worst: the classes are not grades'), (['--by', 'age:9,1'], 'ascending limits'),
    (['--csv_test', 'none.csv'], r'no such csv \(--csv_test\): none\.csv'),
    (['--csv_val', 'set/train.csv'], 'give different csvs: set/train')])
def test_bad_flags(here, flags, message):
    with pytest.raises(InputError, match=message):
        main(words(*flags))


def test_a_bad_training_flag_ends_the_series_at_once(here, capsys):
    with pytest.raises(SystemExit):
        main([*words(), '--n_epoch_typo', '3'])
    assert 'unrecognized arguments: --n_epoch_typo' in capsys.readouterr().err


@pytest.mark.parametrize(('metric', 'scores', 'best'), [
    ('bacc', {'a': [.5, .7], 'b': [.6, .7]}, 'b'), ('bacc', {'a': [.6, .6], 'b': [.7, .5]}, 'a'),
    ('loss', {'a': [.5, .7], 'b': [.6, .7]}, 'a'),
    ('bacc', {'a': [float('nan'), 1.], 'b': [.1, .1]}, 'b')])
def test_the_choice(metric, scores, best):
    assert choose_method(scores, metric) == best
