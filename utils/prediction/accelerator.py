"""Device and processes of a script. They depend only on its flags and on torchrun."""
import argparse
import contextlib
import glob
import os
import shutil
import sys
import threading

import torch
from accelerate import Accelerator

from utils.common import InputError

DEVICES = ('auto', 'cpu', 'cuda', 'mps')
TORCHRUN = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')  # torchrun sets all of them
MPI = ('PMI_', 'OMPI_COMM_WORLD_', 'MV2_COMM_WORLD_')  # prefixes of the variables of MPI and Slurm for process numbers
GPU_FILES = ('/dev/nvidia[0-9]*', '/dev/kfd', '/dev/dxg')  # NVIDIA, AMD, and either under WSL
PATIENCE = 5  # seconds that a process waits for the others before it prints a message


def add_device_flag(group: argparse._ArgumentGroup) -> None:
    group.add_argument('--device', default='auto', choices=DEVICES, help='auto: CUDA if available, otherwise the CPU; mps is untested')


def build_accelerator(device: str = 'auto', precision: str = 'auto', compile: bool = False) -> Accelerator:
    """Set up device, precision and processes, and print the device. After this call, only the first process prints.

    `device`: one of DEVICES. `precision`: 'fp32', 'bf16', or 'auto' for bf16 on CUDA devices that support it. `compile`: use torch.compile.
    Environment variables that would configure accelerate are removed first. Raises `InputError` if the device is not available or the
    other processes do not connect.
    """
    _clean_environment()
    kind = _device_type(device)
    bf16 = precision == 'bf16' or (precision == 'auto' and kind == 'cuda' and torch.cuda.is_bf16_supported())
    with _patience():
        accelerator = Accelerator(cpu=kind == 'cpu', mixed_precision='bf16' if bf16 else 'no',
                                  dynamo_backend='inductor' if compile else 'no')
    if not accelerator.is_main_process:
        sys.stdout = open(os.devnull, 'w')  # noqa: SIM115  only the first process prints
    print(f'* {describe_device(accelerator)}')
    return accelerator


def describe_device(accelerator: Accelerator) -> str:
    """Describe the device, the precision and the number of processes; on the CPU also why a GPU of this machine is not used."""
    device = accelerator.device
    parts = [torch.cuda.get_device_name(device) if device.type == 'cuda' else device.type.upper()]
    if device.type == 'cpu':
        n = torch.get_num_threads()
        parts.append(f"{n} thread{'s' if n > 1 else ''}")
    if accelerator.mixed_precision != 'no':
        parts.append(accelerator.mixed_precision)
    if accelerator.num_processes > 1:
        parts.append(f'{accelerator.num_processes} processes')
    problem = gpu_problem() if device.type == 'cpu' and not torch.cuda.is_available() else None
    return f"Device: {', '.join(parts)}" + (f' (GPU not used: {problem})' if problem else '')


def gpu_problem() -> str | None:
    """Reason why PyTorch cannot use the GPU that this machine seems to have; None if there is no sign of a GPU."""
    if not any(map(glob.glob, GPU_FILES)) and not shutil.which('nvidia-smi'):
        return None
    if not (torch.version.cuda or torch.version.hip):
        return f'PyTorch {torch.__version__} was built without CUDA'
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as err:
        return str(err).strip().splitlines()[0]
    return 'CUDA found no device'


def _device_type(device):
    if device == 'auto':
        return 'cuda' if torch.cuda.is_available() else 'cpu'
    if device == 'cuda' and not torch.cuda.is_available():
        raise InputError(f"--device cuda: {gpu_problem() or 'this machine has no GPU that PyTorch can use'}")
    if device == 'mps' and not torch.backends.mps.is_available():
        raise InputError('--device mps: this machine or this PyTorch build does not support MPS')
    return device


def _clean_environment():
    """Remove environment variables that would change the training: those of a saved `accelerate config`, of MPI and Slurm, and incomplete
    sets of those of torchrun."""
    launched = _is_launched()
    ignored = sorted(name for name in os.environ
                     if name.startswith(('ACCELERATE_', *MPI)) or (name in TORCHRUN and not launched))
    for name in ignored:
        del os.environ[name]
    if ignored and os.environ.get('RANK', '0') == '0':
        print(f"* Ignoring {', '.join(ignored)} from the environment: use flags to set the device and precision"
              + ('' if launched else ', and torchrun to start several processes'), file=sys.stderr)


def _is_launched():
    numbers = [os.environ.get(name, '') for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_PORT')]
    if not os.environ.get('MASTER_ADDR') or not all(number.isascii() and number.isdecimal() for number in numbers):
        return False
    return int(numbers[0]) < int(numbers[1])


@contextlib.contextmanager
def _patience():
    """While the processes of torchrun connect, print a message if this one has to wait, and turn a failure into an `InputError`."""
    if not _is_launched():
        yield
        return
    rank, n_processes = os.environ['RANK'], os.environ['WORLD_SIZE']
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    timer = threading.Timer(PATIENCE, lambda: print(f'* Process {rank} is waiting until all {n_processes} processes (started by torchrun) '
                                                    f'connect to {place}', file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    except RuntimeError as err:  # of torch.distributed: network, store, timeout
        reason = str(err).strip().splitlines()[0]
        raise InputError(f'process {rank} of {n_processes} could not connect to the others at {place}: {reason}') from err
    finally:
        timer.cancel()
