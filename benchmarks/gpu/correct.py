"""Run tests/test_cuda.py on the GPU, with one check for each test."""
import os
import re
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent.parent
WORDS = {'cpus': "CPU's", 'cpu': 'CPU', 'mixup': 'MixUp'}  # words that a function name cannot spell
PROCESSES = 5  # one for each test class of the file


def readable(nodeid):
    """'tests/test_cuda.py::TestSteps::test_a_step_equals_the_cpus[CE, none]' -> "a step equals the CPU's [CE, none]"."""
    name, case = re.fullmatch(r'(?:.*::)?(?:test_)?(\w+)(\[.*\])?', nodeid, re.DOTALL).groups()
    return ' '.join([*(WORDS.get(word, word) for word in name.split('_')), *([case] if case else [])])


def problem(report):
    """-> one line about the failure: the first line of the exception's message, else the last line of pytest's report"""
    crash = getattr(report.longrepr, 'reprcrash', None)
    line = (crash.message.splitlines() if crash else report.longreprtext.strip().splitlines()[::-1])[0]
    return line.removeprefix('E  ').strip()


class Recorder:
    """pytest plugin that passes the outcome of each test to `stage` as soon as it is known, also from pytest-xdist workers."""

    def __init__(self, stage):
        self.stage = stage

    def pytest_collectreport(self, report):
        """Record a file that is skipped as a whole or cannot be imported."""
        if report.skipped:
            self.stage.record('SKIP', 'tests/test_cuda.py', report.longrepr[2].removeprefix('Skipped: '))
        elif report.failed:
            self.stage.record('FAIL', 'tests/test_cuda.py', problem(report))

    def pytest_runtest_logreport(self, report):
        """Record the outcome of a test's call, and a skip or failure in its setup or teardown."""
        if report.passed and report.when != 'call':
            return
        figures = [str(value) for name, value in report.user_properties if name == 'figure']
        if report.skipped:
            figures = [report.longrepr[2].removeprefix('Skipped: ')]
        elif report.failed:
            figures.append(problem(report))
        status = 'PASS' if report.passed else 'SKIP' if report.skipped else 'FAIL'
        self.stage.record(status, readable(report.nodeid), '; '.join(figures), report.duration)


def run(stage):
    if not find_spec('pytest'):
        stage.record('SKIP', 'tests/test_cuda.py', 'pytest is not installed')
        return
    if not (stage.toy or torch.cuda.is_available()):
        stage.record('SKIP', 'tests/test_cuda.py', 'PyTorch finds no CUDA device')
        return
    import pytest
    os.environ['LT_TEST_DEVICE'] = 'cpu' if stage.toy else 'cuda'  # read when the tests are imported
    os.environ.pop('PYTEST_ADDOPTS', None)
    flags = []
    if find_spec('xdist'):
        flags = ['-n', '0'] if stage.toy else ['-n', str(PROCESSES), '--dist', 'loadscope', '--max-worker-restart', '0']
    with tempfile.TemporaryDirectory() as folder:
        os.environ['TMPDIR'], tempfile.tempdir = folder, None  # torchrun leaves temporary folders behind
        status = pytest.main([str(ROOT / 'tests' / 'test_cuda.py'), '-p', 'no:cacheprovider', '--basetemp', os.path.join(folder, 'pytest'),
                              *flags], plugins=[Recorder(stage)])
    if not stage.checks or status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        stage.record('FAIL', 'pytest', f'exited with status {int(status)}')
