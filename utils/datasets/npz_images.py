"""Read images and labels from a MedMNIST file (.npz): headers are checked before memory is allocated, and images are read one by one."""
import io
import math
import zipfile
from collections.abc import Iterator

import numpy as np

from utils.common import InputError, preview
from utils.datasets.archives import one_line, open_zip

SPLITS = ('train', 'val', 'test')
MAX_IMAGES, MAX_SIDE, MAX_CLASSES = 1_000_000, 4096, 10_000  # images of a split; pixels; the largest set has 165,466 images of 224 pixels
MAX_BYTES = 32 << 30  # limit for an unpacked file; the largest, pathmnist_224, has 16 GB
MAX_HEADER = 1 << 16  # bytes


class NpzImages:
    """The images of one array in the .npz at `path`: iterates over uint8 (H, W) or (H, W, 3). `shape`: (N, H, W) or (N, H, W, 3)."""

    def __init__(self, path: str, name: str, shape: tuple[int, ...], begin: int):
        self.path, self.name, self.shape, self._begin = path, name, shape, begin

    def __iter__(self) -> Iterator[np.ndarray]:
        shape, size = self.shape[1:], math.prod(self.shape[1:])
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f'{self.name}.npy') as f:
                f.read(self._begin)
                for _ in range(self.shape[0]):
                    yield np.frombuffer(f.read(size), np.uint8).reshape(shape)  # zipfile verifies the checksum after the last one
        except Exception as err:  # zipfile raises nearly any exception for a damaged file
            raise InputError(f'{self.path}: {self.name} is damaged: {one_line(err) or type(err).__name__}') from err


def _read_header(archive, name):
    """-> shape and data type of the array `name`, and the length of its header in bytes. Raises `InputError` if it is not an array."""
    try:
        with archive.open(f'{name}.npy') as f:
            head = io.BytesIO(f.read(MAX_HEADER))
        version = np.lib.format.read_magic(head)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, by_column, dtype = read(head)
        if not all(0 <= n < 1 << 63 for n in shape):
            raise ValueError('its shape is impossible')
        if by_column and len(shape) > 1:
            raise ValueError(f'it is stored column by column: save it again as numpy.ascontiguousarray({name})')
    except Exception as err:  # zipfile and numpy raise nearly any exception for a damaged file
        raise InputError(f'{archive.filename} is not a MedMNIST file, with images and labels for train, val and test: {name}: '
                         f'{one_line(err) or type(err).__name__}') from err
    return shape, dtype, head.tell()


def _check_size(archive, name, *, shape, dtype, begin):
    wanted, found = math.prod(shape) * dtype.itemsize, archive.getinfo(f'{name}.npy').file_size - begin
    if found != wanted:
        raise InputError(f'{archive.filename}: {name} {one_line(shape)} must have {wanted:,} bytes, not {found:,}: the file is damaged')


def _images(archive, name):
    shape, dtype, begin = _read_header(archive, name)
    if dtype != np.uint8 or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3):
        raise InputError(f'{archive.filename}: {name} must be uint8 (N, H, W) or (N, H, W, 3), not {one_line(dtype, 40)} '
                         f'{one_line(shape, 80)} (volumes are not supported)')
    if not 1 <= shape[0] <= MAX_IMAGES or not all(1 <= side <= MAX_SIDE for side in shape[1:3]):
        raise InputError(f'{archive.filename}: {name} must hold 1 to {MAX_IMAGES:,} images of 1 to {MAX_SIDE:,} pixels a side, not '
                         f'{one_line(shape, 80)}')
    _check_size(archive, name, shape=shape, dtype=dtype, begin=begin)
    return NpzImages(archive.filename, name, shape, begin)


def _labels(archive, name, n):
    """-> int64 (n,)"""
    shape, dtype, begin = _read_header(archive, name)
    if shape not in ((n,), (n, 1)) or dtype.kind not in 'iu':
        raise InputError(f'{archive.filename}: {name} must hold one class per image, as integers ({n},) or ({n}, 1), not '
                         f'{one_line(dtype, 40)} {one_line(shape, 80)} (sets with several labels per image are not supported)')
    _check_size(archive, name, shape=shape, dtype=dtype, begin=begin)
    try:
        with archive.open(f'{name}.npy') as f:
            labels = np.frombuffer(f.read()[begin:], dtype)
    except Exception as err:  # as above
        raise InputError(f'{archive.filename}: {name} is damaged: {one_line(err) or type(err).__name__}') from err
    wrong = (labels < 0) | (labels >= MAX_CLASSES)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(f'{archive.filename}: {name}, image {row}: class {labels[row]} is not in 0..{MAX_CLASSES - 1}')
    return labels.astype(np.int64)


def read_npz(path: str) -> dict[str, tuple[NpzImages, np.ndarray]]:
    """Read a set: split -> (`NpzImages`, labels int64 (N,)). Nothing that could run code is read.

    Raises `InputError` for a damaged file, and for sizes, shapes and labels that do not occur in MedMNIST.
    """
    with open_zip(path, MAX_BYTES, MAX_BYTES) as archive:
        splits = {}
        for split in SPLITS:
            images = _images(archive, f'{split}_images')
            splits[split] = images, _labels(archive, f'{split}_labels', images.shape[0])
    classes = np.unique(np.concatenate([labels for _, labels in splits.values()]))
    absent = np.setdiff1d(np.arange(classes[-1] + 1), splits['train'][1])
    if len(absent):
        raise InputError(f'{path}: train_labels has no image of class {preview(absent.tolist())}: classes must be numbered from 0 without '
                         'gaps, and each needs a training image')
    return splits
