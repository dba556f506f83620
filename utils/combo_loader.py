"""Combine several data loaders into one."""
from collections.abc import Iterable, Iterator

from utils.data.dataset import ClassLoader


class ComboLoader:
    """Iterate over several loaders in lockstep: each step yields a tuple of batches. The epoch ends with the shortest loader.

    Balanced-MixUp (Galdran et al., MICCAI 2021, section 2) pairs an instance-sampled and a class-balanced loader. Plain training uses
    one loader, so that the training loop is the same.
    """

    def __init__(self, loaders: Iterable[ClassLoader]):
        self.loaders = list(loaders)

    def __iter__(self) -> Iterator[tuple]:
        return zip(*self.loaders, strict=False)

    def __len__(self) -> int:
        return min(len(loader) for loader in self.loaders)

    def set_epoch(self, epoch: int, batches: int = 0) -> None:
        """Move the samplers to `epoch` (from 0) and skip its first `batches`; worker processes are kept."""
        for loader in self.loaders:
            loader.sampler.set_epoch(epoch, batches * loader.batch_size)
