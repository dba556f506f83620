"""Image files on disk, without opening them: find them by id, list them, recognise the same file, check the data folder."""
import os
import time
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from utils.common import CONTROL, InputError, counted, file_sha256, preview

EXTENSIONS = ('.jpg', '.jpeg', '.jfif', '.png', '.tif', '.tiff', '.bmp', '.webp', '.gif', '.ppm', '.pgm', '.pnm')  # upper or lower case
MAX_INT64 = 2**63 - 1


def find_images(image_ids: Iterable[str], data_path: str | None = None, rows: Sequence[int] | np.ndarray | None = None) -> list[str | None]:
    """Return the path of each image id in the folder `data_path` (None: ids are paths); None for a missing file.

    An id may omit the extension, whose case does not matter. Each folder is listed only once. Raises `InputError` for ids without an
    extension that match several files; the message shows `rows`, the rows of the ids in their csv.
    """
    folders, found, ambiguous = {}, [], []
    for i, image_id in enumerate(image_ids):
        head, name = os.path.split(image_id) if '/' in image_id or os.sep in image_id else ('', image_id)
        if head not in folders:
            folder = os.path.join(data_path or '', head)
            listing = list_files(folder or '.')
            folders[head] = os.path.join(folder, ''), listing, _by_stem(listing)
        prefix, listing, stems = folders[head]
        files = [listing[name]] if name in listing else stems.get(name, ())
        found.append(prefix + files[0] if files else None)
        if len(files) > 1:
            ambiguous.append(f"{image_id}{f' (row {rows[i]})' if rows is not None else ''} may be {' or '.join(sorted(files))}")
    if ambiguous:
        raise InputError(f"{counted(len(ambiguous), 'ambiguous image id')} (add the extension): {preview(ambiguous)}")
    return found


def _by_stem(listing):
    """`listing` of `list_files` -> {name without extension: names on disk} of the images"""
    stems: dict[str, list[str]] = {}
    for name, on_disk in listing.items():
        stem, dot, extension = name.rpartition('.')  # much faster than os.path.splitext
        if stem and dot + extension.lower() in EXTENSIONS:
            if stem not in stems:
                stems[stem] = [on_disk]
            elif on_disk not in stems[stem]:
                stems[stem].append(on_disk)
    return stems


class Listing(NamedTuple):
    images: list  # files with an image extension
    others: list
    unnamable: list  # files whose path cannot be written to a csv, as shown by `ascii`


def list_images(folder: str) -> Listing:
    """List the files below `folder`, at any depth: relative paths with '/', sorted. Hidden files and folders are skipped."""
    images, others, unnamable = [], [], []
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith('.')]
        for name in files:
            if not name.startswith('.'):
                path = os.path.relpath(os.path.join(here, name), folder).replace(os.sep, '/')
                if not is_namable(path):
                    unnamable.append(ascii(path))
                else:
                    (images if os.path.splitext(name)[1].lower() in EXTENSIONS else others).append(path)
    return Listing(sorted(images), sorted(others), sorted(unnamable))


def equal_files(paths: Sequence[str]) -> list[list[int]]:
    """Return the groups of indices of `paths` whose files have the same content, sorted. Only files of equal size are read."""
    sizes, hashes = defaultdict(list), defaultdict(list)
    for i, path in enumerate(paths):
        sizes[os.path.getsize(path)].append(i)
    for same_size in sizes.values():
        for i in same_size if len(same_size) > 1 else ():
            hashes[file_sha256(paths[i])].append(i)
    return sorted(group for group in hashes.values() if len(group) > 1)


def is_namable(path: str) -> bool:
    """Return whether a path can be written to a csv: it has no control characters and is valid Unicode."""
    if CONTROL.search(path):
        return False
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def list_files(folder: str) -> dict[str, str]:
    """Return {name: name on disk} of the files in `folder`, including links to files.

    A non-ASCII name is a key in both Unicode forms, because macOS stores letters and accents separately.
    """
    if not os.path.isdir(folder):
        return {}
    with os.scandir(folder) as entries:
        names = {entry.name: entry.name for entry in entries if entry.is_file()}
    aliases = {unicodedata.normalize(form, name): name for name in names if not name.isascii() for form in ('NFC', 'NFD')}
    return aliases | names if aliases else names


def find_alike(image_id: str, data_path: str | None = None) -> list[str]:
    """Return the names on disk that differ from `image_id` only in case or extension, sorted; `data_path`: see `find_images`."""
    head, name = os.path.split(image_id)
    wanted = {name.casefold(), _stem(name).casefold()}
    return sorted({on_disk for on_disk in list_files(os.path.join(data_path or '', head) or '.').values()
                   if wanted & {on_disk.casefold(), _stem(on_disk).casefold()}})


def _stem(name):
    stem, extension = os.path.splitext(name)
    return stem if extension.lower() in EXTENSIONS else name


def find_outside(paths: Sequence[str | None], root: str) -> list[int]:
    """Return the indices of the `paths` (None: no file) outside `root`, with `..` and links resolved. Each folder is listed once."""
    root, outside = os.path.realpath(root), []
    folders: dict = {}
    for i, path in enumerate(paths):
        if path is None:
            continue
        folder, _, name = path.rpartition(os.sep)
        if folder not in folders:
            with os.scandir(folder or os.sep) as entries:
                links = {entry.name for entry in entries if entry.is_symlink()}
            folders[folder] = _is_outside(folder or os.sep, root), links
        is_outside, links = folders[folder]
        if _is_outside(path, root) if name in links else is_outside:
            outside.append(i)
    return outside


def first_spellings(paths: Sequence[str | None], file_stats: np.ndarray, known: dict) -> list[str | None]:
    """Return for each of `paths` (None: no file) the first path that names the same file, so that each file has one name.

    Paths of the same file may differ by `..`, symbolic or hard links, or by case on a case-insensitive file system.
    `file_stats`: int64 (N, 4), see `stat_images`. Inode 0 means that the file system has no inodes. If it repeats inodes, sizes
    and times still distinguish files.
    `known`: a dictionary of the paths seen so far; pass the same one for several csvs.
    """
    folders: dict = {}
    found: list[str | None] = []
    stats = np.ascontiguousarray(file_stats, np.int64).view('V32').ravel().tolist()  # bytes are hashed faster than a tuple
    for path, stat, has_inode in zip(paths, stats, (file_stats[:, 3] != 0).tolist(), strict=True):
        if path is None:
            found.append(None)
            continue
        folder, _, name = path.rpartition(os.sep)
        if folder not in folders:
            folders[folder] = os.path.join(os.path.realpath(folder or (os.sep if path.startswith(os.sep) else os.curdir)), '')
        real = folders[folder] + name
        first = known.get(real) or (known.get(stat) if has_inode else None) or path
        known[real] = known[stat] = first
        found.append(first)
    return found


def _is_outside(path, root):
    path = os.path.realpath(path)
    return path != root and not path.startswith(os.path.join(root, ''))


def _stat(paths):
    stats = (None if path is None else os.stat(path) for path in paths)
    rows = ((-1,) * 4 if s is None else (s.st_size, s.st_mtime_ns, s.st_dev & MAX_INT64, s.st_ino & MAX_INT64) for s in stats)
    return np.fromiter(rows, np.dtype((np.int64, 4)), len(paths))


def stat_images(paths: Sequence[str | None], n_threads: int = 8, chunk: int = 100) -> np.ndarray:
    """Return size in bytes, modification time in nanoseconds, device and inode of each file: int64 (N, 4); -1 for None.

    Threads are used only if the first `chunk` files are slow, as on a network drive. On a local disk they would cost time.
    """
    start = time.perf_counter()
    parts = [_stat(paths[:chunk])]
    if time.perf_counter() - start < 5e-5 * chunk:
        parts.append(_stat(paths[chunk:]))
    else:
        with ThreadPoolExecutor(n_threads) as pool:
            parts += pool.map(_stat, [paths[i:i + chunk] for i in range(chunk, len(paths), chunk)])
    return np.concatenate(parts)
