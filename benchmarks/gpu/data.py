"""Make synthetic data sets with EyePACS's class proportions, already decoded.

The image files are small and contain noise. The program's own image cache holds them enlarged, so no stage decodes or resizes images
while it measures.
"""
import glob
import os
import shutil
import time
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from utils.common import gigabytes
from utils.data.image_cache import SPARE, use_cache
from utils.data.image_hashes import hash_file
from utils.datasets.demo import counts_of
from utils.get_loaders import ClassDataset

from .checks import Found, Skip, Stage

N_CLASSES = 5
NOISE = 32  # height and width of the image files, in pixels
N_DECODED = 61  # distinct images in the cache of a split; a prime number, so that batches differ


class FewDecoded(ClassDataset):
    """Dataset that repeats its first N_DECODED images. With few cores, decoding 35 GB would take longer than writing them."""

    @cached_property
    def decoded(self):
        return [super(FewDecoded, self).decode_and_hash(i, with_hash=False)[0] for i in range(min(N_DECODED, len(self)))]

    def decode_and_hash(self, index, with_hash=True):
        return self.decoded[index % N_DECODED], hash_file(self.paths[index])


class Set(NamedTuple):
    """Numbers of training and validation images in a synthetic data set."""
    n_train: int
    n_val: int


# Sets for batches of 64, for batches of 64 with a large network, and for batches of 8. `warm` has exactly the batch sizes of `eyepacs`: 64
# in training; 256 and 185 in evaluation, which scores the validation set and a training sample of the same size.
SETS = {
    'b64': Set(3840, 512), 'b64_large': Set(2048, 512), 'b8': Set(512, 128), 'warm': Set(448, 441), 'eyepacs': Set(31_613, 3_513)}
TOY_SETS = {'b64': Set(16, 8), 'b64_large': Set(16, 8), 'b8': Set(8, 8), 'warm': Set(8, 8), 'eyepacs': Set(32, 8)}
IM_SIZE, TOY_IM_SIZE = 512, 32


def im_size(stage: Stage) -> int:
    return TOY_IM_SIZE if stage.toy else IM_SIZE


def n_workers() -> int:
    """-> number of cores that this process may use, less one for training"""
    return max(1, len(os.sched_getaffinity(0)) - 1)


def flags_of(stage: Stage, name: str, batch_size: int) -> list[str]:
    """-> flags of the train script for the set `name`. Raises `Skip` if the set does not exist."""
    folder, size = os.path.join(stage.data, name), im_size(stage)
    if not glob.glob(f'{glob.escape(folder)}/cache/*.npy'):
        raise Skip(f'there are no synthetic images for {name}: run the data stage first, or see data.log')
    flags = {'csv_train': f'{folder}/train.csv', 'csv_val': f'{folder}/val.csv', 'data_path': f'{folder}/images',
             'cache_dir': f'{folder}/cache', 'n_classes': N_CLASSES, 'im_size': size, 'batch_size': batch_size,
             'num_workers': 0 if stage.toy else n_workers(), 'init': 'none', 'metric': 'mcc', 'lr': .001}
    return [f'--{flag}={value}' for flag, value in flags.items()]


def run(stage: Stage) -> None:
    for name, sizes in (TOY_SETS if stage.toy else SETS).items():
        stage.check(f'data {name}', write_set, stage, name, sizes)


def write_set(stage, name, sizes):
    """Write the images, csvs and cache of one set to `stage.data`."""
    start, folder, size = time.monotonic(), os.path.join(stage.data, name), im_size(stage)
    os.makedirs(os.path.join(folder, 'images'))
    needed, free = sum(sizes) * 3 * size ** 2, shutil.disk_usage(folder).free
    if needed + SPARE > free:
        raise Skip(f'needs {gigabytes(needed)} and {gigabytes(SPARE)} to spare, but {folder} has {gigabytes(free)} free: choose another '
                   'folder with --data')
    rng = np.random.default_rng(sum(sizes))
    sets = []
    for split, n in zip(('train', 'val'), sizes, strict=True):
        labels = rng.permutation(np.repeat(range(N_CLASSES), counts_of(n)))  # slightly more than n if a class would be empty
        ids = [f'{split}_{i:05d}' for i in range(len(labels))]
        for image_id in ids:
            noise = Image.fromarray(rng.integers(0, 256, (NOISE, NOISE, 3), np.uint8))
            noise.save(os.path.join(folder, 'images', f'{image_id}.jpg'))
        csv = os.path.join(folder, f'{split}.csv')
        pd.DataFrame({'image_id': ids, 'label': labels}).to_csv(csv, index=False)
        sets.append(FewDecoded(csv, os.path.join(folder, 'images'), (size, size)))
        sets[-1].decoded  # noqa: B018  computed before threads use it
    use_cache(sets, os.path.join(folder, 'cache'), n_workers())
    seconds = time.monotonic() - start
    return Found(f'{sum(sizes):,} images of {size}x{size} in {seconds:.1f} s', {'n_images': sum(sizes)})
