"""Read a file with weights: a state dict, or a checkpoint of a training that contains one."""
import argparse
import os
import zipfile
from typing import Any, NamedTuple

import torch

from utils.common import InputError, preview

State = dict[str, torch.Tensor]
WRAPPERS = ('state_dict', 'model', 'teacher', 'student')  # keys of a checkpoint that may hold the state dict


class WeightsFile(NamedTuple):
    """The weights in a file. im_size: (height, width) of the training images, which checkpoints of this project contain."""
    state: State
    im_size: tuple[int, int] | None = None


def read_weights_file(path: str) -> WeightsFile:
    """Read the weights in `path`, a .safetensors file or one of torch.save. Raises `InputError` if this is not possible."""
    if not os.path.isfile(path):
        raise InputError(f'no such weights file: {path} (--init takes imagenet, none or the path of a file with weights)')
    try:
        content = _read(path)
    except Exception as err:  # a damaged file raises one of many types of errors
        raise InputError(f'{path} cannot be read as a state dict: {_problem(path)}') from err
    state = content
    for wrapper in WRAPPERS:
        state = state.get(wrapper, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f'{path} does not contain a state dict (a dictionary of tensors)')
    im_size = content.get('im_size')
    is_size = isinstance(im_size, (list, tuple)) and len(im_size) == 2 and all(isinstance(n, int) for n in im_size)
    return WeightsFile(state, tuple(im_size) if is_size else None)


def _read(path: str) -> Any:
    if path.endswith('.safetensors'):
        from safetensors.torch import load_file
        return load_file(path)
    with torch.serialization.safe_globals([argparse.Namespace]):  # plain data: the flags of a training, in many published files
        # The file is mapped into memory, so that an optimizer state in it is never read. Files of torch before 1.6 are no archives.
        return torch.load(path, map_location='cpu', weights_only=True, mmap=zipfile.is_zipfile(path))


def _problem(path: str) -> str:
    """Say why the file could not be read."""
    try:
        types = sorted({*torch.serialization.get_unsafe_globals_in_checkpoint(path)} - {'argparse.Namespace'})
    except Exception:  # the file is damaged
        types = []
    if not types:
        return 'it is damaged, or not a weights file'
    return f'besides tensors it contains {preview(types)}, which can run code when they are loaded: save its tensors alone'
