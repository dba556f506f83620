"""Save and load checkpoints: the weights, and everything needed to use them without flags."""
import glob
import hashlib
import os
import zipfile
from typing import Any, NamedTuple

import torch
from torch import nn

from models.ensemble import Ensemble
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
from utils.runs.history import best_index, comparable_scores

FILE_NAME = 'model_checkpoint.pth'
FIELDS = ('model_name', 'class_names', 'class_count', 'im_size', 'mean', 'std', 'epoch', 'metrics', 'config', 'state_dict')
# Checkpoints also have `image_hashes` (see `seen_images`), which is None in those of older versions.


def _are_tensors(value):
    return isinstance(value, dict) and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items())


def _are_hashes(value):
    return value is None or (isinstance(value, torch.Tensor) and value.dtype == torch.int64 and value.ndim == 2 and value.shape[1] == 2
                             and len(value) > 0)


KINDS = {  # types of FIELDS
    'model_name': TEXT, 'class_names': NAMES, 'class_count': COUNTS, 'im_size': SIZE, 'mean': CHANNELS, 'std': CHANNELS, 'epoch': COUNT,
    'metrics': SCORES, 'config': Kind('a dictionary', lambda value: isinstance(value, dict)),
    'state_dict': Kind('a dictionary of tensors', _are_tensors)}
HASHES = {'image_hashes': Kind('an int64 tensor with two columns', _are_hashes)}
SHARED = 4  # limit of the total size of all tensors, in file sizes; tied weights share memory, but each tensor counts


class LoadedModel(NamedTuple):
    model: nn.Module
    info: dict  # FIELDS and image_hashes without the weights
    folder: str

    def __str__(self) -> str:
        members = self.info['config'].get('members')
        if members:
            return f"{len(members)} networks {self.info['model_name']} from {self.folder}"
        return f"{self.info['model_name']} from {self.folder}, epoch {self.info['epoch']}"


def digest(value: Any) -> str:
    """Return the checksum of a checkpoint: the hexadecimal SHA-256 of plain values and tensors in nested dictionaries, lists and tuples.

    The order of keys does not matter.
    """
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
    """Write `info` with a checksum to `folder`/model_checkpoint.pth, atomically.

    info: plain Python values and tensors, with at least FIELDS as keys.
    """
    missing = [name for name in FIELDS if name not in info]
    if missing:
        raise ValueError(f'the checkpoint lacks {missing}')
    os.makedirs(folder, exist_ok=True)
    with whole_file(os.path.join(folder, FILE_NAME)) as f:
        try:
            info = info | {'format': FORMAT}
            torch.save(info | {'sha256': digest(info)}, f)
        except RuntimeError as err:  # torch's zip writer hides the error of the disk
            raise _os_error(err) or err from None


def _os_error(error):
    """Return the `OSError` that led to `error`, or None."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def read_checkpoint(path: str) -> dict[str, Any]:
    """Return the dictionary saved at `path`, which is a file, a checkpoint folder, or a run folder (then its best checkpoint is read).

    It also has the folder, and the checksum (see `digest`).

    Raises `InputError` if the file is damaged, incomplete or not a checkpoint, before it uses more memory than the size of the file.
    """
    check_name(path)
    file = path if os.path.exists(path) and not os.path.isdir(path) else os.path.join(path, FILE_NAME)
    if not os.path.exists(file):
        return _read_best(path)
    if not os.path.isfile(file):
        raise InputError(f'{file} is not a regular file: give the path of a checkpoint')
    info = _unpack(file)
    missing = [name for name in FIELDS if name not in info] if isinstance(info, dict) else FIELDS
    if missing:
        raise InputError(f"{file} is not a checkpoint of this project: it lacks {', '.join(missing)}")
    _check_tensors(info, file)
    checksum = info.pop('sha256', None)
    if checksum != digest(info):
        raise InputError(f'{file} is damaged: its checksum does not match its content')
    check_keys(info, file, KINDS)  # only now, since digest has read the whole file
    info = upgrade(info, file)
    check_keys(info, file, HASHES)
    check_classes_agree(info, file)
    check_config(info['config'], f"{file}, 'config'")
    return _in_memory(info) | {'folder': os.path.dirname(file), 'checksum': checksum}


def _unpack(file):
    """Return the content of `file`. Its tensors are memory-mapped and stay on disk until they are read."""
    try:
        with zipfile.ZipFile(file) as archive:
            for record in archive.infolist():
                limit = MAX_TEXT if record.filename.endswith('.pkl') else os.path.getsize(file)
                if record.compress_type != zipfile.ZIP_STORED or record.file_size > limit:
                    raise InputError(f'{file} is refused: {printable(record.filename)} has {record.file_size:,} bytes when unpacked')
        return torch.load(file, map_location='cpu', weights_only=True, mmap=True)
    except InputError:
        raise
    except Exception as err:  # damaged files, and pickles of other objects (which could run code), raise many types of errors
        raise InputError(f'{file} cannot be read as a checkpoint: it is damaged, or contains more than weights and plain values') from err


def _check_tensors(info, file):
    """Raise `InputError` unless `info` contains only plain values, and tensors whose values are all stored in `file`."""
    total, limit = 0, SHARED * os.path.getsize(file)

    def is_whole(key, value):
        nonlocal total
        if not isinstance(value, torch.Tensor):
            return False
        if value.is_nested or value.layout != torch.strided or value.device.type != 'cpu' or value.is_quantized:
            raise InputError(f"{file}: '{key}' contains a tensor of an unsupported type")
        n_bytes = value.numel() * value.element_size()
        if n_bytes > value.untyped_storage().nbytes():  # an expanded tensor: a few stored values are repeated
            raise InputError(f"{file}: '{key}' contains a tensor of shape {tuple(value.shape)} whose values are not all in the file")
        total += n_bytes
        if total > limit:
            raise InputError(f'{file} has {limit // SHARED:,} bytes, but its tensors have more than {limit:,}')
        return True
    check_values(info, file, is_whole)


def _in_memory(value):
    """Return `value` with its memory-mapped tensors copied to memory."""
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
        raise InputError(f'no checkpoint in {run}: there is no epoch_*/{FILE_NAME}')
    config = found[0]['config']
    metric = config['metric']
    for info in found:
        if not isinstance(info['metrics'].get(metric), (int, float)):
            raise InputError(f"{info['folder']}: 'metrics' lacks {metric}, so the best checkpoint cannot be chosen: give the path of one")
    scores = comparable_scores([info['epoch'] for info in found], [info['metrics'][metric] for info in found], config)
    return found[best_index(scores, metric)]


def _confirmed(saved: str, given: str | None, folder: str) -> str:
    """Return the network to build for a checkpoint of the network `saved`. `given`: --model_name on the command line."""
    if own_network(saved):
        if given is None or not own_network(given):
            raise InputError(f'{folder} was trained with a network from a file, {saved}. Loading it runs that file: if you trust it, '
                             f'add --model_name {saved}, with the path of the file on this machine')
        return given
    if given not in (None, saved):
        raise InputError(f'--model_name {given} contradicts the checkpoint, which has the network {saved}: leave out the flag')
    return saved


def load_model(path: str, model_name: str | None = None) -> LoadedModel:
    """Load the checkpoint at `path` (see `read_checkpoint`): the network, on the CPU, and its metadata. Downloads nothing.

    model_name: file.py:function of a network from a file of the user. It must be given for such a checkpoint, because a checkpoint alone
    must not decide which code runs. Raises `InputError` before the network uses memory if the weights do not fit.
    """
    info = read_checkpoint(path)
    info['model_name'] = _confirmed(info['model_name'], model_name, info['folder'])
    state, folder, n_classes = info.pop('state_dict'), info['folder'], len(info['class_names'])

    def build():
        models = [get_arch(info['model_name'], n_classes, im_size=info['im_size'], head=info['config'].get('head', 'linear')).model
                  for _ in info['config'].get('members', [None])]
        return Ensemble(models) if 'members' in info['config'] else models[0]
    try:
        with torch.device('meta'):
            check_weights(build(), state, f"{folder}, a {info['model_name']} of {n_classes:,} classes,")
    except InputError as err:
        if err.__cause__ is None:  # otherwise the network cannot be built on the meta device
            raise InputError(str(err) if folder in str(err) else f'{folder}: {err}') from err
    model = build()
    load_weights(model, state, folder)
    return LoadedModel(model.to(memory_format=torch.channels_last), info, folder)
