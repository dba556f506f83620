"""Dataset of one csv: labels, image ids, files, and the images as uint8 tensors."""
from collections.abc import Callable, Sequence
from functools import cached_property, wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from utils.common import InputError
from utils.data.files import find_images, stat_images
from utils.data.image_hashes import content_hash, hash_files
from utils.data.images import decode_image, is_of_one_colour
from utils.data.label_column import NAME_COLUMNS, NO_LABELS, drop_empty_columns, find_label_column
from utils.data.prefetch import WITH_OWN_MEMORY, prefetch
from utils.data.read_csv import read_csv

MAX_CLASSES = 10**6
P = ParamSpec('P')  # of a function
R = TypeVar('R')


def accept_tg_size(function: Callable[P, R]) -> Callable[P, R]:
    """Let `function` accept `tg_size`, the keyword of the original, instead of `im_size`."""
    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if 'tg_size' in kwargs:
            kwargs['im_size'] = kwargs.pop('tg_size')
        return function(*args, **kwargs)
    return call


class ClassDataset(Dataset):
    """Images of one csv: items are (uint8 tensor (3, H, W), label, image_id).

    The csv has columns `image_id`, optional `patient_id` and `name`, and the integer class in `label_column` (default: the last column,
    see `find_label_column`). `labels`, int64 (N,), is -1 for values that are not integers, which `check_data` reports, and in every row of
    a csv without labels (`has_labels` is False).

    `im_size`: (height, width) in pixels. `test`: ignore the labels. `allow_outside`: accept images outside `data_path`.
    Raises `InputError` for a csv that cannot be read or has no column image_id, and for ids that match several files.
    """

    @accept_tg_size
    def __init__(self, csv_path: str, data_path: str | None = None, im_size: tuple[int, int] = (512, 512), test: bool = False, *,
                 allow_outside: bool = False, label_column: str | None = None):
        table, self.rows = read_csv(csv_path)
        if 'image_id' not in table.columns:
            raise InputError(f"{csv_path} has no column 'image_id' (its columns: {', '.join(table.columns)}): rename the column with "
                             'the image files')
        table = drop_empty_columns(table, label_column)
        self.csv_path, self.data_path, self.im_size, self.table, self.allow_outside = csv_path, data_path, im_size, table, allow_outside
        self.skipped = []  # see `leave_out_bad_images`
        self.image_ids = table.image_id.fillna('').tolist()
        try:
            self.paths = find_images(self.image_ids, data_path, self.rows)
        except InputError as err:
            raise InputError(f'{csv_path}: {err}') from None
        self.label_column = find_label_column(table, csv_path, NO_LABELS if test else label_column)
        self.has_labels = self.label_column is not None
        labels = pd.to_numeric(table[self.label_column], errors='coerce') if self.has_labels else pd.Series(-1., table.index)
        self.labels = labels.where((labels % 1 == 0) & (labels.abs() < MAX_CLASSES), -1).to_numpy(np.int64)
        self.cache: Any = None  # an object that returns decoded images: see `use_cache` and `copy_to_device`
        self.hashes: np.ndarray | None = None  # see `content_hashes`; set by code that reads all files anyway

    @property
    def dr(self) -> np.ndarray:
        """The labels, under their name in the original."""
        return self.labels

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, str]:
        images, labels, image_ids = self.__getitems__([index])
        return images[0], labels[0], image_ids[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        """Return a whole batch for a data loader: uint8 (B, 3, H, W), int64 (B,) and a list of B ids."""
        images = self.cache.read(indices) if self.cache else torch.stack([self.decode(i) for i in indices])
        return images, torch.from_numpy(self.labels[indices]), [self.image_ids[i] for i in indices]

    def decode(self, index: int) -> torch.Tensor:
        """Decode the image from its file, not from the cache: uint8 (3, H, W)."""
        return self.decode_and_hash(index, with_hash=False)[0]

    def decode_and_hash(self, index: int, with_hash: bool = True) -> tuple[torch.Tensor, int | None]:
        """Decode the image from its file, and return it with the hash of the file (None unless `with_hash`)."""
        path = self.paths[index]
        assert path is not None, 'check_data refuses missing images'
        try:
            with open(path, 'rb') as f:
                content = f.read()
            return decode_image(content, self.im_size), content_hash(content) if with_hash else None
        except OSError as err:
            raise InputError(f'{path} (from {self.csv_path}) cannot be read as an image: {err} '
                             '(--skip_bad_images of the train and test scripts skips it)') from err

    def are_of_one_colour(self, image_ids: Sequence[str]) -> bool:
        """Return whether each of these images has a single colour."""
        rows = dict(zip(self.image_ids, range(len(self)), strict=True))
        return all(is_of_one_colour(self.decode(rows[image_id])) for image_id in image_ids)

    def keep(self, mask: np.ndarray) -> None:
        """Keep only the rows where `mask`, bool (N,), is True."""
        self.table, self.rows, self.labels = self.table[mask].reset_index(drop=True), self.rows[mask], self.labels[mask]
        self.image_ids = [image_id for image_id, kept in zip(self.image_ids, mask, strict=True) if kept]
        self.paths = [path for path, kept in zip(self.paths, mask, strict=True) if kept]
        self.hashes = None if self.hashes is None else self.hashes[mask]
        vars(self).pop('file_stats', None)

    def content_hashes(self, n_threads: int = 1) -> np.ndarray:
        """Return the hash of each file: int64 (N,), 0 for a missing file. The files are read only once."""
        if self.hashes is None:
            self.hashes = hash_files(self.paths, n_threads)
        return self.hashes

    @cached_property
    def file_stats(self) -> np.ndarray:
        """int64 (N, 4), see `stat_images`."""
        return stat_images(self.paths)

    @property
    def stats(self) -> np.ndarray:
        """Size in bytes and modification time in nanoseconds of each file, int64 (N, 2); -1 for a missing file."""
        return self.file_stats[:, :2]

    def class_names(self, n_classes: int) -> list[str]:
        """Return the class names from the column `name` (or `finding_name`, as in the original).

        Classes without a name are called C0, C1, ..., or DR0, ..., DR4 for the five grades of a csv called *_eyepacs.csv.
        """
        names = dict(self.named_classes())
        prefix = 'DR' if n_classes == 5 and str(self.csv_path).endswith('_eyepacs.csv') else 'C'
        return [names.get(c, f'{prefix}{c}') for c in range(n_classes)]

    def named_classes(self) -> list[tuple[int, str]]:
        """Return the distinct (class, name) pairs of the csv, sorted."""
        column = next((c for c in NAME_COLUMNS if c in self.table.columns), None)
        return sorted(set(zip(self.labels.tolist(), self.table[column].fillna(''), strict=True))) if column and self.has_labels else []


class ClassLoader(DataLoader):
    """Data loader of a `ClassDataset`: batches (images uint8 (B, 3, H, W), labels int64 (B,), image ids).

    `device`: where the batches are needed. A GPU gets images and labels of the host ahead of their use (`prefetch`). `options`:
    those of `DataLoader`.
    """
    dataset: ClassDataset
    batch_size: int
    sampler: Any  # an `EpochSampler` in training, a sequence of indices in evaluation

    def __init__(self, dataset: ClassDataset, device: torch.device | None = None, **options: Any):
        super().__init__(dataset, **options)
        self.device = device or torch.device('cpu')

    def __iter__(self) -> Any:
        on_device = getattr(self.dataset.cache, 'on_device', False)
        if on_device:
            self.num_workers = 0  # a forked process cannot use CUDA
        batches = super().__iter__()
        return batches if on_device or self.device.type not in WITH_OWN_MEMORY else prefetch(batches, self.device)
