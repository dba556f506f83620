"""The study of methods, and the stages `study` and `decode` of benchmarks/gpu_check.sh, at small sizes on the CPU."""
import io
import itertools
import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks import study as studies
from benchmarks import study_runner
from benchmarks.gpu import decode
from benchmarks.gpu import study as study_stage
from benchmarks.gpu.checks import Skip, Stage
from benchmarks.study_methods import METHODS, NO_METHOD, ONE_STAGE, PRETRAINED, TWO_STAGE, slug_of
from benchmarks.study_sets import SPLITS
from tests.factories import write_images
from train_lt_mxp import get_parser as get_train_parser
from utils.common import InputError, Interrupted
from utils.training.flags import resolve
from utils.training.recipes import RECIPES

RECORD = {'epoch': 1, 'lr': .1, 'train': {}, 'val': {'bacc': .5, 'mcc': .4, 'kappa': .3, 'auc': .8, 'loss': 1.}, 'seconds': 2.,
          'images_per_second': 10.}


# The stage `study`

def run(module, out):
    """Run the stage in `module` at small sizes. -> {name of the check: its entry in the JSON file}"""
    stage = Stage('stage', str(out), True, 3600, str(out / 'data'), io.StringIO())
    module.run(stage)
    return {check['name']: check for check in json.loads((out / 'stage.json').read_text())['checks']}


def statuses(checks):
    return {name: check['status'] for name, check in checks.items()}


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    """Run a toy study. -> its folder, its checks"""
    out = tmp_path_factory.mktemp('study')
    return out, run(study_stage, out)


def config(out, name):
    return json.loads((out / 'study' / 'experiments' / 'study' / 'ham' / name / 'seed0' / 'config.cfg').read_text())


def test_each_method_is_tested(done):
    assert statuses(done[1]) == dict.fromkeys(['study data', 'study ham, CE, seed 0', 'study ham, CE, BSCE, seed 0', 'study table'], 'PASS')


def test_the_result_tells_how_the_epoch_was_chosen(done):
    assert done[1]['study ham, CE, seed 0']['figure'].endswith(', chosen on the validation set)')


def test_the_initial_weights_come_from_the_file(done):
    assert config(done[0], 'CE')['initial_weights'] == f'{study_stage.WEIGHTS}, but a new last layer'


def test_fine_tuning_in_stage_two_uses_a_quarter_of_the_learning_rate(done):
    assert (config(done[0], 'CE')['lr'], config(done[0], 'CE_BSCE')['lr']) == (.001, .00025)


def test_two_stages_together_have_as_many_epochs_as_one(done):
    assert [config(done[0], name)['n_epochs'] for name in ('CE', 'stage_one/CE', 'CE_BSCE')] == [3, 2, 1]


def test_the_csv_has_a_row_for_each_method_and_seed(done):
    table = pd.read_csv(done[0] / 'study.csv')
    assert table[['set', 'method', 'seed']].to_numpy().tolist() == [['ham', 'CE', 0], ['ham', 'CE, BSCE', 0]]


def test_a_group_without_classes_is_no_column(done):
    text = (done[0] / 'study.md').read_text()  # 20, 10 and 5 training images: no class has more than 100
    assert 'recall, few' in text and 'recall, many' not in text and 'nan' not in text


def test_a_second_call_repeats_no_run(done, monkeypatch):
    monkeypatch.setattr(study_runner, 'SCRIPTS', {})
    again = run(study_stage, done[0])
    assert {name: (check['status'], check['figure']) for name, check in again.items()} == {
        name: (check['status'], check['figure']) for name, check in done[1].items()}


def test_a_stopped_study_is_resumed(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(study_runner.SCRIPTS, 'train_lt_mxp.py', lambda flags: signal.raise_signal(signal.SIGTERM))
        stopped = run(study_stage, tmp_path)
    assert statuses(stopped) == {'study data': 'PASS', 'study ham, CE, seed 0': 'SKIP', 'study table': 'SKIP', 'study': 'SKIP'}
    assert set(statuses(run(study_stage, tmp_path)).values()) == {'PASS'}


def test_a_skip_names_the_missing_weights(tmp_path, monkeypatch):
    monkeypatch.setenv('LT_REAL_DATA', str(tmp_path))
    with pytest.raises(Skip, match=f'has no weights/{study_stage.WEIGHTS}$'):
        study_stage.real_data()


def test_a_skip_names_the_variable_that_is_not_set(monkeypatch):
    monkeypatch.delenv('LT_REAL_DATA', raising=False)
    with pytest.raises(Skip, match='LT_REAL_DATA is not set'):
        study_stage.real_data()


# Methods

def method_of(words):
    """-> the settings of the method in a command line of the train script"""
    args = vars(resolve(get_train_parser().parse_args(['--pretrained_weights', 'stage_one', *words])))
    names = ['sampling', 'loss_fn', 'loss_params', 'mixing', 'mixup_off_epochs', 'defer', 'trainable']
    return {name: args[name] for name in names} | {'mix_alpha': args['mix_alpha'] if args['mixing'] != 'none' else None}


@pytest.mark.parametrize('recipe', RECIPES)
def test_a_recipe_does_not_rebalance_plain_training(recipe):
    assert method_of(['--recipe', recipe, *NO_METHOD.split()]) == method_of([])


@pytest.mark.parametrize('method', [*ONE_STAGE, *TWO_STAGE])
def test_the_flags_of_a_method_win_over_those_of_the_recipe(method):
    flags = re.sub(r'--variant \w+', '', (ONE_STAGE | TWO_STAGE)[method].format(fine_tuning=.001)).split()
    assert method_of(['--recipe', 'balanced', *NO_METHOD.split(), *flags]) == method_of(flags)


def test_each_method_has_a_folder_of_its_own():
    assert len({slug_of(method) for method in METHODS}) == len(METHODS)


def test_the_pretrained_study_has_fifteen_methods():
    assert len(set(PRETRAINED) & set(METHODS)) == len(PRETRAINED) == 15


# The study. Most of its tests replace the scripts by fakes.

class FakeScripts:
    """Replaces `Runner.call`: writes the files of a training or of a test in a moment, and records the calls.

    `trained`: names of the runs, in order. `rows`: rows of the table at the start of each training. `failing`: runs that fail.
    """

    def __init__(self, failing=()):
        self.trained, self.tested, self.rows, self.failing = [], [], [], failing

    def call(self, log, script, *flags):
        value = dict(itertools.pairwise(flags))
        if script == 'train_lt_mxp.py':
            name = value['--save_path'].removeprefix('study/')
            self.trained.append(name)
            table = Path('results/study/study.csv')
            self.rows.append(len(pd.read_csv(table)) if table.exists() else 0)
            if name in self.failing:
                raise InputError(f'{script} failed, see {log}: no memory')
            write(Path('experiments', value['--save_path'], 'log.jsonl'), json.dumps(RECORD) + '\n')
            write(Path('experiments', value['--save_path'], 'val_metrics.txt'), '')
        else:
            self.tested.append(flags)
            results = Path(value['--results_path'], os.path.relpath(value['--load_path'], 'experiments'))
            write(results / 'results_test.csv', predictions())
            write(results / 'results_test.json', json.dumps({'checkpoint': {'epoch': 1}}))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def predictions(n=12, k=3):
    """-> text of a predictions csv with random probabilities"""
    rng, y = np.random.default_rng(0), np.arange(n) % k
    table = pd.DataFrame(rng.dirichlet(np.ones(k), n), columns=[f'p_class{c}' for c in range(k)])
    return table.assign(image_id=[f'i{i}' for i in range(n)], label=y, pred=table.to_numpy().argmax(axis=1)).to_csv(index=False)


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """Replace the scripts of all studies by `FakeScripts`, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    scripts = FakeScripts()
    monkeypatch.setattr(study_runner.Runner, 'call', lambda self, *words: scripts.call(*words))
    return scripts


def table():
    return pd.read_csv('results/study/study.csv')


def study_main(tiny, *words):
    studies.main([str(tiny), '--model_name', 'tiny_test', '--im_size', '32', '--init', 'none', '--seeds', '0', *words])


def tiny_study(tiny, *words):
    return studies.Study(studies.get_parser().parse_args([str(tiny), *words]))


@pytest.mark.parametrize('jobs', ['1', '3'])
def test_methods_share_their_stage_one(tiny, fakes, jobs):
    study_main(tiny, '--methods', 'CE, cRT', 'CE, LWS', 'CE, BSCE', '--jobs', jobs)
    assert sorted(fakes.trained) == sorted(f'{tiny.name}/{name}/seed0' for name in ('stage_one/CE', 'CE_cRT', 'CE_LWS', 'CE_BSCE'))


@pytest.mark.parametrize('jobs', ['1', '3'])
def test_a_post_hoc_method_shares_the_training_of_its_network(tiny, fakes, jobs):
    study_main(tiny, '--methods', 'CE + logit adjustment', 'CE', '--jobs', jobs)
    assert fakes.trained == [f'{tiny.name}/CE/seed0'] and ['--logit_adjust' in flags for flags in fakes.tested] == [True, False]


def test_seeds_come_first_then_sets_by_size_then_methods(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = write_images(tmp_path / 'small', {'train': (4, 2), 'val': (2, 2), 'test': (2, 2)})
    study = tiny_study(tiny, str(small), '--methods', 'CE', 'BSCE', '--seeds', '5', '1')
    assert [str(task) for task in study.tasks] == [
        f'{data}, {method}, seed {seed}' for seed in (5, 1) for data in ('small', tiny.name) for method in ('CE', 'BSCE')]


def test_each_finished_run_adds_its_row_at_once(tiny, fakes):
    study_main(tiny, '--methods', 'CE', 'BSCE', 'CDT')
    assert fakes.rows == [0, 1, 2] and len(table()) == 3


def test_a_row_tells_the_training_time(tiny, fakes):
    study_main(tiny, '--methods', 'CE')
    assert table()[['epoch', 'seconds', 'images_per_second']].to_numpy().tolist() == [[1, 2, 10]]


def test_a_row_has_the_validation_scores_of_the_tested_epoch(tiny, fakes):
    study_main(tiny, '--methods', 'CE')
    assert table()[['val_bacc', 'val_mcc', 'val_kappa', 'val_auc']].to_numpy().tolist() == [[.5, .4, .3, .8]]


def test_the_same_command_repeats_nothing(tiny, fakes):
    for _ in range(2):
        study_main(tiny, '--methods', 'CE', 'CE, cRT')
    assert len(fakes.trained) == 3 and len(fakes.tested) == 2 and len(table()) == 2


def test_more_methods_and_seeds_add_rows(tiny, fakes):
    study_main(tiny, '--methods', 'CE')
    study_main(tiny, '--methods', 'BSCE', '--seeds', '0', '1', '--jobs', '2')
    assert table()[['method', 'seed']].to_numpy().tolist() == [['BSCE', 0], ['BSCE', 1], ['CE', 0]]


def test_a_lost_table_is_written_again(tiny, fakes):
    study_main(tiny, '--methods', 'CE', 'BSCE')
    before = table()
    os.remove('results/study/study.csv')
    study_main(tiny, '--methods', 'CE', 'BSCE')
    pd.testing.assert_frame_equal(table(), before)


@pytest.mark.parametrize('jobs', ['1', '2'])
def test_other_runs_go_on_after_a_failure(tiny, fakes, jobs, capsys):
    fakes.failing = [f'{tiny.name}/BSCE/seed0']
    with pytest.raises(InputError) as error:
        study_main(tiny, '--methods', 'CE', 'BSCE', 'CDT', '--jobs', jobs)
    line = f'{tiny.name}, BSCE, seed 0: train_lt_mxp.py failed, see results/study/{tiny.name}/BSCE/seed0/train.log: no memory'
    assert str(error.value) == f'1 of 3 runs failed:\n{line}'
    assert line in capsys.readouterr().out and sorted(table().method) == ['CDT', 'CE']


def test_a_stage_one_that_failed_is_not_repeated(tiny, fakes):
    fakes.failing = [f'{tiny.name}/stage_one/CE/seed0']
    with pytest.raises(InputError, match='2 of 2 runs failed'):
        study_main(tiny, '--methods', 'CE, cRT', 'CE, LWS')
    assert len(fakes.trained) == 1


def test_a_sigterm_lets_parallel_runs_save_their_state(tiny, tmp_path, monkeypatch):
    """The fake train script sends SIGTERM to the study, and then waits for its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study_runner, 'ROOT', str(tmp_path))
    write(tmp_path / 'train_lt_mxp.py', "import os, signal, sys\n"
          "def stop(*args):\n    open('saved', 'w')\n    sys.exit(143)\n"
          "signal.signal(signal.SIGTERM, stop)\nos.kill(os.getppid(), signal.SIGTERM)\nsignal.pause()\n")
    with pytest.raises(Interrupted) as stop:
        study_main(tiny, '--methods', 'CE', '--jobs', '2')
    assert (tmp_path / 'saved').exists() and stop.value.saved == ': run the same command to resume'


@pytest.mark.parametrize('state', ['last', 'interrupted'])
def test_an_interrupted_run_is_resumed(tiny, tmp_path, monkeypatch, state):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'experiments' / 'study' / 'a' / state).mkdir(parents=True)
    calls, study = [], tiny_study(tiny)
    monkeypatch.setattr(study.runner, 'call', lambda *words: calls.append(words))
    for name in ('a', 'b'):
        study.train(study.tasks[0].data, studies.Training(name, 1, []))
    assert [words[-1] for words in calls] == ['--resume', '--overwrite']


def test_results_from_other_flags_are_an_error(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_study(tiny)
    with pytest.raises(InputError, match=r'results/study was made with --lr 0\.001: '):
        tiny_study(tiny, '--lr', '0.002')


@pytest.mark.parametrize('split', SPLITS)
def test_a_changed_csv_is_an_error(images, tmp_path, monkeypatch, split):
    """The labels are permuted, so each class has as many images as before."""
    monkeypatch.chdir(tmp_path)
    tiny_study(images)
    rows = pd.read_csv(images / f'{split}.csv')
    rows.assign(name=np.roll(rows.name, 1), label=np.roll(rows.label, 1)).to_csv(images / f'{split}.csv', index=False)
    with pytest.raises(InputError, match='results/study was made with other contents of set: restore them or use another --name'):
        tiny_study(images)


@pytest.mark.parametrize(('flag', 'value'), [('--init', 'weights.pth'), ('--model_name', 'net.py:build')])
def test_a_changed_file_of_weights_or_of_the_network_is_an_error(tiny, tmp_path, monkeypatch, flag, value):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / value.removesuffix(':build')
    file.write_text('old')
    tiny_study(tiny, flag, value)
    file.write_text('new')
    with pytest.raises(InputError, match=f'was made with other contents of {flag} {value}: '):
        tiny_study(tiny, flag, value)


def test_another_set_does_not_replace_the_record_of_the_first(images, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_study(images)
    tiny_study(tiny)
    write_images(images, {'val': (4, 2)})
    with pytest.raises(InputError, match='other contents of set: '):
        tiny_study(images)


def test_both_ways_to_write_a_size_are_the_same_setting(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tiny_study(tiny, '--im_size', '32').args.im_size == tiny_study(tiny, '--im_size', '32,32').args.im_size


def test_a_malformed_size_is_an_error(tiny, capsys):
    with pytest.raises(SystemExit):
        tiny_study(tiny, '--im_size', 'large')
    assert 'argument --im_size: expected one size or height,width in pixels' in capsys.readouterr().err


def test_settings_of_an_older_version_are_an_error(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / 'results' / 'study' / 'settings.json', '{"sets": {}}')
    with pytest.raises(InputError, match=r'settings\.json is of an older version'):
        tiny_study(tiny)


def test_two_sets_of_the_same_name_are_an_error(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match='two sets have the same name'):
        tiny_study(tiny, f'{tiny}/')


def test_an_error_of_a_run_names_its_log(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = f'results/study/{tiny.name}/CE/seed0/train.log'
    study = tiny_study(tiny, '--model_name', 'tiny_test', '--init', 'nowhere')
    with pytest.raises(InputError, match=rf'^train_lt_mxp\.py failed, see {log}: no such weights file'):
        study.run(study.tasks[0])


def test_the_predictions_csv_is_moved_last(tiny, tmp_path, monkeypatch):
    """A method counts as done if its predictions csv exists, so all other files must be in place by then."""
    monkeypatch.chdir(tmp_path)
    study, name = tiny_study(tiny), f'{tiny.name}/CE/seed0'
    run, tested = Path('experiments/study', name), Path('results/study', name, 'tested/study', name)
    for folder, files in ((run, ['log.jsonl']), (tested, ['performance_test.txt', 'results_test.csv', 'results_test.json'])):
        for file in files:
            write(folder / file, '')
    monkeypatch.setattr(study.runner, 'call', lambda *words: None)
    moved, replace = [], os.replace
    monkeypatch.setattr(os, 'replace', lambda source, target: (moved.append(os.path.basename(target)), replace(source, target)))
    study.test(study.tasks[0], str(run))
    assert len(moved) == 3 and moved[-1] == 'results_test.csv' and os.path.isfile(study.csv_of(study.tasks[0]))


# Scripts in processes of their own

@pytest.fixture
def script(tmp_path, monkeypatch):
    """Write a script. -> call it with a `Runner` of two jobs, and return its log"""
    monkeypatch.setattr(study_runner, 'ROOT', str(tmp_path))

    def call(code):
        write(tmp_path / 's.py', code)
        study_runner.Runner(2).call(str(tmp_path / 'log'), 's.py', '--flag')
        return (tmp_path / 'log').read_text()
    return call


def test_parallel_runs_use_one_thread_each(script, monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS')
    assert script("import os, sys; print(os.environ['OMP_NUM_THREADS'], sys.argv[1])") == '1 --flag\n'


def test_the_error_of_a_parallel_run_is_the_last_line_of_its_log(script):
    with pytest.raises(InputError, match=r's\.py failed, see .*log: no such csv$'):
        script("import sys; print('* Loading'); sys.exit('error: no such csv\\n  hint')")


def test_a_parallel_run_without_output_fails_with_its_status(script):
    with pytest.raises(InputError, match='exit status 3'):
        script('import sys; sys.exit(3)')


def test_a_task_waits_for_the_training_that_it_shares():
    queue = study_runner.Queue([('a', 'x'), ('b', 'x'), ('c', 'y')])
    assert [queue.take()[0], queue.take()[0]] == ['a', 'c']
    queue.release('x')
    assert queue.take() == ('b', 'x') and queue.take() is None


# The stage `decode`

@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Run the toy stage `decode` with synthetic photographs. -> its folder, its checks"""
    monkeypatch.delenv('LT_REAL_DATA', raising=False)
    return tmp_path, run(decode, tmp_path)


def test_photographs_are_decoded_with_one_core(drawn):
    check = drawn[1]['decode 1 core']
    assert (check['status'], check['photographs']) == ('PASS', 'drawn')


def test_the_photographs_are_removed(drawn):
    assert list((drawn[0] / 'data').iterdir()) == []


def test_the_time_for_eyepacs_follows_from_the_rate(drawn):
    check = drawn[1]['decode 1 core']
    assert check['eyepacs_minutes'] == pytest.approx(35_126 / check['images_per_second'] / 60)


def test_more_cores_are_compared_with_one(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, 'n_cores', lambda: 3)
    checks = run(decode, tmp_path)
    one, three = checks['decode 1 core'], checks['decode 3 cores']
    assert three['times_one_core'] == pytest.approx(three['images_per_second'] / one['images_per_second'])
    assert three['n_images'] == 3 * one['n_images']


def test_real_photographs_are_preferred(tmp_path, monkeypatch):
    (tmp_path / 'eyepacs_sample').mkdir()
    Image.new('RGB', (60, 40)).save(tmp_path / 'eyepacs_sample' / '10_left.jpeg')
    monkeypatch.setenv('LT_REAL_DATA', str(tmp_path))
    assert run(decode, tmp_path)['decode 1 core']['photographs'] == 'EyePACS'


def test_a_full_disk_is_a_skip(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, 'use_cache', lambda *args: 0)
    check = run(decode, tmp_path)['decode 1 core']
    assert check['status'] == 'SKIP' and 'no room' in check['figure']
