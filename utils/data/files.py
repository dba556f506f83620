"""Image files that a csv names: listed, kept below the data folder."""
import os
import unicodedata

import numpy as np

EXTENSIONS = ('.jpg', '.jpeg', '.jfif', '.png', '.tif', '.tiff', '.bmp', '.webp', '.gif', '.ppm', '.pgm', '.pnm')  # in any case


def list_files(folder):
    """name -> name on disk of the files in `folder` (links to files included, broken ones not); names that are not ASCII
    also in their other Unicode form: macOS writes letters and accents apart."""
    if not os.path.isdir(folder):
        return {}
    with os.scandir(folder) as entries:
        names = {entry.name: entry.name for entry in entries if entry.is_file()}
    aliases = {unicodedata.normalize(form, name): name for name in names if not name.isascii() for form in ('NFC', 'NFD')}
    return aliases | names if aliases else names


def find_alike(image_id, data_path=None):
    """Names on disk that differ from that of `image_id` in case or extension only, sorted; `data_path` as in `find_images`."""
    head, name = os.path.split(image_id)
    wanted = {name.casefold(), _stem(name).casefold()}
    return sorted({on_disk for on_disk in list_files(os.path.join(data_path or '', head) or '.').values()
                   if wanted & {on_disk.casefold(), _stem(on_disk).casefold()}})


def _stem(name):
    stem, extension = os.path.splitext(name)
    return stem if extension.lower() in EXTENSIONS else name


def find_outside(paths, root):
    """Indices of the `paths` (None: no file) that lie outside `root` once `..` and links are followed. Each folder is looked
    at once, so that a million files take seconds."""
    root, folders, outside = os.path.realpath(root), {}, []
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


def first_spellings(paths, file_stats, known):
    """For each of `paths` (None: no file) the first path of the same file, so that one file has one name, whether it is reached through
    `..`, links, a second hard link or, where the disk does not tell them apart, other capitals. Links are followed once a folder.

    `file_stats`: int64 (N, 4), see `stat_images`; inode 0 means that the file system has none, and where it repeats inodes, sizes and
    times still tell files apart. `known`: a dictionary that keeps what was seen, for the paths of several csvs.
    """
    folders, found = {}, []
    stats = np.ascontiguousarray(file_stats, np.int64).view('V32').ravel().tolist()  # a row as bytes is hashed faster than as a tuple
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
