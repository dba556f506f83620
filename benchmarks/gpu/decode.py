"""Speed of decoding full-size photographs into the cache, with one core and with all: how long EyePACS takes before its first epoch."""
import itertools
import os
import shutil
import tempfile
import time
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from utils.data.files import list_images
from utils.data.image_cache import use_cache
from utils.get_loaders import ClassDataset

from .checks import Found, Skip, Stage

EYEPACS = 35_126  # labelled photographs
SIZE, TOY_SIZE = (512, 512), (32, 32)  # of the decoded images
DRAWN_SIZE, TOY_DRAWN_SIZE = (3888, 2592), (240, 160)  # width, height of synthetic photographs
N_DRAWN = 5  # distinct synthetic photographs
PER_CORE, TOY_PER_CORE = 48, 4  # photographs per core; one core decodes 48 in 2 s
MOST = 1024  # photographs for all cores together
NEEDS = 6  # seconds of a check, with a slow disk


class Decoded(ClassDataset):
    """Dataset that takes no time to decode. This leaves the work of a single thread: writing the array and its checksums."""

    def decode_and_hash(self, index, with_hash=True):
        return self.black, 0

    @cached_property
    def black(self):
        return torch.zeros(3, *self.im_size, dtype=torch.uint8)


class Photographs:
    """New folder of `n` photographs, of which only a few are distinct. Decoding reads their files from memory, not from the disk."""

    def __init__(self, folder: str, n: int, toy: bool):
        self.folder, self.images, self.n, self.size = folder, os.path.join(folder, 'images'), n, TOY_SIZE if toy else SIZE
        different = os.path.join(folder, 'different')
        os.mkdir(self.images)
        os.mkdir(different)
        real = os.path.join(os.environ.get('LT_REAL_DATA', ''), 'eyepacs_sample')
        self.are_real = 'LT_REAL_DATA' in os.environ and os.path.isdir(real)
        if self.are_real:
            for name in list_images(real).images:
                shutil.copyfile(os.path.join(real, name), os.path.join(different, name))
        else:
            for seed in range(N_DRAWN):
                draw(os.path.join(different, f'{seed}.jpg'), TOY_DRAWN_SIZE if toy else DRAWN_SIZE, seed)
        for i, name in zip(range(n), itertools.cycle(sorted(os.listdir(different))), strict=False):
            duplicate(os.path.join(different, name), os.path.join(self.images, f'{i:05d}{Path(name).suffix}'))

    def rate(self, n: int, n_threads: int, dataset: type[ClassDataset] = ClassDataset) -> float:
        """Cache the first `n` photographs. -> images per second. Raises `Skip` if the disk has no room for the cache."""
        csv, cache = os.path.join(self.folder, 'photographs.csv'), os.path.join(self.folder, 'cache')
        pd.DataFrame({'image_id': [f'{i:05d}' for i in range(n)]}).to_csv(csv, index=False)
        start = time.perf_counter()
        data = dataset(csv, self.images, self.size)
        use_cache([data], cache, n_threads)
        seconds = time.perf_counter() - start
        if data.cache is None:
            raise Skip(f'no room for the decoded images in {self.folder}: choose another folder with --data')
        shutil.rmtree(cache)
        return n / seconds


def draw(path: str, size: tuple[int, int], seed: int) -> None:
    """Write a JPEG of `size` (width, height): a grainy disc on black, which takes about as long to decode as a retinal photograph."""
    (width, height), grain, rng = size, 10, np.random.default_rng(seed)
    y, x = np.ogrid[:height // grain, :width // grain]
    disc = (x - x.max() / 2) ** 2 + (y - y.max() / 2) ** 2 < (y.max() / 2) ** 2
    pixels = rng.normal((150, 80, 40), 30, (*disc.shape, 3)) * disc[..., None]
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    image.save(path, quality=90)


def duplicate(source, target):
    """Make `target` a hard link to `source`, or a copy if the disk has no links.

    Copies would add up to a gigabyte of disk writes during the measurement.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def n_cores() -> int:
    """-> number of cores that this process may use"""
    return len(os.sched_getaffinity(0))


def run(stage: Stage) -> None:
    n, (per_core, needs) = n_cores(), (TOY_PER_CORE, 0) if stage.toy else (PER_CORE, NEEDS)
    os.makedirs(stage.data, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=stage.data) as folder:
        photographs = Photographs(folder, min(n * per_core, MOST), stage.toy)
        one = stage.check('decode 1 core', one_core, photographs, per_core, needs=needs)
        if one and n > 1:
            stage.check(f'decode {n} cores', all_cores, photographs, n, one.values, needs=needs)


def one_core(photographs, n):
    values = values_of(photographs, n, photographs.rate(n, 1))
    return Found(f"{describe(values)} ({n} {values['photographs']} photographs)", values)


def all_cores(photographs, n_threads, one):
    n = photographs.n
    values, writer = values_of(photographs, n, photographs.rate(n, n_threads)), photographs.rate(n, 1, Decoded)
    values |= {'times_one_core': values['images_per_second'] / one['images_per_second'], 'writer_images_per_second': writer,
               'writer_share': min(1., values['images_per_second'] / writer)}
    return Found(f"{describe(values)}, {values['times_one_core']:.1f} times as fast as one core; the writing thread is busy "
                 f"{100 * values['writer_share']:.0f} % of the time", values)


def values_of(photographs, n, rate):
    n_bytes = 3 * photographs.size[0] * photographs.size[1]
    return {'images_per_second': rate, 'eyepacs_minutes': EYEPACS / rate / 60, 'megabytes_written_per_second': rate * n_bytes / 1e6,
            'n_images': n, 'photographs': 'EyePACS' if photographs.are_real else 'drawn'}


def describe(values):
    return f"{values['images_per_second']:,.0f} images/s, EyePACS ({EYEPACS:,} images) in {values['eyepacs_minutes']:.1f} min"
