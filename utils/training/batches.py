"""On the device: uint8 batch -> float -> augment -> normalise -> (inputs, targets)."""
import numpy as np
import torch
import torch.nn.functional as F

from utils.training.policies import AUGMENT

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


class SharedDraws:
    """What the policies call of numpy's Generator, for one of several processes: drawn for the images of all of them, of which this
    one takes rank, rank + world_size, ..., as `EpochSampler` deals them out. So an image gets the draws it has in one process."""

    def __init__(self, rng, rank, world_size):
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


class Plain:
    """prepare: a combo batch -> augmented inputs (B, 3, H, W) and hard targets (B,), of its first loader.

    `augment` is a key of AUGMENT. The draws depend on (seed, stream, epoch) alone: several processes, of which this is the
    `rank`-th, draw for their common batch what one would. `inputs` also serves to score training images as they are trained on.
    `size` (height, width) is what augmented images are shrunk to; None leaves them.
    """
    size: tuple | None = None

    def __init__(self, normalise, augment='original', seed=0, rank=0, world_size=1, stream=2):
        self.normalise, self.augment, self.seed, self.stream = normalise, AUGMENT[augment], seed, stream
        self.rank, self.world_size = rank, world_size
        self.set_epoch(0)

    def set_epoch(self, epoch):
        rng = np.random.default_rng([self.seed, self.stream, epoch])
        self.rng = SharedDraws(rng, self.rank, self.world_size) if self.world_size > 1 else rng
        self.mix_rng = np.random.default_rng([self.seed, MIX_STREAM, epoch])

    def state_dict(self):
        return {name: getattr(self, name).bit_generator.state for name in ('rng', 'mix_rng')}

    def load_state_dict(self, state):
        for name, value in state.items():
            getattr(self, name).bit_generator.state = value

    def augmented(self, images):
        x = self.augment(self.normalise.to_float(images), self.rng)
        return x if self.size is None else F.interpolate(x, self.size, mode='bilinear', antialias=True)

    def inputs(self, images):
        return self.normalise.standardise(self.augmented(images))

    def __call__(self, batch):
        images, labels, _ = batch[0]
        return self.inputs(images), labels.to(self.normalise.device, non_blocking=True)
