"""Images that stay on the device: a batch is a gather, without worker processes and copies from the host."""
import math
from collections.abc import Sequence

import numpy as np
import torch

from utils.common import progress
from utils.data.dataset import ClassDataset
from utils.data.image_cache import CachedImages, map_in_threads

CHUNK = 8 << 20  # bytes that one thread reads at a time
WORDS = torch.int64, torch.int32, torch.int16, torch.uint8


class DeviceArray:
    """Replaces the image cache of a dataset: item i is `values[rows[i]]`.

    `values`: (N, ...) on any device, such as images or features. `rows`: int64, one for each item; None for all rows in order.
    """
    on_device = True  # so no copies from the host are needed

    def __init__(self, values: torch.Tensor, rows: np.ndarray | None = None):
        self.shape, self.dtype, self.rows = values.shape[1:], values.dtype, rows
        row_bytes = math.prod(self.shape) * values.element_size()
        # A gather copies element by element, so it is faster with fewer, larger elements.
        word = next(word for word in WORDS if row_bytes % word.itemsize == 0)
        self.words = values.flatten(1).contiguous().view(torch.uint8).view(word)

    def read(self, indices: Sequence[int]) -> torch.Tensor:
        """Return copies of items, (B, ...), on the device."""
        rows = np.asarray(indices, np.int64) if self.rows is None else self.rows[indices]
        words = self.words.index_select(0, torch.from_numpy(rows).to(self.words.device, non_blocking=True))
        return words.view(self.dtype).view(len(rows), *self.shape)


def n_bytes_of(*datasets: ClassDataset) -> int:
    """Size in bytes of the distinct images of `datasets`, which share an image cache."""
    return len(np.unique(np.concatenate([data.cache.rows for data in datasets]))) * 3 * math.prod(datasets[0].im_size)


def copy_to_device(datasets: Sequence[ClassDataset], device: torch.device, n_threads: int = 1) -> None:
    """Replace the image cache that `datasets` share by one copy on `device`. Raises `InputError` if an image does not match its checksum.

    `n_threads`: threads that read the file.
    """
    cache: CachedImages = datasets[0].cache
    rows, items = np.unique(np.concatenate([data.cache.rows for data in datasets]), return_inverse=True)
    distinct = CachedImages(cache.path, rows, cache.key, cache.pin)
    images = torch.empty((len(rows), 3, *datasets[0].im_size), dtype=torch.uint8, device=device)
    chunks = np.split(np.arange(len(rows)), range(0, len(rows), max(CHUNK // (3 * math.prod(datasets[0].im_size)), 1))[1:])
    with progress(len(rows), 'copy to device') as bar:
        for chunk, read in zip(chunks, map_in_threads(distinct.read, chunks, n_threads), strict=True):
            images[chunk[0]:chunk[-1] + 1].copy_(read, non_blocking=True)
            bar.update(len(chunk))
    for data, own in zip(datasets, np.split(items, np.cumsum([len(data) for data in datasets])[:-1]), strict=True):
        data.cache = DeviceArray(images, own)
