"""Time to prepare full-size photographs: full decoding, decoding with Pillow's `draft`, and reading from the cache."""
import os
import statistics
import time

import numpy as np
import pandas as pd
from PIL import Image, ImageOps
from tqdm import tqdm

from utils.data.image_cache import use_cache
from utils.data.images import FORMATS
from utils.get_loaders import ClassDataset

SIZE = 512, 512  # height, width of the decoded images
BATCH_SIZE = 8  # images per read from the cache
REPEATS = 3
MOST = 20  # photographs


def decode_in_full(path, size):
    with Image.open(path, formats=FORMATS) as image:
        image = ImageOps.exif_transpose(image).convert('RGB').resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def milliseconds(function, *args):
    start = time.perf_counter()
    function(*args)
    return 1000 * (time.perf_counter() - start)


def forget(cache):
    """Drop the cache from memory, so that the next read comes from the disk."""
    cache.array = None
    with open(cache.path, 'rb') as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rows(folder, working_folder):
    """-> rows (name, value, unit, ratio, note). Times are medians over REPEATS of the mean over the photographs."""
    names = sorted(os.listdir(folder))[:MOST]
    csv = os.path.join(working_folder, 'photographs.csv')
    pd.DataFrame({'image_id': names}).to_csv(csv, index=False)
    data, cached = (ClassDataset(csv, folder, SIZE) for _ in range(2))
    use_cache([cached], os.path.join(working_folder, 'data', 'cache'))
    batches = range(0, len(data), BATCH_SIZE)
    plain, draft, cold, cache, difference = [], [], [], [], []
    for _ in tqdm(range(REPEATS), desc='photographs', leave=False, disable=None):
        plain.append(statistics.mean(milliseconds(decode_in_full, path, SIZE) for path in data.paths))
        draft.append(statistics.mean(milliseconds(data.decode, i) for i in range(len(data))))
        forget(cached.cache)
        for times in (cold, cache):
            read = [milliseconds(cached.__getitems__, list(range(i, min(i + BATCH_SIZE, len(data))))) for i in batches]
            times.append(sum(read) / len(data))
    for i, path in enumerate(data.paths):
        difference.append(np.abs(decode_in_full(path, SIZE).astype(float) - data.decode(i).numpy()).mean())
    def row(name, values):
        ratio = statistics.median(p / v for p, v in zip(plain, values, strict=True))
        return name, statistics.median(values), 'ms', ratio, 'times as fast as decoding in full'
    return [(f'photograph to {SIZE[0]}x{SIZE[1]}, decoded in full', statistics.median(plain), 'ms', None, f'{len(names)} photographs'),
            row('the same, with draft', draft), row('the same, from the cache on disk', cold),
            row('the same, from the cache in memory', cache),
            ('difference of draft', statistics.mean(difference), 'levels', None, 'mean absolute difference, of 256 levels')]
