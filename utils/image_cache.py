"""Images decoded and resized once: one uint8 array (N, 3, H, W) on disk for the images of a run, mapped into memory; behind it in the
same file the hashes of the image files, int64 (N,)."""
import contextlib
import glob
import hashlib
import math
import os
import shutil
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from .common import whole_file
from .image_hashes import hash_sample
from .images import DECODER

# Processes that copy rows out of an array: on a GPU they prepare the next batch; on a CPU they would take it from the network.
WORKERS = 2 if torch.cuda.is_available() else 0
SPARE = 1 << 30  # bytes left free on the disk, for checkpoints


class CachedImages:
    """Row `rows[i]` of the array at `path` is image i. Opened on first use, so that worker processes, forked or spawned,
    map the same file and share its pages."""

    def __init__(self, path, rows):
        self.path, self.rows, self.array = path, rows, None

    def __getstate__(self):
        return vars(self) | {'array': None}

    def read(self, indices):
        """-> uint8 tensor (B, 3, H, W), a copy"""
        if self.array is None:
            self.array = np.asarray(np.load(self.path, mmap_mode='r'))
        return torch.from_numpy(self.array[self.rows[indices]])


def use_cache(datasets, folder, num_workers=0):
    """Let `datasets` (ClassDatasets of one image size and folder, checked) read from one array in `folder`, which is written
    first unless a run before did. Where that is impossible a line says why, and images are decoded as they are needed, as with
    `folder` None.

    A file that changes makes another array, so nothing stale is ever read; the array from before the change is removed.
    An image that cannot be decoded is an `InputError` that names it. -> how many of `num_workers` processes loaders still need
    """
    if folder is None:
        return num_workers
    array = _Array(datasets, folder)
    try:
        path = array.find() or array.build(max(1, num_workers))
    except OSError as err:
        print(f'* No cache ({err}): images are decoded as they are needed (--cache_dir names another folder)')
        path = None
    if path is None:
        return num_workers
    hashes = _read_hashes(path)
    for data, rows in zip(datasets, np.split(array.rows, np.cumsum([len(data) for data in datasets])[:-1]), strict=True):
        data.cache, data.hashes = CachedImages(path, rows), hashes[rows]
    return min(num_workers, WORKERS)


class _Array:
    """The array of the distinct images of `datasets`, sorted by name: known before it is written.

    `content` is a hash of paths below the data folder, sizes and times of change, some contents, image size and decoder, so that a set
    that moves to another disk keeps its array; `place` one of where the images are, which does not change when they do.
    """

    def __init__(self, datasets, folder):
        self.folder, self.csv_path = folder, datasets[0].csv_path
        paths = [path for data in datasets for path in data.paths]
        order = sorted(range(len(paths)), key=paths.__getitem__)
        new = [i == 0 or paths[order[i]] != paths[order[i - 1]] for i in range(len(order))]  # the same image may stand in two rows
        self.rows = np.empty(len(order), np.int64)  # of the array, for each row of the datasets
        self.rows[order] = np.cumsum(new) - 1
        first = np.compress(new, order)
        self.datasets, self.first = datasets, first.tolist()
        self.shape = (len(first), 3, *datasets[0].tg_size)
        data_path, stats = datasets[0].data_path or '', np.concatenate([data.stats for data in datasets])[first]
        below, self.size = os.path.join(data_path, ''), '{2}x{3}'.format(*self.shape)
        kind, names = f'{self.size} {DECODER}', '\0'.join(paths[i].removeprefix(below) for i in self.first)
        self.place = _digest(kind, os.path.realpath(data_path), names)
        self.content = _digest(kind, names, stats.tobytes(), hash_sample([paths[i] for i in self.first]))

    def _others(self, pattern):
        return glob.glob(os.path.join(glob.escape(self.folder), pattern))

    def find(self):
        """Its file, None if there is none. One that is not whole (a broken copy) does not count."""
        for path in self._others(f'*_{self.content}.npy'):
            with contextlib.suppress(OSError, ValueError, EOFError):
                if np.load(path, mmap_mode='r').shape == self.shape and len(_read_hashes(path)) == len(self.first):
                    return path
        return None

    def build(self, n_threads):
        """-> its file, which another run may have written meanwhile; None where the disk lacks room"""
        os.makedirs(self.folder, exist_ok=True)
        with _locked(os.path.join(self.folder, f'{self.content}.lock')) as alone:
            for path in self._others(f'*_{self.content}.npy.*.tmp') if alone else ():
                os.remove(path)  # of a run that was killed while it wrote
            return self.find() or (self._write(n_threads) if self._fits() else None)

    def _fits(self):
        n_bytes, free = math.prod(self.shape), shutil.disk_usage(self.folder).free
        if n_bytes + SPARE > free:
            print(f'* No cache: it would take {_gigabytes(n_bytes)}, {self.folder} has {_gigabytes(free)} free, of which '
                  f'{_gigabytes(SPARE)} must stay: images are decoded as they are needed (--cache_dir names another folder)')
            return False
        others = sum(map(os.path.getsize, self._others('*.npy')))
        print(f'* Decoding {len(self.first):,} images once, to {self.size}: {_gigabytes(n_bytes)} in {self.folder} '
              f'({_gigabytes(free)} free, other caches there {_gigabytes(others)}; --no_cache does without)', flush=True)
        return True

    def _decode(self, i):
        """The image of row `i` of the datasets, one after another, and the hash of its file."""
        for data in self.datasets:
            if i < len(data):
                return data.decode_and_hash(i)
            i -= len(data)

    def _write(self, n_threads):
        csv = os.path.splitext(os.path.basename(self.csv_path))[0]
        path = os.path.join(self.folder, f'{csv}_{self.size}_{self.place}_{self.content}.npy')
        with whole_file(path) as f:
            np.lib.format.write_array_header_1_0(f, {'descr': '|u1', 'fortran_order': False, 'shape': self.shape})
            images, hashes = _map(self._decode, self.first, n_threads), []
            for image, content in tqdm(images, total=len(self.first), desc='cache', unit='img', leave=False, disable=None):
                f.write(image.numpy().data)
                hashes.append(content)
            np.lib.format.write_array(f, np.array(hashes, np.int64))
        for old in self._others(f'*_{self.place}_*.npy'):
            if old != path:
                with contextlib.suppress(PermissionError):  # Windows removes no file that another run still reads
                    os.remove(old)
                    print(f'* Removed {old}, made before images changed')
        return path


def _read_hashes(path):
    """The hashes behind the array in the file at `path`, int64 (N,)."""
    images = np.load(path, mmap_mode='r')
    with open(path, 'rb') as f:
        f.seek(images.offset + images.nbytes)
        return np.lib.format.read_array(f)


def _digest(*parts):
    return hashlib.sha256(b'\0\0'.join(part if isinstance(part, bytes) else os.fsencode(part) for part in parts)).hexdigest()[:16]


def _gigabytes(n):
    return f'{n / 1e9:.1f} GB' if n >= 1e8 else f'{n / 1e6:.1f} MB'


@contextlib.contextmanager
def _locked(path):
    """One process at a time; the others wait. A process that dies frees the lock. -> False where that cannot be promised"""
    lock, alone = FileLock(path), True
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print('* Waiting for another run that is writing the cache of these images', flush=True)
            lock.acquire()
    except (OSError, NotImplementedError):  # a file system without locks
        alone = False
    try:
        yield alone
    finally:
        lock.release()
        with contextlib.suppress(OSError):
            os.remove(path)


def _map(function, items, n_threads):
    """map() in threads, in order (Pillow decodes outside Python's lock), not far ahead of whoever uses the results."""
    pool, pending = ThreadPoolExecutor(n_threads), deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 4 * n_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
