"""Image files that a csv names: listed, kept below the data folder."""
import os
import unicodedata

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


def _is_outside(path, root):
    path = os.path.realpath(path)
    return path != root and not path.startswith(os.path.join(root, ''))
