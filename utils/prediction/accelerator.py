"""The device and the processes of a script: decided by its flags and by torchrun, and by nothing else."""
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
MPI = ('PMI_', 'OMPI_COMM_WORLD_', 'MV2_COMM_WORLD_')  # start of the variables by which MPI and Slurm number their processes
GPU_FILES = ('/dev/nvidia[0-9]*', '/dev/kfd', '/dev/dxg')  # NVIDIA, AMD, and either under WSL
PATIENCE = 5  # seconds that a process waits for the others before it says so


def add_device_flag(group: argparse._ArgumentGroup) -> None:
    group.add_argument('--device', default='auto', choices=DEVICES, help='auto: CUDA where it is usable, else the CPU; mps is untested')


def build_accelerator(device: str = 'auto', precision: str = 'auto', compile: bool = False) -> Accelerator:
    """Set up device, precision and processes, and print the device. Only the first process prints from then on.

    `device`: one of DEVICES. `precision`: 'fp32', 'bf16', or 'auto' for bf16 on CUDA where it is supported. `compile`: use torch.compile.
    Variables of the environment that accelerate would obey are removed first. Raises `InputError` if the device cannot be used, or if
    the other processes do not come.
    """
    _clean_environment()
    kind = _device_type(device)
    bf16 = precision == 'bf16' or (precision == 'auto' and kind == 'cuda' and torch.cuda.is_bf16_supported())
    with _patience():
        accelerator = Accelerator(cpu=kind == 'cpu', mixed_precision='bf16' if bf16 else 'no',
                                  dynamo_backend='inductor' if compile else 'no')
    if not accelerator.is_main_process:
        sys.stdout = open(os.devnull, 'w')  # noqa: SIM115  the first process speaks for all
    print(f'* {describe_device(accelerator)}')
    return accelerator


def describe_device(accelerator: Accelerator) -> str:
    """Name the device, the precision and the number of processes; on the CPU also why a GPU of this machine is not used."""
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
    return f"Device: {', '.join(parts)}" + (f' (not the GPU: {problem})' if problem else '')


def gpu_problem() -> str | None:
    """Why PyTorch cannot use the GPU that this machine seems to have; None where there is no sign of one."""
    if not any(map(glob.glob, GPU_FILES)) and not shutil.which('nvidia-smi'):
        return None
    if not (torch.version.cuda or torch.version.hip):
        return f'PyTorch {torch.__version__} is built without CUDA'
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as err:
        return str(err).strip().splitlines()[0]
    return 'CUDA finds no device'


def _device_type(device):
    if device == 'auto':
        return 'cuda' if torch.cuda.is_available() else 'cpu'
    if device == 'cuda' and not torch.cuda.is_available():
        raise InputError(f"--device cuda: {gpu_problem() or 'this machine has no GPU that PyTorch can use'}")
    if device == 'mps' and not torch.backends.mps.is_available():
        raise InputError('--device mps: this PyTorch or this machine has no MPS')
    return device


def _clean_environment():
    """Remove the variables that would change what is trained: those of a saved `accelerate config`, of MPI and Slurm, and of torchrun
    unless they are complete."""
    launched = _is_launched()
    ignored = sorted(name for name in os.environ
                     if name.startswith(('ACCELERATE_', *MPI)) or (name in TORCHRUN and not launched))
    for name in ignored:
        del os.environ[name]
    if ignored and os.environ.get('RANK', '0') == '0':
        print(f"* Ignoring {', '.join(ignored)} of the environment: the flags decide"
              + ('' if launched else ', and only torchrun starts several processes'), file=sys.stderr)


def _is_launched():
    numbers = [os.environ.get(name, '') for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_PORT')]
    if not os.environ.get('MASTER_ADDR') or not all(number.isascii() and number.isdecimal() for number in numbers):
        return False
    return int(numbers[0]) < int(numbers[1])


@contextlib.contextmanager
def _patience():
    """While the processes of torchrun meet: say that this one waits, and turn a meeting that fails into one line."""
    if not _is_launched():
        yield
        return
    rank, n_processes = os.environ['RANK'], os.environ['WORLD_SIZE']
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    timer = threading.Timer(PATIENCE, lambda: print(f'* Process {rank} is waiting for {n_processes} processes to meet at {place}; '
                                                    'torchrun starts them all', file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    except RuntimeError as err:  # of torch.distributed: network, store, timeout
        reason = str(err).strip().splitlines()[0]
        raise InputError(f'process {rank} of {n_processes} did not meet the others at {place}: {reason}') from err
    finally:
        timer.cancel()
