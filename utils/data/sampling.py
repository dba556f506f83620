"""Which image comes when: the stream of indices of an epoch, table `SAMPLING`."""
import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler):
    """Draws one epoch of N indices, `mode` a key of SAMPLING, as one global stream that depends only on (seed, stream,
    epoch): worker processes, resuming and the number of processes (`rank` of `world_size`) do not change it. Cut to whole
    training steps of `step` images, so that every process makes as many; a step has the same images for any number of processes.

    `instance` is a shuffle without replacement; the other modes draw a class, then one of its images, with replacement.
    """

    def __init__(self, labels, mode='instance', n_epochs=1, seed=0, stream=0, rank=0, world_size=1, step=1):
        self.labels, self.mode, self.n_epochs, self.seed, self.stream = np.asarray(labels), mode, n_epochs, seed, stream
        self.rank, self.world_size, self.step = rank, world_size, step
        self.epoch = self.start = 0
        self.length = len(self.labels) // step * step
        self.class_count = np.bincount(self.labels)
        self.by_class = np.argsort(self.labels, kind='stable')
        self.first = np.cumsum(self.class_count) - self.class_count

    def set_epoch(self, epoch, start=0):
        """`start`: indices of this process that have been drawn already, by a run that was interrupted within the epoch."""
        self.epoch, self.start = epoch, start

    def __len__(self):
        return len(range(self.rank, self.length, self.world_size))

    def __iter__(self):
        rng, n = np.random.default_rng([self.seed, self.stream, self.epoch]), len(self.labels)
        if self.mode == 'instance':
            indices = rng.permutation(n)
        else:
            p = self.class_count * get_sampling_probabilities(self.class_count, self.mode, self.epoch, self.n_epochs)
            classes = rng.choice(len(p), size=n, p=p / p.sum())
            indices = self.by_class[self.first[classes] + (rng.random(n) * self.class_count[classes]).astype(np.int64)]
        return iter(indices[self.rank:self.length:self.world_size][self.start:].tolist())


def draw_stratified(labels, n, seed):
    """Draw `n` of the images with these `labels`, int64 (N,), without replacement, so that each class keeps its share -> their indices,
    in order."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind='stable')]
    return np.sort(by_class[np.arange(n) * len(labels) // n]).tolist()


def _progressive(n, ep, n_eps):
    if ep is None or n_eps is None:
        raise ValueError('progressive sampling needs ep and n_eps')
    t = min(ep / max(n_eps - 1, 1), 1)
    return (1 - t) * n / n.sum() + t / len(n)


# mode -> share of each class, up to a factor: p_c ~ n_c^q, or the way from instance to class over the epochs
# (Kang et al., ICLR 2020, equations 1 and 2).
SAMPLING = {
    'instance': lambda n, ep, n_eps: n,
    'sqrt': lambda n, ep, n_eps: n ** (1 / 2),
    'cbrt': lambda n, ep, n_eps: n ** (1 / 3),
    'class': lambda n, ep, n_eps: n ** 0,
    'prog': _progressive,
}


def get_sampling_probabilities(class_count, mode='instance', ep=None, n_eps=None):
    """Probability of ONE example of each class, float64 (K,): `class_count @ result` is 1. A class without examples
    has probability 0. `ep` counts from 0 to `n_eps` - 1 and is needed by 'prog' only."""
    count = np.asarray(class_count, np.float64)
    present = count > 0
    share = SAMPLING[mode](count[present], ep, n_eps)
    result = np.zeros(len(count))
    result[present] = share / share.sum() / count[present]
    return result
