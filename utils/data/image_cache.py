"""Image cache: the images of a run, decoded and resized once, in one memory-mapped file.

The file holds a uint8 array (N, 3, H, W), then the hashes of the image files, int64 (N,), and the checksums of the decoded images,
uint32 (N,). Checksums detect accidental damage only: another user could recompute them. A file that another user may have written is
therefore never read (`why_untrusted`).
"""
import contextlib
import glob
import hashlib
import math
import os
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from utils.common import InputError, counted, gigabytes, whole_file
from utils.data.dataset import ClassDataset
from utils.data.image_hashes import hash_sample
from utils.data.images import DECODER
from utils.data.permissions import free_path, is_foreign, why_untrusted

SPARE = 1 << 30  # bytes to leave free on the disk, for checkpoints


class Stored(NamedTuple):
    images: np.ndarray  # uint8 (N, 3, H, W), memory-mapped
    hashes: np.ndarray  # of the image files, int64 (N,)
    checksums: np.ndarray | None  # uint32 (N,); None in files of version 0.1


def open_array(path: str) -> Stored:
    """Map a cache file. Raises `InputError` if another user may have written it, `ValueError` or `EOFError` if it is incomplete."""
    with open(path, 'rb') as f:
        if why := why_untrusted(f):
            raise InputError(f'{path} {why}')
        np.lib.format.read_magic(f)
        shape, _, dtype = np.lib.format.read_array_header_1_0(f)
        begin = f.tell()
        images = np.asarray(np.memmap(f, dtype, 'r', begin, shape))
        f.seek(begin + images.nbytes)
        hashes = np.lib.format.read_array(f)
        return Stored(images, hashes, np.lib.format.read_array(f) if f.peek(1) else None)


def checksum(image: Any, content_hash: int, key: str) -> int:
    """Return the CRC-32 of the pixels of an image, the hash of its file and the `key` of its array, so that arrays are not confused."""
    return zlib.crc32(image, zlib.crc32(f'{key} {content_hash}'.encode()))


class CachedImages:
    """Images in the array at `path`: image i is row `rows[i]`. `key`: see `checksum`.

    `pin`: copy images to pinned memory, from which a CUDA device copies them while it computes. The file is opened on first use, so that
    a worker process maps it by itself. Each image is compared with its checksum when it is first read.
    """

    def __init__(self, path: str, rows: np.ndarray, key: str, pin: bool = False):
        self.path, self.rows, self.key, self.pin = path, rows, key, pin
        self._forget()

    def _forget(self):
        self.array = None
        self.compared = np.zeros(int(self.rows.max(initial=0)) + 1, bool)

    def __getstate__(self):
        return {name: vars(self)[name] for name in ('path', 'rows', 'key', 'pin')}

    def __setstate__(self, state):
        vars(self).update(state)
        self._forget()

    def read(self, indices: Sequence[int]) -> torch.Tensor:
        """Return copies of images: uint8 (B, 3, H, W). Raises `InputError` if an image does not match its checksum."""
        if self.array is None:
            self.array = open_array(self.path)
        rows = self.rows[indices]
        copies = torch.empty((len(rows), *self.array.images.shape[1:]), dtype=torch.uint8, pin_memory=self.pin)
        images = np.take(self.array.images, rows, axis=0, out=copies.numpy(), mode='clip')  # other modes copy twice
        if self.array.checksums is not None:
            for i in np.flatnonzero(~self.compared[rows]):
                row = rows[i]
                if checksum(images[i], self.array.hashes[row], self.key) != self.array.checksums[row]:
                    raise InputError(f'{self.path} is damaged: image {row} does not match its checksum. Delete the file and run the '
                                     'command again (training: with --resume)')
                self.compared[row] = True
        return copies


def use_cache(datasets: Sequence[ClassDataset], folder: str | None, num_workers: int = 0, pin: bool = False) -> int:
    """Let `datasets` read from an image cache in `folder`, and write it first if necessary.

    `datasets`: checked by `check_data`, with one image size and one image folder. Without a `folder`, or if the cache cannot be written
    (the reason is printed), images are decoded on the fly. Changed image files result in a new cache, and the previous one is removed.
    Raises `InputError` for an image that cannot be decoded. `pin`: see `CachedImages`.

    Returns the number of worker processes that the data loaders need: none with a cache, otherwise `num_workers`.
    """
    if folder is None:
        return num_workers
    array = _Array(datasets, folder)
    try:
        path = array.find() or array.build(max(1, num_workers))
    except OSError as err:
        print(f'* No image cache ({err}): images are decoded on the fly (--cache_dir selects another folder)')
        path = None
    if path is None:
        return num_workers
    hashes = open_array(path).hashes
    for data, rows in zip(datasets, np.split(array.rows, np.cumsum([len(data) for data in datasets])[:-1]), strict=True):
        data.cache, data.hashes = CachedImages(path, rows, array.content, pin), hashes[rows]
    return 0


class _Array:
    """The cache file of the distinct images of `datasets`, sorted by path, which may not exist yet.

    `content`: hash of the paths below the data folder, sizes, modification times, a sample of the contents, image size and decoder. A
    data set that moves to another disk keeps its cache.
    `place`: hash of the location of the images, which stays the same when images change.
    """

    def __init__(self, datasets, folder):
        self.folder, self.csv_path = folder, datasets[0].csv_path
        paths = [path for data in datasets for path in data.paths]
        order = sorted(range(len(paths)), key=paths.__getitem__)
        new = [i == 0 or paths[order[i]] != paths[order[i - 1]] for i in range(len(order))]  # two rows may have the same image
        self.rows = np.empty(len(order), np.int64)  # row of the array for each row of the datasets
        self.rows[order] = np.cumsum(new) - 1
        first = np.compress(new, order)
        self.datasets, self.first = datasets, first.tolist()
        self.shape = (len(first), 3, *datasets[0].im_size)
        data_path, stats = datasets[0].data_path or '', np.concatenate([data.stats for data in datasets])[first]
        below, self.size = os.path.join(data_path, ''), '{2}x{3}'.format(*self.shape)
        kind, names = f'{self.size} {DECODER}', '\0'.join(paths[i].removeprefix(below) for i in self.first)
        self.place = _digest(kind, os.path.realpath(data_path), names)
        self.content = _digest(kind, names, stats.tobytes(), hash_sample([paths[i] for i in self.first]))
        self.untrusted = set()  # reasons why existing files are not used

    def _others(self, pattern):
        return glob.glob(os.path.join(glob.escape(self.folder), pattern))

    def find(self):
        """Return the path of a complete and trusted cache file, or None."""
        for path in filter(os.path.isfile, self._others(f'*_{self.content}*.npy')):
            try:
                stored = open_array(path)
            except InputError as err:
                self.untrusted.add(str(err))
            except (OSError, ValueError, EOFError):
                continue
            else:
                lengths = {len(part) for part in stored if part is not None}
                if stored.images.shape == self.shape and lengths == {len(self.first)}:
                    return path
        return None

    def build(self, n_threads):
        """Write the file unless another run just did. Returns its path, or None if the disk is too full."""
        os.makedirs(self.folder, exist_ok=True)
        with _locked(os.path.join(self.folder, f'{self.content}.lock')) as alone:
            for path in self._others(f'*_{self.content}*.npy.*.tmp') if alone else ():
                if not is_foreign(path):
                    os.remove(path)  # left by a run that was killed while writing
            if path := self.find():
                return path
            for why in sorted(self.untrusted):
                print(f'* {why}: cache ignored, images are decoded again')
            return self._write(n_threads) if self._fits() else None

    def _fits(self):
        n_bytes, free = math.prod(self.shape), shutil.disk_usage(self.folder).free
        if n_bytes + SPARE > free:
            print(f'* No image cache: it needs {gigabytes(n_bytes)}, but {self.folder} has {gigabytes(free)} free, of which '
                  f'{gigabytes(SPARE)} must stay free: images are decoded on the fly (--cache_dir selects another folder)')
            return False
        others = sum(map(os.path.getsize, self._others('*.npy')))
        print(f"* Decoding {counted(len(self.first), 'image')} to {self.size} for the image cache: {gigabytes(n_bytes)} in {self.folder} "
              f'({gigabytes(free)} free, other caches use {gigabytes(others)}; --no_cache turns it off)', flush=True)
        return True

    def _decode(self, i):
        """Return the image in row `i` of the concatenated datasets, and the hash of its file."""
        for data in self.datasets:
            if i < len(data):
                return data.decode_and_hash(i)
            i -= len(data)

    def _write(self, n_threads):
        csv = os.path.splitext(os.path.basename(self.csv_path))[0]
        path = free_path(os.path.join(self.folder, f'{csv}_{self.size}_{self.place}_{self.content}.npy'))
        with whole_file(path, only_mine=True) as f:
            np.lib.format.write_array_header_1_0(f, {'descr': '|u1', 'fortran_order': False, 'shape': self.shape})
            images, hashes, checksums = map_in_threads(self._decode, self.first, n_threads), [], []
            for image, content in tqdm(images, total=len(self.first), desc='cache', unit='img', leave=False, disable=None):
                pixels = image.numpy().data
                f.write(pixels)
                hashes.append(content)
                checksums.append(checksum(pixels, content, self.content))
            np.lib.format.write_array(f, np.array(hashes, np.int64))
            np.lib.format.write_array(f, np.array(checksums, np.uint32))
        for old in self._others(f'*_{self.place}_*.npy'):
            with contextlib.suppress(FileNotFoundError, PermissionError):  # Windows cannot remove a file that another run still reads
                if old != path and not is_foreign(old):
                    os.remove(old)
                    print(f'* Removed the outdated image cache {old}')
        return path


def _digest(*parts):
    return hashlib.sha256(b'\0\0'.join(part if isinstance(part, bytes) else os.fsencode(part) for part in parts)).hexdigest()[:16]


@contextlib.contextmanager
def _locked(path):
    """Let one process in at a time; the others wait. A process that dies releases the lock. Yields False if locks do not work here."""
    lock, alone = FileLock(path), True
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print('* Waiting for another run that is writing the image cache', flush=True)
            lock.acquire()
    except (OSError, NotImplementedError):  # the file system has no locks
        alone = False
    try:
        yield alone
    finally:
        lock.release()
        with contextlib.suppress(OSError):
            os.remove(path)


def map_in_threads(function: Callable[[Any], Any], items: Iterable[Any], n_threads: int) -> Iterator[Any]:
    """Like map(), in threads (Pillow and NumPy release the GIL) and in order, but never far ahead of the consumer."""
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
