"""Trained networks as folders for timm: timm.create_model('local-dir:FOLDER', pretrained=True) builds them with labels and input."""
import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import nn

from models.arch import Arch, ImageClassifier
from utils.cli import own_network
from utils.common import InputError, remove

FILES = {'config.json', 'model.safetensors'}
# What timm states about its published weights: a trained network has other ones.
OF_PUBLISHED = ('tag', 'license', 'description', 'origin_url', 'paper_name', 'paper_ids', 'notes', 'label_offset', 'label_descriptions',
                'test_input_size', 'test_pool_size', 'test_crop_pct')


def check_timm_has(model: nn.Module, model_name: str, config: dict[str, Any]) -> None:
    """Raise `InputError` unless timm can build `model`, the network `model_name` of a run with the settings `config`."""
    if members := config.get('members'):
        raise InputError(f"--format timm: an ensemble of {len(members)} networks is not a network of timm: export its members one by one, "
                         f"first with --load_path {members[0]['path']}")
    if own_network(model_name) or not hasattr(model, 'pretrained_cfg'):  # timm adds this attribute to every network
        raise InputError(f'--format timm: {model_name} is not a network of timm: use --format onnx')
    if (head := config.get('head', 'linear')) != 'linear':
        raise InputError(f'--format timm: the networks of timm have a linear classifier, but this run has a {head} one: use --format onnx')


@contextlib.contextmanager
def whole_folder(path: str) -> Iterator[str]:
    """Write the folder `path` completely or not at all: yield a temporary folder beside it, which is renamed if the block succeeds.

    An earlier folder is replaced if it has no other files than FILES. Otherwise raises `InputError`.
    """
    if os.path.lexists(path) and not (os.path.isdir(path) and FILES.issuperset(os.listdir(path))):
        raise InputError(f"{path} exists and holds more than {' and '.join(sorted(FILES))}: choose another --out")
    temporary, before = (f'{path}.{os.getpid()}-{secrets.token_hex(8)}.{end}' for end in ('tmp', 'old'))
    os.makedirs(temporary)
    try:
        yield temporary
        if os.path.lexists(path):
            os.rename(path, before)
        os.rename(temporary, path)
    except BaseException:
        remove(temporary)
        raise
    if os.path.lexists(before):
        remove(before)


def save_timm_folder(folder: str, model: nn.Module, info: dict[str, Any]) -> None:
    """Write config.json and model.safetensors to `folder`. `info`: class_names, im_size, mean and std of a checkpoint.

    timm is told to resize images as `utils.data.images` does: to the exact size, bilinear, without a crop. Raises `InputError` if timm
    cannot save the network, for example because some of its weights share memory.
    """
    import timm  # imported here because it takes seconds
    im_size = tuple(info['im_size'])
    data = {'input_size': (3, *im_size), 'mean': info['mean'], 'std': info['std'], 'interpolation': 'bilinear', 'crop_pct': 1.,
            'crop_mode': 'squash'}
    contents = {'label_names': list(info['class_names']), 'pretrained_cfg': data | dict.fromkeys(OF_PUBLISHED)}
    model_args = {'img_size': im_size} if cast(ImageClassifier, model).fixed_size else None  # otherwise, timm would build its own size
    with _timm_errors('save', info['model_name']):
        timm.models.save_for_hf(model.to(memory_format=torch.contiguous_format), folder, contents, model_args, safe_serialization=True)
    config, weights = (os.path.join(folder, name) for name in sorted(FILES))
    shutil.copymode(config, weights)  # safetensors ignores the umask: only the owner could read its file


def load_timm_folder(folder: str, model_name: str) -> Arch:
    """Return the network that timm builds from `folder`, with the normalisation that timm uses for it. Raises `InputError`."""
    import timm  # imported here because it takes seconds
    with _timm_errors('load', model_name):
        model = timm.create_model(f'local-dir:{folder}', pretrained=True)
    data = timm.data.resolve_model_data_config(model)
    return Arch(cast(ImageClassifier, model), *(tuple(cast(Sequence[float], data[name])) for name in ('mean', 'std')))


@contextlib.contextmanager
def _timm_errors(verb: str, model_name: str) -> Iterator[None]:
    try:
        yield
    except OSError:  # such as a full disk
        raise
    except Exception as err:  # timm and safetensors raise various errors
        reason = (str(err).strip() or type(err).__name__).splitlines()[0]
        raise InputError(f'--format timm: timm cannot {verb} {model_name} ({reason[:200]}): use --format onnx') from err
