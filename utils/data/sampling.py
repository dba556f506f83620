"""Samplers: the order of the training images in each epoch (table `SAMPLING`), and stratified samples for evaluation."""
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler):
    """Sampler that draws one global stream of N indices per epoch; each process (`rank` of `world_size`) yields its share.

    The stream depends only on (seed, stream, epoch), not on worker processes, resuming or the number of processes. It is truncated to
    whole training steps of `step` images. All processes therefore take the same number of steps, and a step has the same images for
    any number of processes.

    `labels`: int (N,). `mode`: a key of SAMPLING. 'instance' shuffles without replacement. The other modes draw a class, then one of
    its images, with replacement.
    """

    def __init__(self, labels: Sequence[int] | np.ndarray, mode: str = 'instance', *, n_epochs: int = 1, seed: int = 0, stream: int = 0,
                 rank: int = 0, world_size: int = 1, step: int = 1):
        self.labels, self.mode, self.n_epochs, self.seed, self.stream = np.asarray(labels), mode, n_epochs, seed, stream
        self.rank, self.world_size, self.step = rank, world_size, step
        self.epoch = self.start = 0
        self.length = len(self.labels) // step * step
        self.class_count = np.bincount(self.labels)
        self.by_class = np.argsort(self.labels, kind='stable')
        self.first = np.cumsum(self.class_count) - self.class_count

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Move to `epoch`. `start`: number of indices of this process to skip when an interrupted epoch is resumed."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return len(range(self.rank, self.length, self.world_size))

    def __iter__(self) -> Iterator[int]:
        rng, n = np.random.default_rng([self.seed, self.stream, self.epoch]), len(self.labels)
        if self.mode == 'instance':
            indices = rng.permutation(n)
        else:
            p = self.class_count * get_sampling_probabilities(self.class_count, self.mode, self.epoch, self.n_epochs)
            classes = rng.choice(len(p), size=n, p=p / p.sum())
            indices = self.by_class[self.first[classes] + (rng.random(n) * self.class_count[classes]).astype(np.int64)]
        return iter(indices[self.rank:self.length:self.world_size][self.start:].tolist())


def draw_stratified(labels: np.ndarray, n: int, seed: int) -> list[int]:
    """Draw `n` images without replacement so that each class keeps its share; return their indices in order. `labels`: int64 (N,)."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind='stable')]
    return np.sort(by_class[np.arange(n) * len(labels) // n]).tolist()


def _progressive(n, ep, n_eps):
    if ep is None or n_eps is None:
        raise ValueError('progressive sampling needs ep and n_eps')
    t = min(ep / max(n_eps - 1, 1), 1)
    return (1 - t) * n / n.sum() + t / len(n)


# mode -> share of each class, up to a factor: p_c ~ n_c^q, or a transition from 'instance' to 'class' over the epochs
# (Kang et al., ICLR 2020, equations 1 and 2).
SAMPLING = {
    'instance': lambda n, ep, n_eps: n,
    'sqrt': lambda n, ep, n_eps: n ** (1 / 2),
    'cbrt': lambda n, ep, n_eps: n ** (1 / 3),
    'class': lambda n, ep, n_eps: n ** 0,
    'prog': _progressive,
}


def get_sampling_probabilities(class_count: Sequence[int] | np.ndarray, mode: str = 'instance', ep: int | None = None,
                               n_eps: int | None = None) -> np.ndarray:
    """Return the probability of ONE example of each class, float64 (K,), so that `class_count @ result` is 1.

    A class without examples has probability 0. `ep` counts from 0 to `n_eps` - 1; only 'prog' needs them (else `ValueError`).
    """
    count = np.asarray(class_count, np.float64)
    present = count > 0
    share = SAMPLING[mode](count[present], ep, n_eps)
    result = np.zeros(len(count))
    result[present] = share / share.sum() / count[present]
    return result
