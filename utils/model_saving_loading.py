"""One checkpoint folder in and out: weights, and everything needed to use them without any flag."""
import glob
import hashlib
import os
import zipfile
from typing import Any, NamedTuple

import torch
from torch import nn

from models.get_model import get_arch
from models.weights import check_weights, load_weights
from utils.cli import own_network
from utils.common import MAX_TEXT, InputError, check_name, printable, whole_file
from utils.runs.formats import (
    CHANNELS,
    COUNT,
    COUNTS,
    FORMAT,
    NAMES,
    SCORES,
    SIZE,
    TEXT,
    Kind,
    check_classes_agree,
    check_config,
    check_keys,
    check_values,
    upgrade,
)
from utils.runs.history import best_index

FILE_NAME = 'model_checkpoint.pth'
FIELDS = ('model_name', 'class_names', 'class_count', 'im_size', 'mean', 'std', 'epoch', 'metrics', 'config', 'state_dict')
# Beside these, None in checkpoints of older versions: `image_hashes`, see `seen_images`.


def _are_tensors(value):
    return isinstance(value, dict) and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items())


def _are_hashes(value):
    return value is None or (isinstance(value, torch.Tensor) and value.dtype == torch.int64 and value.ndim == 2 and value.shape[1] == 2
                             and len(value) > 0)


KINDS = {  # of FIELDS
    'model_name': TEXT, 'class_names': NAMES, 'class_count': COUNTS, 'im_size': SIZE, 'mean': CHANNELS, 'std': CHANNELS, 'epoch': COUNT,
    'metrics': SCORES, 'config': Kind('a dictionary', lambda value: isinstance(value, dict)),
    'state_dict': Kind('a dictionary of tensors', _are_tensors)}
HASHES = {'image_hashes': Kind('an int64 tensor of two columns', _are_hashes)}
SHARED = 4  # tensors that share their memory, such as tied weights, may add up to this many times the size of the file


class LoadedModel(NamedTuple):
    model: nn.Module
    info: dict  # FIELDS and image_hashes without the weights
    folder: str


def digest(value: Any) -> str:
    """The checksum of a checkpoint: SHA-256, hexadecimal, of plain values and tensors in nested dictionaries, lists and tuples. The order
    of keys does not matter."""
    result = hashlib.sha256()

    def add(item):
        if isinstance(item, dict):
            result.update(b'{')
            for key in sorted(item, key=repr):
                result.update(repr(key).encode())
                add(item[key])
        elif isinstance(item, (list, tuple)):
            result.update(b'[')
            for each in item:
                add(each)
        elif isinstance(item, torch.Tensor):
            result.update(repr((item.dtype, tuple(item.shape))).encode())
            result.update(item.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            result.update(repr(item).encode() + b';')
    add(value)
    return result.hexdigest()


def save_model(folder: str, info: dict[str, Any]) -> None:
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


def read_checkpoint(path: str) -> dict[str, Any]:
    """The dictionary saved at `path`: a file, a checkpoint folder, or a run folder (then the best of its checkpoints). Raises `InputError`
    for what is damaged, incomplete or of another kind, before it takes more memory than the file has bytes."""
    check_name(path)
    file = path if os.path.exists(path) and not os.path.isdir(path) else os.path.join(path, FILE_NAME)
    if not os.path.exists(file):
        return _read_best(path)
    if not os.path.isfile(file):
        raise InputError(f'{file} is no regular file: name a checkpoint')
    info = _unpack(file)
    missing = [name for name in FIELDS if name not in info] if isinstance(info, dict) else FIELDS
    if missing:
        raise InputError(f"{file} is no checkpoint of this project: it lacks {', '.join(missing)}")
    _check_tensors(info, file)
    if info.pop('sha256', None) != digest(info):
        raise InputError(f'{file} is damaged: its checksum differs from its content')
    check_keys(info, file, KINDS)  # now that digest has read all of it
    info = upgrade(info, file)
    check_keys(info, file, HASHES)
    check_classes_agree(info, file)
    check_config(info['config'], f"{file}, 'config'")
    return _in_memory(info) | {'folder': os.path.dirname(file)}


def _unpack(file):
    """The content of `file`, with tensors that stay on the disk until they are read."""
    try:
        with zipfile.ZipFile(file) as archive:
            for record in archive.infolist():
                limit = MAX_TEXT if record.filename.endswith('.pkl') else os.path.getsize(file)
                if record.compress_type != zipfile.ZIP_STORED or record.file_size > limit:
                    raise InputError(f'{file} is refused: {printable(record.filename)} has {record.file_size:,} bytes when unpacked')
        return torch.load(file, map_location='cpu', weights_only=True, mmap=True)
    except InputError:
        raise
    except Exception as err:  # a damaged file, or a pickle of other objects, which could run code: many kinds of error
        raise InputError(f'{file} cannot be read as a checkpoint: it is damaged, or holds more than weights and plain values') from err


def _check_tensors(info, file):
    """Raise `InputError` unless `info` holds plain values and tensors whose values are all in the `file`."""
    total, limit = 0, SHARED * os.path.getsize(file)

    def is_whole(key, value):
        nonlocal total
        if not isinstance(value, torch.Tensor):
            return False
        if value.is_nested or value.layout != torch.strided or value.device.type != 'cpu' or value.is_quantized:
            raise InputError(f"{file}: '{key}' holds a tensor of an unknown kind")
        n_bytes = value.numel() * value.element_size()
        if n_bytes > value.untyped_storage().nbytes():  # expanded: a few values stand for many
            raise InputError(f"{file}: '{key}' holds a tensor of shape {tuple(value.shape)} whose values are not all in the file")
        total += n_bytes
        if total > limit:
            raise InputError(f'{file} has {limit // SHARED:,} bytes, its tensors more than {limit:,}')
        return True
    check_values(info, file, is_whole)


def _in_memory(value):
    """`value` with copies of its tensors, which do not need the file any more."""
    if isinstance(value, dict):
        return {key: _in_memory(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(map(_in_memory, value)) if isinstance(value, tuple) else [*map(_in_memory, value)]
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def _read_best(run):
    if not os.path.isdir(run):
        raise InputError(f'no such checkpoint or run folder: {run}')
    found = [read_checkpoint(file) for file in sorted(glob.glob(os.path.join(glob.escape(run), 'epoch_*', FILE_NAME)))]
    if not found:
        raise InputError(f'no checkpoint in {run}: it holds no epoch_*/{FILE_NAME}')
    metric = found[0]['config']['metric']
    for info in found:
        if not isinstance(info['metrics'].get(metric), (int, float)):
            raise InputError(f"{info['folder']}: 'metrics' lacks {metric}, by which the best checkpoint is chosen: name one of them")
    return found[best_index([info['metrics'][metric] for info in found], metric)]


def _confirmed(saved: str, given: str | None, folder: str) -> str:
    """The network to build for a checkpoint that names `saved`, if --model_name is `given` on the command line."""
    if own_network(saved):
        if given is None or not own_network(given):
            raise InputError(f'{folder} was trained with a network from a file, {saved}, and loading it runs that file: if you trust it, '
                             f'add --model_name {saved}, or where the file is here')
        return given
    if given not in (None, saved):
        raise InputError(f'--model_name {given} contradicts the checkpoint, which has {saved}: leave the flag out')
    return saved


def load_model(path: str, model_name: str | None = None) -> LoadedModel:
    """Network (on the CPU) and facts of the checkpoint at `path`, see `read_checkpoint`. Downloads nothing.

    model_name: where the network was built by a file of the user, the file and function that build it here. A checkpoint never decides by
    itself which code runs, so the user has to name them. Raises `InputError` before the network takes memory if the weights do not fit.
    """
    info = read_checkpoint(path)
    info['model_name'] = _confirmed(info['model_name'], model_name, info['folder'])
    state, folder, n_classes = info.pop('state_dict'), info['folder'], len(info['class_names'])

    def build():
        return get_arch(info['model_name'], n_classes, im_size=info['im_size'], head=info['config'].get('head', 'linear')).model
    try:
        with torch.device('meta'):
            check_weights(build(), state, f"{folder}, a {info['model_name']} of {n_classes:,} classes,")
    except InputError as err:
        if err.__cause__ is None:  # else this network cannot be built without memory
            raise InputError(str(err) if folder in str(err) else f'{folder}: {err}') from err
    model = build()
    load_weights(model, state, folder)
    return LoadedModel(model.to(memory_format=torch.channels_last), info, folder)
