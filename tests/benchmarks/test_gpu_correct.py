"""The stage of benchmarks/gpu that runs tests/test_cuda.py, and the environment that hides the GPU from all other tests."""
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from benchmarks.gpu import correct
from tests.factories import ROOT


@pytest.mark.parametrize(('nodeid', 'name'), [
    ('tests/test_cuda.py::TestSteps::test_a_training_step_equals_the_cpus[BSCE, balanced_mixup]',
     "a training step equals the CPU's [BSCE, balanced_mixup]"),
    ('tests/test_cuda.py::TestRuns::test_bf16_learns', 'bf16 learns')])
def test_the_name_of_a_check_is_the_name_of_its_test_in_words(nodeid, name):
    assert correct.readable(nodeid) == name


TESTS = '''
import pytest

@pytest.fixture
def broken():
    yield
    raise OSError('at the end')

def test_passes(record_property):
    record_property('figure', 'largest difference 0')

def test_fails(record_property):
    record_property('figure', 'largest difference 3')
    raise ValueError('too large\\nby far')

def test_skips():
    pytest.skip('nothing to do')

def test_is_torn_down(broken):
    pass
'''


@pytest.fixture(scope='module', params=[[], ['-n', '1']], ids=['in one process', 'with pytest-xdist'])
def recorded(request, tmp_path_factory):
    """Run TESTS with a `Recorder`. -> (status, name, figure) of each record"""
    if request.param:
        pytest.importorskip('xdist')
    folder = tmp_path_factory.mktemp('stage')
    (folder / 'test_inner.py').write_text(TESTS)
    code = (f'import json, pytest; from types import SimpleNamespace; from benchmarks.gpu.correct import Recorder\n'
            f'stage = SimpleNamespace(record=lambda *args: print("recorded", json.dumps(args)))\n'
            f'pytest.main(["test_inner.py", *{request.param}], plugins=[Recorder(stage)])')
    done = subprocess.run([sys.executable, '-c', code], cwd=folder, capture_output=True, text=True,
                          env=os.environ | {'PYTHONPATH': str(ROOT)})
    records = [json.loads(line.partition('recorded ')[2]) for line in done.stdout.splitlines() if 'recorded ' in line]
    return [(status, name, figure) for status, name, figure, seconds in records]


@pytest.mark.parametrize('check', [('PASS', 'passes', 'largest difference 0'), ('SKIP', 'skips', 'nothing to do'),
                                   ('FAIL', 'fails', 'largest difference 3; ValueError: too large'),
                                   ('FAIL', 'is torn down', 'OSError: at the end')], ids=lambda check: check[1])
def test_each_test_is_recorded(recorded, check):
    assert check in recorded


def test_a_file_that_cannot_be_imported_is_a_failure():
    records = []
    report = SimpleNamespace(skipped=False, failed=True, longrepr='...', longreprtext="...\nE   ModuleNotFoundError: No module named 'x'")
    correct.Recorder(SimpleNamespace(record=lambda *args: records.append(args))).pytest_collectreport(report)
    assert records == [('FAIL', 'tests/test_cuda.py', "ModuleNotFoundError: No module named 'x'")]


def test_without_pytest_the_stage_is_skipped(monkeypatch):
    records = []
    monkeypatch.setattr(correct, 'find_spec', lambda name: None)
    correct.run(SimpleNamespace(toy=True, record=lambda *args: records.append(args)))
    assert records == [('SKIP', 'tests/test_cuda.py', 'pytest is not installed')]


def test_without_a_gpu_the_stage_is_skipped():
    records = []
    correct.run(SimpleNamespace(toy=False, record=lambda *args: records.append(args)))
    assert records == [('SKIP', 'tests/test_cuda.py', 'PyTorch finds no CUDA device')]


@pytest.mark.parametrize(('device', 'visible'), [('', ''), ('cpu', ''), ('cuda', '0')])
def test_only_gpu_tests_see_the_gpu(device, visible):
    code = "import os, tests.environment; print(os.environ['CUDA_VISIBLE_DEVICES'] + ',' + os.environ['HIP_VISIBLE_DEVICES'])"
    given = {'LT_TEST_DEVICE': device, 'CUDA_VISIBLE_DEVICES': '0', 'HIP_VISIBLE_DEVICES': '0'}
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, env=os.environ | given, capture_output=True, text=True)
    assert done.stdout == f'{visible},{visible}\n'


def test_an_unknown_device_is_an_error():
    done = subprocess.run([sys.executable, '-c', 'import tests.environment'], cwd=ROOT, env=os.environ | {'LT_TEST_DEVICE': 'gpu'},
                          capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, 'LT_TEST_DEVICE must be cuda or cpu, not gpu\n')
