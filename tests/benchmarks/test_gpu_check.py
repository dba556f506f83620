"""benchmarks/gpu_check.sh at small sizes on the CPU: every stage runs, and its results are saved."""
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import summary
from benchmarks.gpu.checks import Found, Skip, Stage
from benchmarks.gpu.whole import projection, timed
from tests.factories import ROOT
from utils.common import InputError, Interrupted

LINE = re.compile(r'(PASS|FAIL|SKIP) (.+?): (.+)')
STAGES = {'data': 'data eyepacs', 'fast': 'resnext50 b8 Balanced-MixUp', 'whole': '30 epochs, projected',
          'compile': 'mobilenetV2 b64 --compile'}


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


@pytest.mark.parametrize('stage', STAGES)
def test_each_stage_prints_its_checks(checked, stage):
    assert STAGES[stage] in found(checked)


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


def test_the_table_has_a_row_for_each_network(checked):
    text = (checked[1] / 'table.md').read_text()
    assert len(re.findall(r'^\| (mobilenetV2|resnext50), (64|8) ', text, re.M)) == 2


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


def test_a_signal_ends_the_stage(stage):
    with pytest.raises(Interrupted):
        outcome(stage, fail(Interrupted(signal.SIGTERM)))


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
              {'name': 'a b8 plain', 'status': 'PASS', 'images_per_second': 900., 'ratio': .9},
              {'name': 'a b8 Balanced-MixUp', 'status': 'FAIL', 'figure': 'RuntimeError: broken'}]
    assert summary.speed_table({'fast': {'checks': checks}}).splitlines()[2].split('|')[1:5] == [
        ' a, 8                ', '         1,000 ', ' 900 (0.90) ', '           FAIL ']


def test_the_table_names_failed_tests():
    checks = [{'name': 'one', 'status': 'PASS', 'figure': ''}, {'name': 'two', 'status': 'FAIL', 'figure': '1 != 2'}]
    text = summary.other_table({'correct': {'checks': checks}})
    assert '1 PASS, 1 FAIL' in text and 'FAIL: 1 != 2' in text


def test_a_projection_counts_the_start_once():
    assert projection(start_s=60, epoch_s=10).values['minutes'] == pytest.approx(6)


def test_timed_restores_the_function():
    before = json.dumps
    with timed(json, 'dumps') as seconds:
        assert json.dumps([1]) == '[1]'
    assert len(seconds) == 1 and json.dumps is before
