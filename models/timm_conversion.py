"""timm's conversion of published weights to its own names, and of embeddings to another image size."""
import contextlib
import io
import sys
from collections.abc import Callable

import torch
from torch import nn

from models.weights_file import State

Converter = Callable[[State], State | None]
EMBEDDINGS = {'patch_embed.proj.weight': 'patch', 'pos_embed': 'position'}


def get_converter(model: nn.Module, im_size: tuple[int, int] | None) -> Converter:
    """Return the function that converts weights for networks such as `model`. It returns None if timm cannot convert them.

    im_size: (height, width) of the images that the weights were trained on. Without it, timm takes the grid of positions for a square.
    """
    module = next((cls.__module__ for cls in type(model).__mro__ if cls.__module__.startswith('timm.models.')), '')
    timm_filter = getattr(sys.modules.get(module), 'checkpoint_filter_fn', None)
    if timm_filter and im_size:
        model.pretrained_model_args = {'img_size': im_size}  # type: ignore[assignment]  # timm reads it here

    def convert(given: State) -> State | None:
        # It raises various errors for weights of other networks, and prints for DINOv3.
        with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
            return timm_filter(dict(given), model) if timm_filter else None
        return None
    return convert


def get_lost(convert: Converter, given: State, converted: State) -> list[str]:
    """Return the names of the weights in `given` that have no influence on `converted`, except for biases that are zero.

    Most weights are converted to views of themselves. Any other one is replaced by NaN, which must then appear in the result.
    """
    kept, memory = ({tensor.data_ptr() for tensor in state.values()} for state in (converted, given))
    lost = []
    for name, tensor in given.items():
        if tensor.data_ptr() in kept or not tensor.is_floating_point() or (name.endswith('bias') and not tensor.any()):
            continue
        result = convert(given | {name: torch.full_like(tensor, torch.nan)})
        if result and not any(value.isnan().any() for value in result.values() if value.data_ptr() not in memory):
            lost.append(name)
    return lost


def describe_resized(model: nn.Module, given: State, converted: State) -> list[str]:
    """Name the embeddings that timm has resized, with their new height and width."""
    resized = []
    for name, what in EMBEDDINGS.items():
        old, new = given.get(name), converted.get(name)
        if old is not None and new is not None and old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
            size = new.shape[2:] if what == 'patch' else getattr(getattr(model, 'patch_embed', None), 'grid_size', ())
            resized.append(f'{what} embedding resized' + (f" to {'x'.join(map(str, size))}" if size else ''))
    return resized
