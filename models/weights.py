"""Weights of a network: check and copy them, re-initialise the classifier, ask the hub for them."""
import contextlib
import socket
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn

from models.heads import CosineClassifier, get_head
from utils.common import InputError, preview

PATIENCE = 20  # seconds to wait for a server to answer


@contextlib.contextmanager
def short_waits() -> Iterator[None]:
    """Time out connections opened in this block after PATIENCE seconds, for example if a firewall drops them."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def check_hub(published: Any) -> None:
    """Ask the Hugging Face hub once for the weights of `published` (timm's pretrained_cfg), unless the local cache has them.

    Without a connection, this raises the library's error at once. The download itself would retry for 50 seconds and log each attempt.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    if not published.hf_hub_id:
        return
    repo, _, revision = published.hf_hub_id.partition('@')
    names = [published.hf_hub_filename] if published.hf_hub_filename else ['model.safetensors', 'pytorch_model.bin']
    if any(isinstance(try_to_load_from_cache(repo, name, revision=revision or None), str) for name in names):
        return
    with contextlib.suppress(EntryNotFoundError):  # the second of the two names may exist
        get_hf_file_metadata(hf_hub_url(repo, names[0], revision=revision or None), timeout=PATIENCE)


def init_classifier(model: nn.Module) -> None:
    """Initialise the last layer with torch's default, or with zeros for BiT (Kolesnikov et al., ECCV 2020)."""
    head = cast(nn.Linear, get_head(model))
    head.reset_parameters()
    if model.zero_head and not isinstance(head, CosineClassifier):  # a zero vector has no direction
        for parameter in head.parameters():
            nn.init.zeros_(parameter)


def describe_misfit(own: dict[str, torch.Tensor], state: dict[str, torch.Tensor], source: str, *, misfits: list[str],
                    unknown: list[str]) -> str:
    """Say why `state` of the file `source` does not fit a network with the tensors `own`: the first key, and how many there are.

    misfits: names of the network that the file lacks or has in another shape. unknown: names of the file that the network lacks.
    """
    name = (misfits or unknown)[0]
    what = ('is unknown to the network' if not misfits else 'is missing' if name not in state else
            f'has shape {tuple(state[name].shape)} instead of {tuple(own[name].shape)}')
    names = f'; unknown: {preview(unknown, 3)}' if unknown not in ([], [name]) else ''
    return (f'{source} does not fit the network: {name} {what} ({len(misfits)} of its {len(own)} tensors '
            f'do not fit, {len(unknown)} of the {len({*state, *unknown})} in the file are unknown){names}')


def check_weights(model: nn.Module, state: dict[str, torch.Tensor], source: str, skip_classifier_of_other_size: bool = False) -> list[str]:
    """Check that every tensor of `state` fits `model`.

    With `skip_classifier_of_other_size`, the tensors of the classifier may have other shapes. Returns the names of these tensors in
    `model`, which must not be loaded. Raises `InputError` naming `source` and the first key that does not fit.
    """
    own, head = model.state_dict(), f'{model.classifier_name}.' if skip_classifier_of_other_size else ''  # an ensemble has no classifier
    skipped = [name for name in own if skip_classifier_of_other_size and name.startswith(head)
               and (name not in state or state[name].shape != own[name].shape)]
    misfits = [name for name in own if name not in skipped and (name not in state or state[name].shape != own[name].shape)]
    unknown = [name for name in state if name not in own and not (skipped and name.startswith(head))]
    if misfits or unknown:
        raise InputError(describe_misfit(own, state, source, misfits=misfits, unknown=unknown))
    return skipped


def load_weights(model: nn.Module, state: dict[str, torch.Tensor], source: str, skip_classifier_of_other_size: bool = False) -> list[str]:
    """Copy `state` into `model` after `check_weights`. Returns the names of the tensors that were not loaded."""
    skipped = check_weights(model, state, source, skip_classifier_of_other_size)
    model.load_state_dict({name: state[name] for name in model.state_dict() if name not in skipped}, strict=False)
    return skipped
