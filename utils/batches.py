"""On the device: uint8 batch -> float -> augment -> normalise -> (inputs, targets)."""
import numpy as np
import torch

from .policies import AUGMENT

MIX_STREAM = 4  # of random numbers; 0 and 1 are the samplers', 2 and 3 those of `Plain`


class Normalise:
    """uint8 (B, 3, H, W) -> float32 on `device` in channels_last, (x / 255 - mean) / std per channel."""

    def __init__(self, device, mean, std):
        self.device = device
        self.mean, self.std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (mean, std))

    def to_float(self, images):
        """uint8 -> float32 of 0..1 on the device: a quarter of the bytes travels."""
        return images.to(self.device, non_blocking=True).float().div_(255)

    def standardise(self, x):
        return x.sub(self.mean).div_(self.std).contiguous(memory_format=torch.channels_last)

    def __call__(self, images):
        return self.standardise(self.to_float(images))


class Plain:
    """prepare: a combo batch -> augmented inputs (B, 3, H, W) and hard targets (B,), of its first loader.

    `augment` is a key of AUGMENT. The draws depend on (seed, stream, epoch) alone, those of the augmentation on `rank` too, so that
    processes do not repeat each other's; what mixes a batch is the same in all. `inputs` also serves to score training images as
    they are trained on.
    """

    def __init__(self, normalise, augment='original', seed=0, rank=0, stream=2):
        self.normalise, self.augment, self.seed, self.rank, self.stream = normalise, AUGMENT[augment], seed, rank, stream
        self.set_epoch(0)

    def set_epoch(self, epoch):
        self.rng = np.random.default_rng([self.seed, self.stream, epoch, self.rank])
        self.mix_rng = np.random.default_rng([self.seed, MIX_STREAM, epoch])

    def state_dict(self):
        return {name: getattr(self, name).bit_generator.state for name in ('rng', 'mix_rng')}

    def load_state_dict(self, state):
        for name, value in state.items():
            getattr(self, name).bit_generator.state = value

    def augmented(self, images):
        return self.augment(self.normalise.to_float(images), self.rng)

    def inputs(self, images):
        return self.normalise.standardise(self.augmented(images))

    def __call__(self, batch):
        images, labels, _ = batch[0]
        return self.inputs(images), labels.to(self.normalise.device, non_blocking=True)
