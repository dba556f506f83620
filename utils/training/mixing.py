"""Mix pairs of images and their labels on the device (table `MIXING`)."""
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from accelerate.utils import gather

from utils.data.sampling import get_sampling_probabilities
from utils.prediction.inference import Normalise
from utils.training.batches import BatchTransform

Array = npt.NDArray[np.float64]
Batch = Sequence[tuple[torch.Tensor, torch.Tensor, Any]]  # (uint8 images (B, 3, H, W), labels (B,), image ids) of each loader


class Mixing(BatchTransform):
    """Batch transform: combo batch -> mixed inputs (B, 3, H, W) and soft targets (B, K). Base class of MixUp and its relatives.

    class_count: training images of each class, (K,). alpha: the weight l of an image is drawn from Beta(alpha, alpha) once per batch.
    Images are mixed before normalisation, which is equivalent for a convex combination. Partners come from the batch of all processes
    together, so the pairs do not depend on the number of processes.
    """
    alpha = 1.  # published default

    def __init__(self, normalise: Normalise, class_count: npt.ArrayLike, alpha: float | None = None, augment: str = 'original',
                 seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(normalise, augment, seed, rank, world_size=world_size)
        self.class_count = torch.as_tensor(class_count).to(normalise.device)
        self.alpha = self.alpha if alpha is None else alpha

    @classmethod
    def label_shares(cls, seen: Array, class_count: Array, alpha: float, batch_size: int) -> Array:
        """Expected share of each class in the mixed labels, float64 (K,).

        seen: share of each class among the sampled images, (K,). batch_size: images per batch, over all processes. Mixing keeps the
        shares unless the weight of a label depends on its class.
        """
        return seen

    def mix(self, x: torch.Tensor, other: torch.Tensor, share: float, labels: torch.Tensor,
            other_labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
        """Mix images `x` (B, 3, H, W), with weight `share`, with their partners `other`. Both may change.

        Returns the mixed images and the weight of their own labels: one number, or (B, 1).
        """
        raise NotImplementedError

    def draw_weight(self) -> float:
        """The weight of an image, drawn once per batch. Its partner gets the rest."""
        return self.mix_rng.beta(self.alpha, self.alpha)

    def one_hot(self, labels: torch.Tensor) -> torch.Tensor:
        return F.one_hot(labels, len(self.class_count)).float()

    def to_device(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(self.normalise.device, non_blocking=True)

    def partners(self, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The partner of each image of this process and its label, from a permutation of the batch of all processes."""
        n = len(labels)
        place = self.mix_rng.permutation(n * self.world_size)[self.rank::self.world_size]  # position in the batch of all processes
        row = torch.from_numpy(place % self.world_size * n + place // self.world_size).to(x.device, non_blocking=True)
        x, labels = gather((x, labels)) if self.world_size > 1 else (x, labels)  # ordered by process
        return x[row], labels[row]

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels, _ = batch[0]
        x, labels = self.augmented(images), self.to_device(labels)
        other, other_labels = self.partners(x, labels)
        share = self.draw_weight()
        x, label_share = self.mix(x, other, share, labels, other_labels=other_labels)
        y = torch.lerp(self.one_hot(other_labels), self.one_hot(labels), label_share)
        return self.normalise.standardise(x), y


class MixUp(Mixing):
    """x = l x_i + (1 - l) x_j, y likewise; j is a permutation of the batch (Zhang et al., ICLR 2018, equation 1)."""

    def mix(self, x: torch.Tensor, other: torch.Tensor, share: float, labels: torch.Tensor,
            other_labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
        return other.lerp_(x, share), share


class CutMix(Mixing):
    """A box of the partner's image, of area 1 - l, replaces the same box of the image (Yun et al., ICCV 2019, equations 1 and 2).

    Labels are weighted by the replaced area after the box is clipped to the image.
    """

    def mix(self, x: torch.Tensor, other: torch.Tensor, share: float, labels: torch.Tensor,
            other_labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
        height, width = x.shape[-2:]
        (top, bottom), (left, right) = (self._edges(size, share) for size in (height, width))
        x[..., top:bottom, left:right] = other[..., top:bottom, left:right]
        return x, 1 - (bottom - top) * (right - left) / (height * width)

    def _edges(self, size: int, share: float) -> tuple[int, int]:
        half = int(size * (1 - share) ** .5) // 2
        centre = int(self.mix_rng.integers(size))
        return max(centre - half, 0), min(centre + half, size)


class Remix(MixUp):
    """MixUp of the images; a much rarer class may take the whole label (Chou et al., ECCV Workshops 2020, equation 4).

    Weight of the own label, per image: l_y = 0 where n_i / n_j >= ratio and l < threshold; 1 where n_i / n_j <= 1 / ratio and
    1 - l < threshold; else l.
    """
    ratio, threshold = 3., .5

    @classmethod
    def label_shares(cls, seen: Array, class_count: Array, alpha: float, batch_size: int) -> Array:
        """Exact for independently sampled images.

        In a pair of classes with different counts, the rarer class gains E[l; l < threshold], which is half the distribution function of
        Beta(alpha + 1, alpha) at the threshold. One in `batch_size` images is its own partner.
        """
        from scipy.special import betainc  # takes long to import
        count = np.asarray(class_count, np.float64)
        rarer = cls.ratio * count[:, None] <= count  # in the pair (own, partner)
        gain = (1 - 1 / batch_size) * betainc(alpha + 1, alpha, cls.threshold)  # each image is own and partner: twice the half
        return seen * (1 + gain * ((rarer.astype(float) - rarer.T) @ seen))

    def mix(self, x: torch.Tensor, other: torch.Tensor, share: float, labels: torch.Tensor,
            other_labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
        own, partner = self.class_count[labels].double(), self.class_count[other_labels].double()
        label_share = torch.full((len(labels),), share, device=x.device)
        if share < self.threshold:
            label_share.masked_fill_(own >= self.ratio * partner, 0)
        if 1 - share < self.threshold:
            label_share.masked_fill_(self.ratio * own <= partner, 1)
        return other.lerp_(x, share), label_share[:, None]


class BalancedMixUp(Mixing):
    """x = (1 - l) x_I + l x_B, y likewise, for an instance-sampled and a class-balanced batch (Galdran et al., MICCAI 2021, equation 2).

    l ~ Beta(alpha, 1), drawn once per batch.
    """
    alpha = .2
    n_loaders = 2  # the second one is class-balanced

    def draw_weight(self) -> float:
        """The weight of the class-balanced batch."""
        return self.mix_rng.beta(self.alpha, 1)

    @classmethod
    def label_shares(cls, seen: Array, class_count: Array, alpha: float, batch_size: int) -> Array:
        balanced = class_count * get_sampling_probabilities(class_count, 'class')
        return (seen + alpha * balanced) / (1 + alpha)  # the mean of Beta(alpha, 1) is alpha / (1 + alpha)

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        (images, labels, _), (balanced_images, balanced_labels, _) = batch
        # concatenated on the device: on the host, the result would not be in pinned memory, and the CPU would wait for its copy
        images, labels = (torch.cat([self.to_device(own), self.to_device(balanced)])
                          for own, balanced in ((images, balanced_images), (labels, balanced_labels)))
        x, y = self.augmented(images), self.one_hot(labels)
        share = self.draw_weight()
        x, y = (own.lerp_(balanced, share) for own, balanced in (x.chunk(2), y.chunk(2)))
        return self.normalise.standardise(x), y


MIXING: dict[str, type[Mixing] | None] = {'none': None, 'balanced_mixup': BalancedMixUp, 'mixup': MixUp, 'cutmix': CutMix, 'remix': Remix}
