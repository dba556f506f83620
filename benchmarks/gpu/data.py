"""Synthetic sets with EyePACS's class proportions, already decoded: small noise images, whose enlarged arrays the program's own cache
holds. Nothing is decoded or resized while the other stages measure."""
import glob
import os
import shutil
import time
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from utils.data.image_cache import SPARE, use_cache
from utils.data.image_hashes import hash_file
from utils.datasets.demo import counts_of
from utils.get_loaders import ClassDataset

from .checks import Found, Skip, Stage

N_CLASSES, NOISE = 5, 32  # NOISE: side of the images before they are enlarged, in pixels
N_DECODED = 61  # different arrays of a split; a prime number, so that batches differ


class FewDecoded(ClassDataset):
    """Fills the array with its first images again and again: on few cores, decoding 35 GB would take longer than writing them."""

    @cached_property
    def decoded(self):
        return [super(FewDecoded, self).decode_and_hash(i, with_hash=False)[0] for i in range(min(N_DECODED, len(self)))]

    def decode_and_hash(self, index, with_hash=True):
        return self.decoded[index % N_DECODED], hash_file(self.paths[index])


class Set(NamedTuple):
    """A set of synthetic images: its number of training and of validation images."""
    n_train: int
    n_val: int


# For batches of 64, of 64 of a large network, of 8. `warm` has the same sizes of batch as `eyepacs`, and no other: 64 in training, 256 and
# 185 in evaluation, of the validation set and of a sample of the training set that is as large.
SETS = {
    'b64': Set(5120, 512), 'b64_large': Set(2048, 512), 'b8': Set(512, 128), 'warm': Set(448, 441), 'eyepacs': Set(31_613, 3_513)}
TOY_SETS = {'b64': Set(16, 8), 'b64_large': Set(16, 8), 'b8': Set(8, 8), 'warm': Set(8, 8), 'eyepacs': Set(32, 8)}
IM_SIZE, TOY_IM_SIZE = 512, 32


def im_size(stage: Stage) -> int:
    return TOY_IM_SIZE if stage.toy else IM_SIZE


def n_workers() -> int:
    """Cores that this process may use, but for the one that trains."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


def flags_of(stage: Stage, name: str, batch_size: int) -> list[str]:
    """Flags of the train script for the set `name`. Raises `Skip` where there is none."""
    folder, size = os.path.join(stage.data, name), im_size(stage)
    if not glob.glob(f'{glob.escape(folder)}/cache/*.npy'):
        raise Skip(f'there are no synthetic images {name}: the stage data makes them, see data.log')
    flags = {'csv_train': f'{folder}/train.csv', 'csv_val': f'{folder}/val.csv', 'data_path': f'{folder}/images',
             'cache_dir': f'{folder}/cache', 'n_classes': N_CLASSES, 'im_size': size, 'batch_size': batch_size,
             'num_workers': 0 if stage.toy else n_workers(), 'init': 'none', 'metric': 'mcc', 'lr': .001}
    return [f'--{flag}={value}' for flag, value in flags.items()]


def run(stage: Stage) -> None:
    for name, sizes in (TOY_SETS if stage.toy else SETS).items():
        stage.check(f'data {name}', write_set, stage, name, sizes)


def write_set(stage, name, sizes):
    """Images, csvs and the cache of one set, in `stage.data`."""
    start, folder, size = time.monotonic(), os.path.join(stage.data, name), im_size(stage)
    os.makedirs(os.path.join(folder, 'images'))
    needed, free = sum(sizes) * 3 * size ** 2, shutil.disk_usage(folder).free
    if needed + 2 * SPARE > free:
        raise Skip(f'needs {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free: --data names another folder')
    rng = np.random.default_rng(sum(sizes))
    sets = []
    for split, n in zip(('train', 'val'), sizes, strict=True):
        labels = rng.permutation(np.repeat(range(N_CLASSES), counts_of(n)))  # a few more than n where a class would have none
        ids = [f'{split}_{i:05d}' for i in range(len(labels))]
        for image_id in ids:
            noise = Image.fromarray(rng.integers(0, 256, (NOISE, NOISE, 3), np.uint8))
            noise.save(os.path.join(folder, 'images', f'{image_id}.jpg'))
        csv = os.path.join(folder, f'{split}.csv')
        pd.DataFrame({'image_id': ids, 'label': labels}).to_csv(csv, index=False)
        sets.append(FewDecoded(csv, os.path.join(folder, 'images'), (size, size)))
        sets[-1].decoded  # noqa: B018  before the threads ask for it
    use_cache(sets, os.path.join(folder, 'cache'), n_workers())
    seconds = time.monotonic() - start
    return Found(f'{sum(sizes):,} images of {size}x{size} in {seconds:.1f} s', {'n_images': sum(sizes)})
