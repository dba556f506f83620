"""One checkpoint folder in and out: weights, and everything needed to use them without any flag."""
import glob
import os
from typing import NamedTuple

import torch
from torch import nn

from models.get_model import get_arch
from models.weights import load_weights

from .common import InputError, whole_file
from .digest import digest
from .evaluation import is_better
from .formats import FORMAT, upgrade

FILE_NAME = 'model_checkpoint.pth'
FIELDS = ('model_name', 'class_names', 'class_count', 'im_size', 'mean', 'std', 'epoch', 'metrics', 'config', 'state_dict')
# Beside these, None in checkpoints of older versions: `image_hashes`, see `seen_images`.


class LoadedModel(NamedTuple):
    model: nn.Module
    info: dict  # FIELDS and image_hashes without the weights
    folder: str


def save_model(folder, info):
    """Write `info` (plain Python values and tensors, FIELDS at least) with a checksum as `folder`/model_checkpoint.pth, whole or
    not at all."""
    missing = [name for name in FIELDS if name not in info]
    if missing:
        raise ValueError(f'a checkpoint needs {missing}')
    os.makedirs(folder, exist_ok=True)
    with whole_file(os.path.join(folder, FILE_NAME)) as f:
        try:
            info = info | {'format': FORMAT}
            torch.save(info | {'sha256': digest(info)}, f)
        except RuntimeError as err:  # of torch's zip writer, which hides the error of the disk
            raise _os_error(err) or err from None


def _os_error(error):
    """The `OSError` during which `error` was raised, None where there is none."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def read_checkpoint(path):
    """The dictionary saved at `path`: a file, a checkpoint folder, or a run folder (then the best of its checkpoints)."""
    file = path if os.path.isfile(path) else os.path.join(path, FILE_NAME)
    if not os.path.isfile(file):
        return _read_best(path)
    try:
        info = torch.load(file, map_location='cpu', weights_only=True)
    except Exception as err:  # a damaged file, or a pickle of other objects, which could run code: many kinds of error
        raise InputError(f'{file} cannot be read as a checkpoint: it is damaged, or holds more than weights and plain values') from err
    missing = [name for name in FIELDS if name not in info] if isinstance(info, dict) else FIELDS
    if missing:
        raise InputError(f"{file} is no checkpoint of this project: it lacks {', '.join(missing)}")
    if info.pop('sha256', None) != digest(info):
        raise InputError(f'{file} is damaged: its checksum differs from its content')
    return upgrade(info, file) | {'folder': os.path.dirname(file)}


def _read_best(run):
    if not os.path.isdir(run):
        raise InputError(f'no such checkpoint or run folder: {run}')
    found = [read_checkpoint(file) for file in sorted(glob.glob(os.path.join(glob.escape(run), 'epoch_*', FILE_NAME)))]
    if not found:
        raise InputError(f'no checkpoint in {run}: it holds no epoch_*/{FILE_NAME}')
    metric, best = found[0]['config']['metric'], found[0]
    for info in found[1:]:
        if is_better(metric, info['metrics'][metric], best['metrics'][metric]):
            best = info
    return best


def load_model(path):
    """Network (on the CPU) and facts of the checkpoint at `path` (see `read_checkpoint`); downloads nothing."""
    info = read_checkpoint(path)
    model = get_arch(info['model_name'], len(info['class_names']), im_size=info['im_size'], head=info['config'].get('head', 'linear')).model
    load_weights(model, info.pop('state_dict'), info['folder'])
    return LoadedModel(model.to(memory_format=torch.channels_last), info, info['folder'])
