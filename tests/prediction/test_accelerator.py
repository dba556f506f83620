"""Device and processes depend on the flags and on torchrun, and on no other environment variable."""
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.factories import ROOT
from utils.common import InputError
from utils.prediction import accelerator
from utils.prediction.accelerator import build_accelerator, describe_device, gpu_problem

COMPLETE = {'RANK': '0', 'WORLD_SIZE': '2', 'LOCAL_RANK': '0', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': '29555'}


@pytest.fixture
def clean(monkeypatch):
    """Set variables and clean the environment. -> names of those that were removed"""
    def run(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        accelerator._clean_environment()
        return {name for name in variables if name not in os.environ}
    return run


@pytest.mark.parametrize('name', ['ACCELERATE_GRADIENT_ACCUMULATION_STEPS', 'ACCELERATE_USE_CPU', 'ACCELERATE_MIXED_PRECISION'])
def test_variables_of_accelerate_are_removed(clean, name):
    assert clean({name: '4'}) == {name}


def test_removed_variables_are_named(clean, capsys):
    clean({'ACCELERATE_MIXED_PRECISION': 'bf16'})
    assert capsys.readouterr().err.startswith('* Ignoring ACCELERATE_MIXED_PRECISION from the environment: use flags')


def test_no_message_for_a_clean_environment(clean, capsys):
    clean({})
    assert not capsys.readouterr().err


@pytest.mark.parametrize('lacking', sorted(COMPLETE))
def test_incomplete_variables_of_torchrun_are_removed(clean, lacking):
    given = {name: value for name, value in COMPLETE.items() if name != lacking}
    assert clean(given) == set(given)


@pytest.mark.parametrize('wrong', [{'RANK': 'one'}, {'RANK': '2'}, {'WORLD_SIZE': '-1'}, {'MASTER_PORT': ''}, {'LOCAL_RANK': '\u0661'}])
def test_invalid_variables_of_torchrun_are_removed(clean, wrong):
    assert clean(COMPLETE | wrong) == set(COMPLETE)


def test_complete_variables_of_torchrun_are_kept(clean):
    assert clean(COMPLETE) == set()


def test_variables_of_mpi_are_removed(clean):
    assert clean({'PMI_SIZE': '2', 'OMPI_COMM_WORLD_SIZE': '2'}) == {'PMI_SIZE', 'OMPI_COMM_WORLD_SIZE'}


def test_the_loss_is_not_divided(monkeypatch):
    monkeypatch.setenv('ACCELERATE_GRADIENT_ACCUMULATION_STEPS', '4')
    assert build_accelerator('cpu').gradient_accumulation_steps == 1


@pytest.mark.parametrize('device', ['auto', 'cpu'])
def test_mps_is_used_only_on_request(monkeypatch, device):
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert accelerator._device_type(device) == 'cpu' and accelerator._device_type('mps') == 'mps'


@pytest.mark.parametrize('device', ['cuda', 'mps'])
def test_an_unavailable_device_is_an_error(monkeypatch, device):
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: False)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(InputError, match=f'--device {device}: '):
        build_accelerator(device)


@pytest.fixture
def visible_gpu(monkeypatch, tmp_path):
    """The driver shows a GPU, but CUDA cannot be initialised."""
    (tmp_path / 'nvidia0').touch()
    monkeypatch.setattr(accelerator, 'GPU_FILES', (str(tmp_path / 'nvidia[0-9]*'),))
    monkeypatch.setattr(torch.version, 'cuda', '13.0')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)

    def fail():
        raise RuntimeError('The NVIDIA driver on your system is too old (found version 11040).\nPlease update')
    monkeypatch.setattr(torch.cuda, 'init', fail)


def test_the_device_line_explains_why_a_visible_gpu_is_not_used(visible_gpu, monkeypatch):
    used = SimpleNamespace(device=torch.device('cpu'), mixed_precision='no', num_processes=1)
    reason = 'The NVIDIA driver on your system is too old (found version 11040).'
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 2)
    assert describe_device(used) == f'Device: CPU, 2 threads (GPU not used: {reason})'


def test_a_build_without_cuda_is_named(visible_gpu, monkeypatch):
    monkeypatch.setattr(torch.version, 'cuda', None)
    assert gpu_problem() == f'PyTorch {torch.__version__} was built without CUDA'


def test_no_gpu_no_problem(monkeypatch):
    monkeypatch.setattr(accelerator, 'GPU_FILES', ())
    monkeypatch.setattr(accelerator.shutil, 'which', lambda name: None)
    assert gpu_problem() is None


BUILD = 'from utils.prediction.accelerator import build_accelerator; print(build_accelerator("cpu").num_processes)'


def build(variables, **options):
    return subprocess.Popen([sys.executable, '-c', BUILD], cwd=ROOT, env=os.environ | variables, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, **options)


def test_a_leftover_rank_starts_one_process():
    out, err = build({'LOCAL_RANK': '0'}).communicate()
    assert out.splitlines()[-1] == '1' and 'Ignoring LOCAL_RANK' in err


def test_a_waiting_process_prints_a_message():
    process = build(COMPLETE)
    line = next(line for line in process.stderr if 'waiting' in line)
    process.kill()
    process.communicate()
    assert line == '* Process 0 is waiting until all 2 processes (started by torchrun) connect to 127.0.0.1:29555\n'


def test_a_failed_connection_is_one_line(monkeypatch):
    def fail(**kwargs):
        raise torch.distributed.DistStoreError('Timed out after 601 seconds\nwaiting for clients')
    for name, value in COMPLETE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(accelerator, 'Accelerator', fail)
    message = r'^process 0 of 2 could not connect to the others at 127\.0\.0\.1:29555: Timed out after 601 seconds$'
    with pytest.raises(InputError, match=message):
        build_accelerator('cpu')
