"""What a result depends on beside the flags: versions, device, state of the code. No name of host or user, no absolute path."""
import importlib.metadata
import os
import platform
import subprocess

import torch

from utils import __version__

PACKAGES = ('torch', 'torchvision', 'numpy', 'pandas', 'scikit-learn', 'scipy', 'pillow', 'accelerate', 'timm')
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _git(*arguments):
    try:
        done = subprocess.run(['git', '-C', ROOT, *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def describe_environment(device):
    """-> dict of plain values; `device`: torch.device of the run. `git_dirty`: whether files differ from the commit."""
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
