"""Images on disk: found by looking, decoded and resized."""
import contextlib
import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError, __version__, features

from utils.common import CONTROL, InputError
from utils.data.check_data import counted, some
from utils.data.files import EXTENSIONS, list_files
from utils.data.image_metadata import without_metadata

# All that decides about the pixels of an image beside its file and the target size.
LIBJPEG = features.version('libjpeg_turbo') or features.version('jpg')
DECODER = f'Pillow {__version__}, libjpeg {LIBJPEG}, draft, 16-bit greys scaled, bilinear'
# Of the files with the extensions that this project takes. Pillow reads more formats, some of which start other programs (EPS:
# Ghostscript). Several pictures in one JPEG (MPO), as some cameras write them, are of the format JPEG here.
FORMATS = ('JPEG', 'PNG', 'TIFF', 'BMP', 'WEBP', 'GIF', 'PPM')
MOST_INT64 = 2**63 - 1
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}  # of EXIF's orientations


def find_images(image_ids, data_path=None, rows=None):
    """The file of each image id, None where there is none. `data_path` is the folder (None: ids are paths); the extension may be missing
    from an id, and is found in any case. Each folder is listed once instead of trying to open names.

    Raises `InputError` for ids without an extension that fit several files. `rows`: of the ids in their csv, for its message.
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
            ambiguous.append(f"{image_id}{f' (row {rows[i]})' if rows is not None else ''}: {' and '.join(sorted(files))}")
    if ambiguous:
        raise InputError(f"{counted(len(ambiguous), 'image id', 'fit')} several files (write the extension): {some(ambiguous)}")
    return found


def _by_stem(listing):
    """`listing` of `list_files` -> {name without its extension: names on disk} of the images."""
    stems: dict[str, list[str]] = {}
    for name, on_disk in listing.items():
        stem, dot, extension = name.rpartition('.')  # faster than os.path.splitext for a million names
        if stem and dot + extension.lower() in EXTENSIONS:
            if stem not in stems:
                stems[stem] = [on_disk]
            elif on_disk not in stems[stem]:
                stems[stem].append(on_disk)
    return stems


class Listing(NamedTuple):
    images: list  # files that have the extension of an image
    others: list
    unnamable: list  # files whose path no csv can hold, as `ascii` shows them


def list_images(folder: str) -> Listing:
    """List the files below `folder`, at any depth: paths relative to it with '/', sorted. Hidden files and folders are left out."""
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


def is_namable(path: str) -> bool:
    """False for a file name that no csv can hold: one with control characters, or that Python could only read byte by byte."""
    if CONTROL.search(path):
        return False
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def open_rgb(path, size=(0, 0)):
    """The whole image at `path`, upright, as an RGB Pillow image; see `decode_rgb`."""
    return decode_rgb(_content(path), size)


def read_image(path, tg_size):
    """RGB uint8 tensor (3, H, W) of the image at `path`, `tg_size` = (H, W); see `decode_image`."""
    return decode_image(_content(path), tg_size)


def _content(path):
    """The bytes of the file at `path`. Raises `OSError` for what is no regular file: a named pipe would be waited for."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(f'{str(path)!r} is no regular file')
    with open(path, 'rb') as f:
        return f.read()


def decode_image(content, tg_size):
    """RGB uint8 tensor (3, H, W) of `content`, the bytes of an image file; `tg_size` = (H, W). Antialiased bilinear resize; see
    `decode_rgb`."""
    image = decode_rgb(content, tg_size).resize(tg_size[::-1], Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


def decode_rgb(content, size=(0, 0)):
    """Upright RGB Pillow image of `content`, the bytes of an image file.

    A JPEG is decoded at the smallest of 1, 1/2, 1/4, 1/8 of its size that still covers `size` = (H, W), (0, 0) for the whole
    (`Image.draft`): several times faster for full-size photographs. The format, one of FORMATS, is that of the content, whatever the
    extension; EXIF turns the image, transparency is ignored, 16-bit greys are scaled, and of several pictures in a file the first
    counts. Broken metadata (EXIF, texts, colour profile) are left out. Raises `OSError` for everything that cannot be decoded, and for
    more pixels than Pillow's limit against decompression bombs.
    """
    def decode(image):
        if max(size):
            image.draft('RGB', (max(size), max(size)))
        image.load()
        turn = TURNS.get(_orientation(image))
        return _to_rgb(image if turn is None else image.transpose(turn))
    return _with_image(content, decode)


def describe_image(content):
    """-> number of pictures, (width, height) and Pillow's mode of `content`, the bytes of an image file. Raises `OSError`."""
    return _with_image(content, lambda image: (getattr(image, 'n_frames', 1), image.size, image.mode))


def _with_image(content, function):
    """`function` of the Pillow image in `content`, or of the one without its metadata where these are broken."""
    if not content:
        raise OSError('the file is empty')
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return function(image)
    except Exception as err:  # of damaged files Pillow's decoders raise nearly every kind of error
        bare = without_metadata(content)
        if bare:
            with contextlib.suppress(Exception), Image.open(io.BytesIO(bare), formats=FORMATS) as image:
                return function(image)
        unknown = f"the content is no image ({', '.join(FORMATS)})"
        raise OSError(unknown if isinstance(err, UnidentifiedImageError) else str(err) or type(err).__name__) from err


def is_of_one_colour(image):
    """`image`: tensor (3, H, W)"""
    return bool((image == image[:, :1, :1]).all())


def _orientation(image):
    """EXIF's orientation, 1 to 8, of a loaded image; 1 where its EXIF is broken."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1


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
    rows = ((-1,) * 4 if s is None else (s.st_size, s.st_mtime_ns, s.st_dev & MOST_INT64, s.st_ino & MOST_INT64) for s in stats)
    return np.fromiter(rows, np.dtype((np.int64, 4)), len(paths))


def stat_images(paths, n_threads=8, chunk=100):
    """Of each file its size in bytes, time of the last change in nanoseconds, device and inode: int64 (N, 4); -1 for None. Asked for by
    several threads where a network drive lets each question wait; a local one, which answers in microseconds, they would slow down."""
    start = time.perf_counter()
    parts = [_stat(paths[:chunk])]
    if time.perf_counter() - start < 5e-5 * chunk:
        parts.append(_stat(paths[chunk:]))
    else:
        with ThreadPoolExecutor(n_threads) as pool:
            parts += pool.map(_stat, [paths[i:i + chunk] for i in range(chunk, len(paths), chunk)])
    return np.concatenate(parts)
