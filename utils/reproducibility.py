"""Seeds, deterministic kernels, and a record of the environment that a result depends on."""
import importlib.metadata
import os
import platform
import random
import subprocess
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from utils import __version__

PACKAGES = ('torch', 'torchvision', 'numpy', 'pandas', 'scikit-learn', 'scipy', 'pillow', 'accelerate', 'timm')
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

def set_seeds(seed: int | Sequence[int], use_cuda: bool = True) -> None:
    """Seed Python, NumPy and torch on all devices.

    seed: a number, or a sequence such as (seed, epoch). With a sequence, each epoch has a separate random stream, so a resumed run draws
    the same numbers as an uninterrupted one. use_cuda: accepted for compatibility with the original, without effect.
    """
    state = int(np.random.SeedSequence(seed).generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)
    torch.manual_seed(state)


def random_state() -> dict[str, torch.Tensor]:
    """Return the state of torch's random streams, for `set_random_state`. Training uses no other global stream."""
    return {'cpu': torch.get_rng_state()} | ({'cuda': torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {})


def set_random_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state['cpu'])
    if 'cuda' in state:
        torch.cuda.set_rng_state(state['cuda'])


def set_backends(deterministic: bool, use_cuda: bool, one_size: bool = True) -> None:
    """Choose the CUDA kernels. On the CPU, runs are always reproducible bit for bit.

    deterministic: use only operations that give the same result in every run (slower). Otherwise, use TF32 for the operations that bf16
    leaves in float32. one_size: whether all batches have the same image size. If so, cuDNN benchmarks the convolutions and picks the
    fastest. This takes 10 to 30 s for each size (docs/performance.md), too long if the size changes in nearly every epoch.
    """
    if not use_cuda:
        return
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not deterministic
    torch.backends.cudnn.benchmark = one_size and not deterministic
    if deterministic:
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # cuBLAS requires it
        torch.use_deterministic_algorithms(True, warn_only=True)  # resampling has no deterministic backward pass, but none is needed here


def _git(*arguments):
    try:
        done = subprocess.run(['git', '-C', ROOT, *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Describe what a result depends on besides the flags, for environment.json: versions, device and commit.

    Contains no host name, user name or absolute path. `git_dirty`: whether tracked files differ from the commit.
    """
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    status = _git('status', '--porcelain', '--untracked-files=no')
    return {'version': __version__, 'python': platform.python_version(), 'system': f'{platform.system()} {platform.machine()}',
            'packages': versions,
            'device': torch.cuda.get_device_name(device) if device.type == 'cuda' else device.type, 'cuda': torch.version.cuda,
            'threads': torch.get_num_threads(), 'git_commit': _git('rev-parse', 'HEAD'),
            'git_dirty': None if status is None else bool(status)}
