"""Two images as one, on the device: table `MIXING`."""
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import gather
from scipy.special import betainc

from utils.data.sampling import get_sampling_probabilities
from utils.training.batches import Plain


class Mixing(Plain):
    """prepare: a combo batch -> mixed inputs and soft targets (B, K), with one draw of l ~ Beta(alpha, alpha) a batch.

    class_count: TRAIN images of each class, (K,). Images are mixed before normalising, which is the same for a convex combination.
    Partners come from the common batch of all processes, so that any number of them mixes the same pairs.
    """
    alpha = 1.  # published default
    n_loaders = 1  # 2: the batch has a second, class-balanced loader
    mix: Callable  # (x, partners, share, labels, labels of the partners) -> mixed x, share of the own label

    def __init__(self, normalise, class_count, alpha=None, augment='original', seed=0, rank=0, world_size=1):
        super().__init__(normalise, augment, seed, rank, world_size)
        self.class_count = torch.as_tensor(class_count).to(normalise.device)
        self.alpha = self.alpha if alpha is None else alpha

    @classmethod
    def label_shares(cls, seen, class_count, alpha, batch_size):
        """Expected shares of the classes in the mixed labels, float64 (K,), where images are drawn with the class shares `seen` (K,) into
        common batches of `batch_size`. They stay as they are unless the share of a label depends on its class."""
        return seen

    def one_hot(self, labels):
        return F.one_hot(labels, len(self.class_count)).float()

    def to_device(self, values):
        return values.to(self.normalise.device, non_blocking=True)

    def partners(self, x, labels):
        """-> what a permutation of the common batch puts beside each image of this process, and the labels"""
        n = len(labels)
        place = self.mix_rng.permutation(n * self.world_size)[self.rank::self.world_size]  # in the common batch
        row = torch.from_numpy(place % self.world_size * n + place // self.world_size).to(x.device, non_blocking=True)
        x, labels = gather((x, labels)) if self.world_size > 1 else (x, labels)  # one process after the other
        return x[row], labels[row]

    def __call__(self, batch):
        images, labels, _ = batch[0]
        x, labels = self.augmented(images), self.to_device(labels)
        other, other_labels = self.partners(x, labels)
        share = self.mix_rng.beta(self.alpha, self.alpha)  # of the image itself; the rest is its partner's
        x, label_share = self.mix(x, other, share, labels, other_labels)
        y = torch.lerp(self.one_hot(other_labels), self.one_hot(labels), label_share)
        return self.normalise.standardise(x), y


class MixUp(Mixing):
    """x = l x_i + (1 - l) x_j, y likewise; j is a permutation of the batch (Zhang et al., ICLR 2018, equation 1)."""

    def mix(self, x, other, share, labels, other_labels):
        return torch.lerp(other, x, share), share


class CutMix(Mixing):
    """A box of the partner's image of area 1 - l replaces the same box (Yun et al., ICCV 2019, equations 1 and 2); the labels are
    mixed by the area that remains after the box is clipped to the image."""

    def mix(self, x, other, share, labels, other_labels):
        height, width = x.shape[-2:]
        edges = []
        for size in (height, width):
            half = int(size * (1 - share) ** .5) // 2
            centre = self.mix_rng.integers(size)
            edges.append(slice(max(centre - half, 0), min(centre + half, size)))
        x[..., edges[0], edges[1]] = other[..., edges[0], edges[1]]
        area = (edges[0].stop - edges[0].start) * (edges[1].stop - edges[1].start)
        return x, 1 - area / (height * width)


class Remix(MixUp):
    """MixUp of the images, but the rarer class keeps the whole label when the other one has at least `ratio` times its training
    images and the rarer one a share below `threshold` or more (Chou et al., ECCV Workshops 2020, equation 4): per image,
    l_y = 0 where n_i / n_j >= ratio and l < threshold; 1 where n_i / n_j <= 1 / ratio and 1 - l < threshold; else l."""
    ratio, threshold = 3., .5

    @classmethod
    def label_shares(cls, seen, class_count, alpha, batch_size):
        """Exact for images drawn independently. In a pair of classes with different counts the rarer one gains E[l; l < threshold], which
        is half the distribution function of Beta(alpha + 1, alpha) at the threshold; one image in `batch_size` is its own partner."""
        count = np.asarray(class_count, np.float64)
        rarer = cls.ratio * count[:, None] <= count  # of the pair (own, partner)
        gain = (1 - 1 / batch_size) * betainc(alpha + 1, alpha, cls.threshold)  # an image is both own and partner: twice the half
        return seen * (1 + gain * ((rarer.astype(float) - rarer.T) @ seen))

    def mix(self, x, other, share, labels, other_labels):
        own, partner = self.class_count[labels].double(), self.class_count[other_labels].double()
        label_share = torch.full((len(labels),), share, device=x.device)
        if share < self.threshold:
            label_share.masked_fill_(own >= self.ratio * partner, 0)
        if 1 - share < self.threshold:
            label_share.masked_fill_(self.ratio * own <= partner, 1)
        return torch.lerp(other, x, share), label_share[:, None]


class BalancedMixUp(Mixing):
    """x = (1 - l) x_I + l x_B, y likewise, of an instance-sampled and a class-balanced batch, l ~ Beta(alpha, 1), one draw a
    batch (Galdran et al., MICCAI 2021, equation 2)."""
    alpha = .2
    n_loaders = 2

    @classmethod
    def label_shares(cls, seen, class_count, alpha, batch_size):
        balanced = class_count * get_sampling_probabilities(class_count, 'class')
        return (seen + alpha * balanced) / (1 + alpha)  # the mean of Beta(alpha, 1) is alpha / (1 + alpha)

    def __call__(self, batch):
        (images, labels, _), (balanced_images, balanced_labels, _) = batch
        # joined on the device: joined before, the images would lie in memory that is not pinned, and the CPU would wait for their copy
        images, labels = (torch.cat([self.to_device(own), self.to_device(balanced)])
                          for own, balanced in ((images, balanced_images), (labels, balanced_labels)))
        x, y = self.augmented(images), self.one_hot(labels)
        share = self.mix_rng.beta(self.alpha, 1)
        x, y = (torch.lerp(*both.chunk(2), share) for both in (x, y))
        return self.normalise.standardise(x), y


MIXING = {'none': None, 'balanced_mixup': BalancedMixUp, 'mixup': MixUp, 'cutmix': CutMix, 'remix': Remix}
