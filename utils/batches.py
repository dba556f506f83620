"""On the device: uint8 batch -> float -> augment -> normalise -> plain or Balanced-MixUp (inputs, targets)."""
import numpy as np
import torch
import torch.nn.functional as F

from .augment import draw_params, jitter, move


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
    """prepare: a combo batch of one loader -> augmented inputs (B, 3, H, W) and hard targets (B,).

    The draws depend on (seed, stream, epoch) alone. `inputs` also serves to score training images as they are trained on.
    """

    def __init__(self, normalise, seed=0, stream=2):
        self.normalise, self.seed, self.stream = normalise, seed, stream
        self.set_epoch(0)

    def set_epoch(self, epoch):
        self.rng = np.random.default_rng([self.seed, self.stream, epoch])

    def augmented(self, images):
        params = draw_params(self.rng, len(images), images.shape[-1])
        return jitter(move(self.normalise.to_float(images), params), params)

    def inputs(self, images):
        return self.normalise.standardise(self.augmented(images))

    def __call__(self, batch):
        (images, labels, _), = batch
        return self.inputs(images), labels.to(self.normalise.device, non_blocking=True)


class BalancedMixUp(Plain):
    """prepare: a combo batch of an instance- and a class-balanced loader -> mixed inputs and soft targets (B, K).

    x = (1 - l) x_I + l x_B, y likewise, l ~ Beta(alpha, 1), one draw a batch (Galdran et al., MICCAI 2021, equation 2).
    Mixed before normalising, which is the same for a convex combination and touches half the pixels.
    """

    def __init__(self, normalise, n_classes, alpha, seed=0):
        super().__init__(normalise, seed)
        self.n_classes, self.alpha = n_classes, alpha

    def __call__(self, batch):
        (images, labels, _), (balanced_images, balanced_labels, _) = batch
        x = self.augmented(torch.cat([images, balanced_images]))
        y = F.one_hot(torch.cat([labels, balanced_labels]), self.n_classes).float().to(x.device, non_blocking=True)
        weight = self.rng.beta(self.alpha, 1)
        x, y = (torch.lerp(*both.chunk(2), weight) for both in (x, y))
        return self.normalise.standardise(x), y
