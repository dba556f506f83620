"""The evaluation loop for validation and test, with test-time augmentation."""
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader

from utils.common import InputError, progress
from utils.data.images import is_of_one_colour

Transform = Callable[[torch.Tensor], torch.Tensor]
Autocast = Callable[[], AbstractContextManager]


class Normalise:
    """uint8 (B, 3, H, W) -> float32 on `device` in channels_last: (x / 255 - mean) / std for each channel."""

    def __init__(self, device: torch.device | str, mean: tuple, std: tuple):
        self.device = device
        self.mean, self.std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (mean, std))

    def to_float(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 -> float32 in 0..1 on the device. Copying bytes instead of floats is four times less data."""
        return images.to(self.device, non_blocking=True).float().div_(255)

    def standardise(self, x: torch.Tensor) -> torch.Tensor:
        return x.sub(self.mean).div_(self.std).contiguous(memory_format=torch.channels_last)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self.standardise(self.to_float(images))


class Predictions(NamedTuple):
    preds: np.ndarray  # int64 (N,)
    probs: np.ndarray  # float32 (N, K)
    labels: np.ndarray | None  # int64 (N,)
    loss: float  # mean cross-entropy of the raw logits; NaN without labels
    image_ids: list


class Logits(NamedTuple):
    values: torch.Tensor  # float32 (V, N, K), on the CPU: raw logits of each view of each image
    labels: torch.Tensor  # int64 (N,), -1 if unknown
    image_ids: list


@torch.inference_mode()
def collect_logits(model: nn.Module, loader: Any, normalise: Transform, autocast: Autocast, desc: str = 'evaluate',
                   views: Callable[[torch.Tensor], Iterable[torch.Tensor]] = lambda images: [images]) -> Logits:
    """Compute the logits of every image of `loader` exactly once, in order.

    `normalise`: uint8 batch -> input on the device, called outside of `autocast`, the context for the network. `views`: uint8 batch -> one
    batch for each view of test-time augmentation. Raises `InputError` with the first image for which the network returns NaN.
    """
    model.eval()

    def score(view):
        inputs = normalise(view)  # in full precision, since it may augment
        with autocast():
            return model(inputs).float()
    logits, labels, image_ids = [], [], []
    with progress(len(loader.sampler), desc) as bar:
        for images, batch_labels, ids in loader:
            logits.append(torch.stack([score(view) for view in views(images)]))
            labels.append(batch_labels)
            image_ids += ids
            bar.update(len(ids))
    values, all_labels = torch.cat(logits, dim=1).cpu(), torch.cat(labels).cpu()
    if len(image_ids) != len(loader.sampler):
        raise RuntimeError(f'{len(image_ids)} predictions for {len(loader.sampler)} images')
    is_nan = values.isnan().any(dim=2).any(dim=0)
    if is_nan.any():
        first = int(is_nan.int().argmax())
        image, reason = loader.dataset[list(loader.sampler)[first]][0], 'training has diverged (a lower --lr usually helps)'
        if image.dtype == torch.uint8 and is_of_one_colour(image):  # otherwise these are features
            reason = 'this image is of one colour (remove such images from the training csv as well)'
        raise InputError(f'{desc}: the network returns NaN for {image_ids[first]}: {reason}')
    return Logits(values, all_labels, image_ids)


def gather(logits: Logits) -> Logits:
    """`Logits` of images rank, rank + world_size, ... in each process -> `Logits` of all images, in order, in each process"""
    parts = gather_object([logits])
    order = np.argsort(np.concatenate([np.arange(len(part.image_ids)) * len(parts) + rank for rank, part in enumerate(parts)]))
    values, labels = torch.cat([part.values for part in parts], dim=1), torch.cat([part.labels for part in parts])
    return Logits(values[:, order], labels[order], np.concatenate([part.image_ids for part in parts])[order].tolist())


def _log_mean(values):
    """Logits (V, N, K) -> log of the mean softmax over the views, (N, K)"""
    return values.log_softmax(dim=2).logsumexp(dim=0) - np.log(len(values))


def tempered(logits: Logits, temperature: float) -> Logits:
    """`Logits` -> `Logits` with one view: the log of the mean probabilities over all views, divided by `temperature`"""
    return logits._replace(values=_log_mean(logits.values)[None] / temperature)


def to_predictions(logits: Logits, adjust: Transform | None = None) -> Predictions:
    """`Logits` -> `Predictions`. Probabilities are the mean over the views of the softmax of the logits, after `adjust` (float (V, N, K) ->
    the same shape). The loss is the cross-entropy of these mean probabilities."""
    log_p = _log_mean(logits.values if adjust is None else adjust(logits.values))
    has_labels = bool((logits.labels >= 0).all())
    loss = F.nll_loss(log_p, logits.labels).item() if has_labels else float('nan')
    probs = log_p.exp().numpy()
    return Predictions(probs.argmax(axis=1), probs, logits.labels.numpy() if has_labels else None, loss, image_ids=logits.image_ids)


def predict(model: nn.Module, loader: DataLoader, normalise: Transform, autocast: Autocast, desc: str = 'evaluate') -> Predictions:
    """`collect_logits` in each process, then `to_predictions` of all raw logits."""
    return to_predictions(gather(collect_logits(model, loader, normalise, autocast, desc=desc)))
