"""Feature cache: if a frozen backbone gets the same images in every epoch, compute their features once, before training."""
from argparse import Namespace
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from models.heads import get_head
from utils.common import gigabytes, progress
from utils.data.device_images import DeviceArray
from utils.get_loaders import get_eval_loader
from utils.prediction.inference import Normalise
from utils.training.data import TrainingData
from utils.training.network import Network

MEMORY_LIMIT = 1 << 31  # bytes of device memory that the features may take


class KeepFeatures(Normalise):
    """Replaces `Normalise`: moves float32 features to the device and leaves them unchanged."""

    def to_float(self, images: torch.Tensor) -> torch.Tensor:
        return images.to(self.device, non_blocking=True)

    def standardise(self, x: torch.Tensor) -> torch.Tensor:
        return x


def can_cache_features(args: Namespace) -> bool:
    """True if the backbone is frozen and gets the same images in every epoch."""
    return args.trainable != 'all' and args.augment == 'none' and args.mixing == 'none' and args.grow_from == 1


def cache_features(network: Network, data: TrainingData, accelerator: Accelerator) -> None:
    """Compute the features of all images, and make the datasets and `network` use them instead of images. They stay on the device.

    Does nothing if they would take more memory than MEMORY_LIMIT.
    """
    model, datasets = network.model, (data.train, data.val)
    n_images, width = sum(map(len, datasets)), max(p.numel() for p in get_head(model).parameters()) // model.n_classes
    n_bytes = 4 * n_images * width
    if n_bytes > MEMORY_LIMIT:
        print(f'* Features would take {gigabytes(n_bytes)} of memory, so they are computed in every epoch')
        return
    model.eval()
    for dataset in datasets:
        loader = get_eval_loader(dataset, data.train_loader.batch_size, data.train_loader.num_workers, device=accelerator.device)
        features = compute_features(model, loader, network.normalise, accelerator.autocast)
        dataset.cache = DeviceArray(features.to(accelerator.device))
    network.on_features, network.normalise = True, KeepFeatures(accelerator.device, (0, 0, 0), (1, 1, 1))
    print(f'* Only the last layer is trained: the features of {n_images:,} images were computed once')


@torch.no_grad()
def compute_features(model: nn.Module, loader: Any, normalise: Normalise,
                     autocast: Callable[[], AbstractContextManager]) -> torch.Tensor:
    """The inputs of the last layer of `model` for all images of the data loader `loader`: float32, on the CPU."""
    found: list[torch.Tensor] = []
    hook = get_head(model).register_forward_pre_hook(lambda head, inputs: found.append(inputs[0].float().cpu()))
    with progress(len(loader.dataset), 'features') as bar:
        for images, _, ids in loader:
            with autocast():
                model(normalise(images))
            bar.update(len(ids))
    hook.remove()
    return torch.cat(found)
