"""Cost of a data set apart from its pixels, from 1,000 to 1,000,000 rows: csv, checks, cache key, samplers and the loop over an epoch.

Each image file holds one byte (a million files take 4 GB). No pixels are read: zeros in memory replace the cache. Each measurement runs in
a new process, so that peak memory is measured separately.
"""
import contextlib
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pandas as pd
import torch

from benchmarks.memory import peak
from utils.data.check_data import check_data
from utils.data.dataset import ClassLoader
from utils.data.image_cache import _Array
from utils.data.sampling import EpochSampler
from utils.get_loaders import ClassDataset, get_combo_loader, get_eval_loader, modify_loader

ROWS, CLASSES, BATCH_SIZE = (1_000, 10_000, 100_000, 1_000_000), (5, 23, 1_000), 32


def write_images(folder, n):
    """Write `n` files of one byte. Links to a single file would count as the same image in several rows."""
    os.makedirs(folder)
    for i in range(n):
        with open(os.path.join(folder, f'{i:07d}.png'), 'wb') as f:
            f.write(b'x')


def write_csv(path, n, n_classes):
    """Write `n` rows. Class frequencies fall from 1 to 1/100, and every class occurs."""
    share = .01 ** (np.arange(n_classes) / (n_classes - 1))
    labels = np.random.default_rng(0).choice(n_classes, n, p=share / share.sum())
    labels[:n_classes] = np.arange(n_classes)
    pd.DataFrame({'image_id': [f'{i:07d}' for i in range(n)], 'label': labels}).to_csv(path, index=False)


class Zeros:
    """Replaces the cache: every image is zeros."""

    def read(self, indices):
        return torch.zeros(1, dtype=torch.uint8).expand(len(indices), 3, 8, 8)


def steps(csv, folder, n_classes):
    """-> {step: seconds} for the training set in `csv`"""
    seconds = {}

    @contextlib.contextmanager
    def timed(name):
        start = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - start

    with timed('read csv, find images'):
        data = ClassDataset(csv, folder)
    with timed('sizes and times of files'):
        assert len(data.stats) == len(data)
    with timed('check'):
        assert not check_data({'train': data}, n_classes)
    with timed('cache key'):
        _Array([data], '.')
    data.cache = Zeros()
    with timed('samplers'):
        get_eval_loader(data, BATCH_SIZE)
        loader = ClassLoader(data, batch_size=BATCH_SIZE, sampler=EpochSampler(data.labels), drop_last=True, collate_fn=tuple)
        pair = get_combo_loader(modify_loader(loader, 'instance'))
    with timed('epoch'):
        for _ in pair:
            pass
    return seconds


def _measure(*args):
    before = peak()  # a forked process starts with the memory of its parent
    return steps(*args), peak() - before


def measure(rows=ROWS, classes=CLASSES):
    """-> list of dictionaries: rows, classes, seconds of each step, and peak memory in MB above that of the libraries"""
    context, results = multiprocessing.get_context('fork'), []
    with tempfile.TemporaryDirectory() as folder:
        for n in rows:
            write_images(os.path.join(folder, str(n)), n)
            for n_classes in classes:
                csv = os.path.join(folder, 'train.csv')
                write_csv(csv, n, n_classes)
                with ProcessPoolExecutor(1, context) as pool:
                    seconds, megabytes = pool.submit(_measure, csv, os.path.join(folder, str(n)), n_classes).result()
                results.append({'rows': n, 'classes': n_classes, **seconds, 'memory': megabytes})
    return results


def table_text(results):
    columns = list(results[0])
    lines = [[f'{r[c]:,d}' if isinstance(r[c], int) else f'{r[c]:.{0 if c == "memory" else 3}f}' for c in columns] for r in results]
    titles = [c if c in ('rows', 'classes') else 'memory, MB' if c == 'memory' else f'{c}, s' for c in columns]
    widths = [max(map(len, column)) for column in zip(titles, *lines, strict=True)]
    return '\n'.join('  '.join(f'{cell:>{width}}' for cell, width in zip(line, widths, strict=True)) for line in [titles, *lines])
