"""Batch transform on the device: uint8 -> float -> augment -> normalise -> (inputs, targets)."""
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from utils.prediction.inference import Normalise
from utils.training.augmentation import AUGMENT

MIX_STREAM = 4  # random stream of the mixing; 0 and 1 belong to the samplers, 2 and 3 to `BatchTransform`


class SharedDraws:
    """Random draws for one of several processes, with the methods of numpy's Generator that the augmentations call.

    Numbers are drawn for the images of all processes. Each process takes numbers rank, rank + world_size, ..., as `EpochSampler`
    distributes the images. An image therefore gets the same numbers as in a training with one process.
    """

    def __init__(self, rng: np.random.Generator, rank: int, world_size: int):
        self.rng, self.mine, self.world_size, self.bit_generator = rng, slice(rank, None, world_size), world_size, rng.bit_generator

    def random(self, size):
        return self.rng.random(size * self.world_size)[self.mine]

    def uniform(self, low, high, size):
        return self.rng.uniform(low, high, size * self.world_size)[self.mine]

    def integers(self, high, size):
        return self.rng.integers(high, size=size * self.world_size)[self.mine]

    def choice(self, values, size):
        return self.rng.choice(values, size * self.world_size)[self.mine]

    def permuted(self, rows, axis):
        return self.rng.permuted(np.tile(rows, (self.world_size, 1)), axis=axis)[self.mine]


class BatchTransform:
    """Augment and normalise the batch of the first loader: combo batch -> float32 inputs (B, 3, H, W), int64 targets (B,).

    `augment` is a key of AUGMENT. The random numbers depend only on (seed, stream, epoch): process `rank` of `world_size` takes its share
    of the numbers that a single process would draw. `inputs` is also called to score training images with augmentation.
    `size`: (height, width) to resize augmented images to; None keeps their size.
    """
    n_loaders: ClassVar[int] = 1  # loaders that a combo batch comes from

    def __init__(self, normalise: Normalise, augment: str = 'original', seed: int = 0, rank: int = 0, world_size: int = 1,
                 stream: int = 2):
        self.normalise, self.augment, self.seed, self.stream = normalise, AUGMENT[augment], seed, stream
        self.rank, self.world_size = rank, world_size
        self.size: tuple[int, ...] | None = None
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        rng = np.random.default_rng([self.seed, self.stream, epoch])
        self.rng = SharedDraws(rng, self.rank, self.world_size) if self.world_size > 1 else rng
        self.mix_rng = np.random.default_rng([self.seed, MIX_STREAM, epoch])

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name).bit_generator.state for name in ('rng', 'mix_rng')}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            getattr(self, name).bit_generator.state = value

    def augmented(self, images: torch.Tensor) -> torch.Tensor:
        x = self.augment(self.normalise.to_float(images), self.rng)
        return x if self.size is None else F.interpolate(x, self.size, mode='bilinear', antialias=True)

    def inputs(self, images: torch.Tensor) -> torch.Tensor:
        return self.normalise.standardise(self.augmented(images))

    def __call__(self, batch: tuple) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels, _ = batch[0]
        return self.inputs(images), labels.to(self.normalise.device, non_blocking=True)
