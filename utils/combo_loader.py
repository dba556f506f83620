"""Several data loaders as one."""
from collections.abc import Iterable, Iterator

from utils.data.dataset import ClassLoader


class ComboLoader:
    """Several loaders in lockstep: each step yields one batch of every loader, as a tuple; the shortest loader ends the epoch.

    Balanced-MixUp (Galdran et al., MICCAI 2021, section 2) pairs an instance-sampled with a class-balanced loader;
    plain training is the case of one loader, so that the training loop needs no distinction.
    """

    def __init__(self, loaders: Iterable[ClassLoader]):
        self.loaders = list(loaders)

    def __iter__(self) -> Iterator[tuple]:
        return zip(*self.loaders, strict=False)

    def __len__(self) -> int:
        return min(len(loader) for loader in self.loaders)

    def set_epoch(self, epoch: int, batches: int = 0) -> None:
        """Move the samplers to `epoch` (from 0) and skip its first `batches`. The loaders keep their worker processes."""
        for loader in self.loaders:
            loader.sampler.set_epoch(epoch, batches * loader.batch_size)
