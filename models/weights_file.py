"""Read a file with weights: a state dict, or a checkpoint of a training that contains one."""
import argparse
import os
import zipfile
from typing import Any, NamedTuple

import torch

from utils.common import InputError, preview

State = dict[str, torch.Tensor]
# Keys of a checkpoint that may hold the state dict, those of averaged weights first
ENTRIES = ('state_dict_ema', 'model_ema', 'teacher', 'target_encoder', 'state_dict', 'model', 'student', 'encoder')


class WeightsFile(NamedTuple):
    """The weights in a file.

    im_size: (height, width) of the training images, which checkpoints of this project contain. entry: key of the weights, if the file also
    has others.
    """
    state: State
    im_size: tuple[int, int] | None = None
    entry: str = ''


def read_weights_file(path: str) -> WeightsFile:
    """Read the weights in `path`, a .safetensors file or one of torch.save. Raises `InputError` if this is not possible."""
    if not os.path.isfile(path):
        raise InputError(f'no such weights file: {path} (--init takes imagenet, none or the path of a file with weights)')
    try:
        content = _read(path)
    except Exception as err:  # a damaged file raises one of many types of errors
        raise InputError(f'{path} cannot be read as a state dict: {_problem(path)}') from err
    state, entry = content, ''
    while isinstance(state, dict) and (found := [key for key in ENTRIES if isinstance(state.get(key), dict) and state[key]]):
        state, entry = state[found[0]], found[0] if len(found) > 1 else entry
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        keys = f'a dictionary with the keys {preview([*state])}' if isinstance(state, dict) else f'of type {type(state).__name__}'
        raise InputError(f'{path} does not contain a state dict (a dictionary of tensors): it is {keys}; save its state dict alone')
    im_size = content.get('im_size')
    is_size = isinstance(im_size, (list, tuple)) and len(im_size) == 2 and all(isinstance(n, int) for n in im_size)
    return WeightsFile(state, tuple(im_size) if is_size else None, entry)


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
