"""Networks from a file of the user: --model_name path/to/file.py:function."""
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from models.arch import Arch, Builder, as_arch
from utils.cli import own_network
from utils.common import InputError


def own_builder(model_name: str) -> Builder | None:
    """Return the builder for a `model_name` path/to/file.py:function, and None for any other name.

    The builder runs the file and calls `function(n_classes=K, pretrained=False, im_size=(height, width))`, which must return a module, or
    `as_arch` of a module. It raises `InputError` if the file or function does not exist, raises an error, or returns anything else.
    """
    own = own_network(model_name)
    if own is None:
        return None

    def build(n_classes: int, pretrained: bool, im_size: tuple[int, int] | None) -> Arch:
        try:
            arch = _call(_read_function(*own), n_classes, pretrained, im_size)
        except InputError as err:
            raise InputError(f'--model_name {model_name}: {err}') from err.__cause__
        if not pretrained and not arch.model.initial_weights:  # it may have loaded weights without reporting them
            arch.model.initial_weights = f'as built by {model_name}'
        return arch
    return build


def _read_function(path: str, name: str) -> Callable[..., Any]:
    if not os.path.isfile(path):
        raise InputError(f'no such file {path}')
    module_name = 'own_network_' + os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None  # because path ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look the module up there
    try:
        spec.loader.exec_module(module)
    except Exception as err:
        raise InputError(f'{path} cannot be run ({_reason(err)})') from err
    function = getattr(module, name, None)
    if not callable(function):
        own = [key for key, value in vars(module).items() if callable(value) and getattr(value, '__module__', '') == module_name]
        raise InputError(f"{path} has no function '{name}' (its functions: {', '.join(own) or 'none'})")
    return function


def _call(function: Callable[..., Any], n_classes: int, pretrained: bool, im_size: tuple[int, int] | None) -> Arch:
    try:
        built = function(n_classes=n_classes, pretrained=pretrained, im_size=im_size)
    except InputError:
        raise
    except Exception as err:
        raise InputError(f'{function.__name__}(n_classes={n_classes}, pretrained={pretrained}, im_size={im_size}) failed with '
                         f'{_reason(err)}') from err
    if isinstance(built, Arch):
        return built
    if not isinstance(built, nn.Module):
        raise InputError(f'{function.__name__} must return a torch.nn.Module or as_arch(module, ...), not {type(built).__name__}')
    return as_arch(built, n_classes)


def _reason(error: Exception) -> str:
    return ': '.join([type(error).__name__, *str(error).strip().splitlines()[:1]])
