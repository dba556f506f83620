"""The study of methods, and the stages `study` and `decode` of benchmarks/gpu_check.sh, at small sizes on the CPU."""
import io
import json
import os
import signal

import pandas as pd
import pytest
from PIL import Image

from benchmarks import study as studies
from benchmarks.gpu import decode
from benchmarks.gpu import study as study_stage
from benchmarks.gpu.checks import Skip, Stage
from utils.common import InputError


def run(module, out):
    """Run the stage in `module` at small sizes. -> {name of the check: its entry in the JSON file}"""
    stage = Stage('stage', str(out), True, 60, str(out / 'data'), io.StringIO())
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
    return json.loads((out / 'study' / 'experiments' / 'study' / name / 'seed0' / 'config.cfg').read_text())


def test_each_method_is_tested(done):
    assert statuses(done[1]) == dict.fromkeys(['study data', 'study CE, seed 0', 'study CE, BSCE, seed 0', 'study table'], 'PASS')


def test_the_result_tells_how_the_epoch_was_chosen(done):
    assert done[1]['study CE, seed 0']['figure'].endswith('of 3, chosen on the validation set)')


def test_the_initial_weights_come_from_the_file(done):
    assert config(done[0], 'CE')['initial_weights'] == f'ham10000/{study_stage.WEIGHTS}, but a new last layer'


def test_fine_tuning_in_stage_two_uses_a_quarter_of_the_learning_rate(done):
    assert (config(done[0], 'CE')['lr'], config(done[0], 'CE_BSCE')['lr']) == (.001, .00025)


def test_two_stages_together_have_as_many_epochs_as_one(done):
    assert [config(done[0], name)['n_epochs'] for name in ('CE', 'stage_one/CE', 'CE_BSCE')] == [3, 2, 1]


def test_the_csv_has_a_row_for_each_method_and_seed(done):
    assert pd.read_csv(done[0] / 'study.csv')[['method', 'seed']].to_numpy().tolist() == [['CE', 0], ['CE, BSCE', 0]]


def test_a_group_without_classes_has_no_recall(done):
    text = (done[0] / 'study.md').read_text()  # 20, 10 and 5 training images: no class has more than 100
    column = [cell.strip() for cell in text.split('\n| ')[1].split('|')].index('recall, many')
    assert [row.split('|')[column].strip() for row in text.split('\n| ')[2:4]] == ['-', '-'] and 'nan' not in text


def test_a_second_call_repeats_no_run(done, monkeypatch):
    monkeypatch.setattr(studies, 'SCRIPTS', {})
    again = run(study_stage, done[0])
    assert {name: (check['status'], check['figure']) for name, check in again.items()} == {
        name: (check['status'], check['figure']) for name, check in done[1].items()}


def test_a_stopped_study_is_resumed(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(studies.SCRIPTS, 'train_lt_mxp.py', lambda flags: signal.raise_signal(signal.SIGTERM))
        stopped = run(study_stage, tmp_path)
    assert statuses(stopped) == {'study data': 'PASS', 'study CE, seed 0': 'SKIP', 'study table': 'SKIP', 'study': 'SKIP'}
    assert set(statuses(run(study_stage, tmp_path)).values()) == {'PASS'}


@pytest.mark.parametrize('state', ['last', 'interrupted'])
def test_an_interrupted_run_is_resumed(tiny, tmp_path, monkeypatch, state):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'experiments' / 'study' / 'a' / state).mkdir(parents=True)
    calls, study = [], tiny_study(tiny, '--test test.csv')
    monkeypatch.setattr(study, 'call', lambda *words: calls.append(words))
    for name in ('a', 'b'):
        study.train(name, 1)
    assert [words[-1] for words in calls] == ['--resume', '--overwrite']


def test_a_skip_names_missing_files(tmp_path, monkeypatch):
    (tmp_path / 'ham10000').mkdir()
    for name in ('images.zip', 'train_ham.csv', 'val_ham.csv', 'test_ham.csv'):
        (tmp_path / 'ham10000' / name).touch()
    monkeypatch.setenv('LT_REAL_DATA', str(tmp_path))
    with pytest.raises(Skip, match=f'has no weights/{study_stage.WEIGHTS}$'):
        study_stage.real_data()


def test_a_skip_names_the_variable_that_is_not_set(monkeypatch):
    monkeypatch.delenv('LT_REAL_DATA', raising=False)
    with pytest.raises(Skip, match='LT_REAL_DATA is not set'):
        study_stage.real_data()


def tiny_study(tiny, flags=''):
    return studies.Study(studies.get_parser().parse_args(f'--data {tiny} --train train.csv --val val.csv {flags}'.split()))


def test_a_test_csv_is_used_unchanged(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = tiny_study(tiny, '--test test.csv')
    assert (study.val, study.test) == (f'{tiny}/val.csv', f'{tiny}/test.csv')


def test_without_a_test_csv_the_rest_of_the_pool_is_the_test_set(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tables = [pd.read_csv(tiny / f'{split}.csv') for split in ('train', 'val', 'test')]
    pool = tmp_path / 'pool.csv'
    pd.concat(tables).to_csv(pool, index=False)
    study = tiny_study(tiny, f'--pool {pool}')
    assert sorted(pd.read_csv(study.test).image_id) == sorted(tables[2].image_id)


def test_test_and_pool_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        studies.get_parser().parse_args(['--data', 'a', '--test', 'b.csv', '--pool', 'c.csv'])
    assert '--pool: not allowed with argument --test' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['train', 'val', 'test'])
def test_a_missing_csv_ends_a_study_before_the_first_training(tiny, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r'no such csv: .*nowhere\.csv'):
        tiny_study(tiny, f'--test test.csv --{name} nowhere.csv')


def test_results_from_other_flags_are_an_error(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_study(tiny, '--test test.csv')
    with pytest.raises(InputError, match=r'results/study was made with --lr 0\.002: '):
        tiny_study(tiny, '--test test.csv --lr 0.001')


def test_an_error_of_a_run_names_its_log(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r'^train_lt_mxp\.py failed, see results/study/CE/seed0/train\.log: no such weights file'):
        tiny_study(tiny, '--test test.csv --init nowhere').predictions('CE', 0)


def test_the_predictions_csv_is_moved_last(tiny, tmp_path, monkeypatch):
    """A method counts as done if its predictions csv exists, so all other files must be in place by then."""
    monkeypatch.chdir(tmp_path)
    study = tiny_study(tiny, '--test test.csv')
    run = tmp_path / 'experiments' / 'study' / 'CE' / 'seed0'
    tested = tmp_path / 'results' / 'study' / 'CE' / 'seed0' / 'tested' / 'study' / 'CE' / 'seed0'
    for folder, names in ((run, ['log.jsonl']), (tested, ['performance_test.txt', 'results_test.csv', 'results_test.json'])):
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).touch()
    monkeypatch.setattr(study, 'train_method', lambda method, seed: ('experiments/study/CE/seed0', []))
    monkeypatch.setattr(study, 'call', lambda *words: None)
    moved, replace = [], os.replace
    monkeypatch.setattr(os, 'replace', lambda source, target: (moved.append(os.path.basename(target)), replace(source, target)))
    csv = study.predictions('CE', 0)
    assert len(moved) == 3 and moved[-1] == 'results_test.csv' and os.path.isfile(csv)


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
