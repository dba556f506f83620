"""benchmarks/gpu_check.sh at small sizes on the CPU: every stage runs, and its results are saved."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import summary
from benchmarks.gpu.checks import Found, Skip, Stage
from benchmarks.gpu.compile import pay_off, verdict
from benchmarks.gpu.data import SETS, TOY_SETS, write_set
from benchmarks.gpu.fast import AIMS, LARGE, beside_the_network
from benchmarks.gpu.training import observed
from benchmarks.gpu.whole import projection
from tests.factories import ROOT
from utils.common import InputError, Interrupted
from utils.data.image_cache import SPARE
from utils.datasets.demo import counts_of
from utils.training.placement import Trial

LINE = re.compile(r'(PASS|FAIL|SKIP) (.+?): (.+)')
PARTS = {'data': 'data eyepacs', 'device data': 'mobilenetV2 b64 plain, device data', 'host data': 'resnext50 b8 Balanced-MixUp, host data',
         'evaluation': 'mobilenetV2 b64 evaluation, host data', 'whole run': '30 epochs, projected', 'compile': 'mobilenetV2 b64 --compile'}


@pytest.fixture(scope='module')
def checked(tmp_path_factory):
    """Run the script with --cpu. -> the finished process, its output folder"""
    folder = tmp_path_factory.mktemp('gpu_check')
    out, data, temporary = folder / 'an out', folder / 'the data', folder / 'tmp'
    temporary.mkdir()
    done = subprocess.run(['bash', 'benchmarks/gpu_check.sh', '--cpu', '--out', out, '--data', data], cwd=ROOT, capture_output=True,
                          text=True, env=os.environ | {'TMPDIR': str(temporary), 'VIRTUAL_ENV': sys.prefix})
    return done, out


def found(checked):
    """-> {name: (status, figure)} of the lines that the script printed"""
    return {name: (status, figure) for status, name, figure in map(re.Match.groups, filter(None, map(LINE.fullmatch,
            checked[0].stdout.splitlines())))}


def test_no_check_fails(checked):
    done, _ = checked
    assert done.returncode == 0 and 'FAIL' not in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize('part', PARTS)
def test_each_part_is_among_the_checks(checked, part):
    assert PARTS[part] in found(checked)


def test_device_data_are_in_gpu_memory(checked):
    result = json.loads((checked[1] / 'cpu_toy.json').read_text())
    places = {check['name']: check['images_in'] for check in result['fast'] if 'images_in' in check}
    assert places['mobilenetV2 b64 training, device data'] == places['one epoch of EyePACS'] == 'GPU memory'
    assert places['mobilenetV2 b64 training, host data'] == 'host memory'


def test_a_training_step_is_among_the_checks(checked):
    assert any('training step' in name for name in found(checked))


def test_photographs_are_decoded(checked):
    assert any(name.startswith('decode ') for name in found(checked))


def test_no_temporary_files_are_left(checked):
    _, out = checked
    assert not [*(out.parent / 'tmp').iterdir(), *(out.parent / 'the data').iterdir(), *(path for path in out.iterdir() if path.is_dir())]


def test_all_results_are_in_one_file(checked):
    result = json.loads((checked[1] / 'cpu_toy.json').read_text())
    assert result['toy'] and set(summary.STAGES) <= set(result)


def test_the_tables_have_a_row_for_each_network(checked):
    text = (checked[1] / 'table.md').read_text()
    assert len(re.findall(r'^\| (mobilenetV2|resnext50), (64|8) ', text, re.M)) == 2 * 2  # speed, memory


def test_without_a_gpu_the_error_suggests_a_flag(tmp_path):
    done = subprocess.run(['bash', 'benchmarks/gpu_check.sh', '--out', tmp_path], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | {'CUDA_VISIBLE_DEVICES': '', 'VIRTUAL_ENV': sys.prefix})
    assert done.returncode == 1
    assert done.stderr.startswith('error: PyTorch') and '--cpu' in done.stderr and done.stderr.count('\n') == 1


def test_an_unknown_flag_is_named():
    done = subprocess.run(['bash', 'benchmarks/gpu_check.sh', '--gpu'], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, 'error: unknown flag --gpu (bash benchmarks/gpu_check.sh --help)\n')


@pytest.fixture
def stage(tmp_path):
    return Stage('one', str(tmp_path), True, 60, str(tmp_path / 'data'))


def disk_with(monkeypatch, free):
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: SimpleNamespace(free=free))


def test_a_full_disk_is_reported_with_all_that_is_needed(stage, monkeypatch):
    disk_with(monkeypatch, SPARE)
    with pytest.raises(Skip, match=r'needs 2\.0 MB and 1\.1 GB to spare, but .* has 1\.1 GB free: choose another folder with --data'):
        write_set(stage, 'b8', SETS['b8'])


def test_disk_with_little_more_than_the_spare_bytes_is_enough(stage, monkeypatch):
    disk_with(monkeypatch, SPARE + (1 << 20))
    assert write_set(stage, 'b8', TOY_SETS['b8']).values['n_images'] >= 16


def outcome(stage, function, **options):
    """Run a check. -> its entry in the JSON file"""
    stage.check('name', function, **options)
    return json.loads((Path(stage.out) / 'one.json').read_text())['checks'][-1]


def fail(error):
    def check():
        raise error
    return check


def test_a_result_is_saved_with_its_values(stage):
    check = outcome(stage, lambda: Found('4 images/s', {'rate': 4.}))
    assert (check['status'], check['figure'], check['rate']) == ('PASS', '4 images/s', 4)


def test_a_missed_aim_is_a_failure(stage):
    assert outcome(stage, lambda: Found('4 images/s', ok=False))['status'] == 'FAIL' and stage.failed


def test_an_exception_is_a_failure_with_its_first_line(stage):
    check = outcome(stage, fail(RuntimeError('broken\nin two')))
    assert (check['status'], check['figure']) == ('FAIL', 'RuntimeError: broken') and stage.failed


def test_a_skip_is_not_a_failure(stage):
    check = outcome(stage, fail(Skip('no data')))
    assert (check['status'], check['figure']) == ('SKIP', 'no data') and not stage.failed


def test_full_gpu_memory_is_a_skip(stage):
    assert outcome(stage, fail(torch.OutOfMemoryError('CUDA out of memory')))['status'] == 'SKIP'


def test_full_gpu_memory_in_training_is_a_skip(stage):
    def train():
        try:
            raise torch.OutOfMemoryError('CUDA out of memory')
        except torch.OutOfMemoryError as err:
            raise InputError('GPU memory is full: use a smaller --batch_size') from err
    assert outcome(stage, train)['status'] == 'SKIP'


def test_a_signal_ends_the_stage_and_names_the_check(stage):
    with pytest.raises(Interrupted):
        stage.check('name', fail(Interrupted(signal.SIGTERM)))
    assert [(check['name'], check['status']) for check in stage.checks] == [('name', 'SKIP')]


def test_a_check_that_needs_too_much_time_is_skipped(stage):
    check = outcome(stage, fail(AssertionError('was called')), needs=100)
    assert check['status'] == 'SKIP' and check['figure'].startswith('needs about 100 s, ')


def test_earlier_checks_stay_in_the_file(stage):
    stage.check('first', lambda: Found(''))
    outcome(stage, fail(ValueError()))
    assert [check['name'] for check in json.loads((Path(stage.out) / 'one.json').read_text())['checks']] == ['first', 'name']


@pytest.mark.parametrize('device, slug', [('NVIDIA H200', 'gpu_h200'), ('NVIDIA H100 80GB HBM3', 'gpu_h100_80gb_hbm3'),
                                          ('NVIDIA A100-SXM4-40GB', 'gpu_a100_sxm4_40gb')])
def test_the_file_is_named_after_the_card(device, slug):
    assert summary.slug_of(device, toy=False) == slug


def test_the_table_shows_a_failed_check():
    checks = [{'name': 'a b8 network alone', 'status': 'PASS', 'images_per_second': 1000.},
              {'name': 'a b8 plain, device data', 'status': 'PASS', 'images_per_second': 900., 'ratio': .9},
              {'name': 'a b8 plain, host data', 'status': 'FAIL', 'figure': 'RuntimeError: broken'}]
    row = summary.speed_table({'fast': {'checks': checks}}).splitlines()[2]
    assert [cell.strip() for cell in row.split('|')[1:6]] == ['a, 8', '1,000', '900 (0.90)', 'FAIL', '-']


def test_the_table_of_memory_shows_what_was_measured():
    checks = [{'name': 'a b8 network alone', 'status': 'PASS', 'images_per_second': 1000.},
              {'name': 'a b8 training, device data', 'status': 'PASS', 'step_gb': 13.66, 'step_mb_per_image': 213.4,
               'eval_batch_size': 256}]
    row = summary.memory_table({'fast': {'checks': checks}}).splitlines()[2]
    assert [cell.strip() for cell in row.split('|')[1:-1]] == ['a, 8', '13.7', '213', '-', '256', '-', '-']


def test_the_table_names_failed_tests():
    checks = [{'name': 'one', 'status': 'PASS', 'figure': ''}, {'name': 'two', 'status': 'FAIL', 'figure': '1 != 2'}]
    text = summary.other_table({'correct': {'checks': checks}})
    assert '1 PASS, 1 FAIL' in text and 'FAIL: 1 != 2' in text


def test_a_projection_counts_the_start_once():
    assert projection(start_s=60, epoch_s=10).values['minutes'] == pytest.approx(6)


@pytest.mark.parametrize(('key', 'aim'), {('plain', 'device data'): .9, ('Balanced-MixUp', 'device data'): .85,
                                          ('plain', 'host data'): .75, ('Balanced-MixUp', 'host data'): .75}.items())
@pytest.mark.parametrize('aimed_at', [True, False])
def test_a_missed_aim_fails_only_on_the_cards_it_is_for(monkeypatch, key, aim, aimed_at):
    monkeypatch.setattr('benchmarks.gpu.fast.aimed_at', lambda: aimed_at)
    results = [beside_the_network({'alone': 100., key: 100 * aim + change}, key).ok for change in (.1, -.1)]
    assert AIMS[key] == aim and results == [True, not aimed_at]


def test_compiling_that_saves_time_pays_after_some_epochs():
    n_images = 31_613
    values = pay_off(extra=60., rate=n_images / 20, plain=n_images / 25)  # saves 5 s per epoch
    assert values == {'break_even_epochs': pytest.approx(12), 'pays': True, 'minutes_saved': pytest.approx((30 * 5 - 60) / 60)}


@pytest.mark.parametrize(('extra', 'rate', 'pays'), [(149., 1250, True), (200., 1250, False), (60., 1000, False), (0., 900, False)])
def test_compiling_pays_if_thirty_epochs_get_shorter(extra, rate, pays):
    values = pay_off(extra, rate, plain=1000)
    assert values['pays'] == pays == (values['minutes_saved'] > 0)


def test_the_verdict_on_compiling_says_when_it_pays_off():
    assert verdict(pay_off(60., 31_613 / 20, 31_613 / 25)) == 'pays for 30 epochs of EyePACS (+1.5 min; pays off after 12.0 epochs)'
    assert verdict(pay_off(60., 900, 1000)) == 'does not pay for 30 epochs of EyePACS (-2.8 min; pays off never)'


@pytest.mark.parametrize('evaluation', [.6, .3])  # memory of an evaluation batch as a share of that of a training step
def test_the_warm_up_has_the_batch_sizes_of_eyepacs(evaluation):
    size = Trial(0, 0, step=100, evaluation=int(100 * evaluation)).eval_batch_size(LARGE[0].batch_size)

    def sizes(name):
        n_train, n_val = (sum(counts_of(n)) for n in SETS[name])
        return {size if n_val >= size else n_val, n_val % size}, n_train >= n_val
    assert sizes('warm') == sizes('eyepacs') == ({size, SETS['eyepacs'].n_val % size}, True)


def test_observing_restores_the_function():
    before = json.dumps
    with observed(json, 'dumps') as calls:
        assert json.dumps([1]) == '[1]'
    assert [call.result for call in calls] == ['[1]'] and json.dumps is before
