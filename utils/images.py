"""Images on disk: found by looking, decoded and resized."""
import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError, __version__, features

from .data_files import list_files

EXTENSIONS = ('', '.jpg', '.jpeg', '.png', '.tif', '.tiff', '.bmp', '.JPG', '.JPEG', '.PNG', '.TIF', '.TIFF', '.BMP')
# All that decides about the pixels of an image beside its file and the target size.
LIBJPEG = features.version('libjpeg_turbo') or features.version('jpg')
DECODER = f'Pillow {__version__}, libjpeg {LIBJPEG}, draft, 16-bit greys scaled, bilinear'


def find_images(image_ids, data_path=None):
    """The file of each image id, None where there is none. `data_path` is the folder (None: ids are paths); the
    extension may be missing from an id. Each folder is listed once instead of trying to open names."""
    folders, found = {}, []
    for image_id in image_ids:
        head, name = os.path.split(image_id) if '/' in image_id or os.sep in image_id else ('', image_id)
        if head not in folders:
            folder = os.path.join(data_path or '', head)
            listing = list_files(folder or '.')
            in_use = {name[name.rfind('.'):] for name in listing}  # fewer to try for each of a million ids
            folders[head] = os.path.join(folder, ''), listing, [e for e in EXTENSIONS if not e or e in in_use]
        prefix, listing, extensions = folders[head]
        for extension in extensions:
            if name + extension in listing:
                found.append(prefix + listing[name + extension])
                break
        else:
            found.append(None)
    return found


class Listing(NamedTuple):
    images: list  # files that have the extension of an image
    others: list
    not_utf8: list  # files whose path no csv can hold, as `ascii` shows them


def list_images(folder: str) -> Listing:
    """List the files below `folder`, at any depth: paths relative to it with '/', sorted. Hidden files and folders are left out."""
    images, others, not_utf8 = [], [], []
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith('.')]
        for name in files:
            if not name.startswith('.'):
                path = os.path.relpath(os.path.join(here, name), folder).replace(os.sep, '/')
                if not is_utf8(path):
                    not_utf8.append(ascii(path))
                else:
                    (images if os.path.splitext(name)[1].lower() in EXTENSIONS[1:] else others).append(path)
    return Listing(sorted(images), sorted(others), sorted(not_utf8))


def is_utf8(path: str) -> bool:
    """False for a file name that Python could only read byte by byte: no csv can hold it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def open_rgb(path):
    """The whole image at `path`, upright, as an RGB Pillow image; see `read_image`."""
    with _clear_errors(path), Image.open(path) as image:
        return _to_rgb(ImageOps.exif_transpose(image))


def read_image(path, tg_size):
    """RGB uint8 tensor (3, H, W) of the image at `path`, `tg_size` = (H, W).

    A JPEG is decoded at the smallest of 1, 1/2, 1/4, 1/8 of its size that still covers the target (`Image.draft`):
    several times faster for full-size photographs, before the same antialiased bilinear resize. The format is that of the
    content, whatever the extension; EXIF turns the image, transparency is ignored, 16-bit greys are scaled, and of several
    pictures in a file the first counts. Raises `OSError` for everything that cannot be decoded, and for more pixels than
    Pillow's limit against decompression bombs.
    """
    with _clear_errors(path), Image.open(path) as image:
        image.draft('RGB', (max(tg_size), max(tg_size)))
        image = _to_rgb(ImageOps.exif_transpose(image)).resize(tg_size[::-1], Image.Resampling.BILINEAR)
        return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


@contextlib.contextmanager
def _clear_errors(path):
    try:
        yield
    except UnidentifiedImageError as err:
        empty = isinstance(path, (str, os.PathLike)) and os.path.getsize(path) == 0
        raise OSError('the file is empty' if empty else 'the content is no image') from err
    except FileNotFoundError:
        raise
    except Exception as err:  # of damaged files Pillow's decoders raise nearly every kind of error
        raise OSError(str(err) or type(err).__name__) from err


def _to_rgb(image):
    if image.mode.startswith('I;16'):  # Pillow would clip at 255
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert('RGB')
    if image.mode in ('I', 'F'):
        raise ValueError(f'its pixels are 32-bit numbers of no known range (mode {image.mode}): convert it to 8 or 16 bits')
    if 'transparency' in image.info:  # of a palette
        image = image.convert('RGBA')
    return image.convert('RGB')


def _stat(paths):
    stats = (None if path is None else os.stat(path) for path in paths)
    return np.fromiter(((-1, -1) if s is None else (s.st_size, s.st_mtime_ns) for s in stats), np.dtype((np.int64, 2)), len(paths))


def stat_images(paths, n_threads=8, chunk=100):
    """Size in bytes and time of the last change in nanoseconds of each file, int64 (N, 2); -1 for None. Asked for by several threads
    where a network drive lets each question wait; a local one, which answers in microseconds, they would slow down."""
    start = time.perf_counter()
    parts = [_stat(paths[:chunk])]
    if time.perf_counter() - start < 5e-5 * chunk:
        parts.append(_stat(paths[chunk:]))
    else:
        with ThreadPoolExecutor(n_threads) as pool:
            parts += pool.map(_stat, [paths[i:i + chunk] for i in range(chunk, len(paths), chunk)])
    return np.concatenate(parts)
