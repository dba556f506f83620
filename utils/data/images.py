"""Image files -> upright RGB pixels, decoded and resized."""
import contextlib
import io
import os
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError, __version__, features

from utils.data.image_metadata import without_metadata

if TYPE_CHECKING:
    import torch

# Everything that determines the decoded pixels besides the file and the target size.
LIBJPEG = features.version('libjpeg_turbo') or features.version('jpg')
DECODER = f'Pillow {__version__}, libjpeg {LIBJPEG}, draft, 16-bit greys scaled, bilinear'
# The formats of `files.EXTENSIONS`. Pillow reads more, some of which start other programs (EPS: Ghostscript).
# JPEG includes files with several pictures (MPO), which some cameras write.
FORMATS = ('JPEG', 'PNG', 'TIFF', 'BMP', 'WEBP', 'GIF', 'PPM')
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}  # of EXIF's orientations


def open_rgb(path: str, size: tuple[int, int] = (0, 0)) -> Image.Image:
    """Read the image at `path` as an upright RGB Pillow image; `size` as in `decode_rgb`."""
    return decode_rgb(_content(path), size)


def read_image(path: str, im_size: tuple[int, int]) -> 'torch.Tensor':
    """Read the image at `path` as an RGB uint8 tensor (3, H, W), `im_size` = (H, W); see `decode_image`."""
    return decode_image(_content(path), im_size)


def _content(path):
    """Read the file at `path`. Raises `OSError` unless it is a regular file, because opening a named pipe would block."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(f'{str(path)!r} is not a regular file')
    with open(path, 'rb') as f:
        return f.read()


def decode_image(content: bytes, im_size: tuple[int, int]) -> 'torch.Tensor':
    """Decode `content`, the bytes of an image file, to an RGB uint8 tensor (3, H, W), `im_size` = (H, W).

    The resize is bilinear and antialiased. Errors: see `decode_rgb`.
    """
    import torch  # imported here: it takes seconds, and Pillow images do not need it
    image = decode_rgb(content, im_size).resize(im_size[::-1], Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


def decode_rgb(content: bytes, size: tuple[int, int] = (0, 0)) -> Image.Image:
    """Decode `content`, the bytes of an image file, to an upright RGB Pillow image.

    - A JPEG is decoded at the smallest of 1, 1/2, 1/4, 1/8 of its size that covers `size` = (H, W); (0, 0) decodes it in full
      (`Image.draft`). This is several times faster for full-size photographs.
    - The content decides the format, one of FORMATS, whatever the extension. Of several pictures in a file, the first is used.
    - EXIF orientation is applied, transparency is ignored, and 16-bit grey levels are scaled to 8 bits.
    - Broken metadata (EXIF, texts, colour profile) are ignored.

    Raises `OSError` for content that cannot be decoded, or that exceeds Pillow's limit against decompression bombs.
    """
    def decode(image):
        if max(size):
            image.draft('RGB', (max(size), max(size)))
        image.load()
        turn = TURNS.get(_orientation(image))
        return _to_rgb(image if turn is None else image.transpose(turn))
    return _with_image(content, decode)


def describe_image(content: bytes) -> tuple[int, tuple[int, int], str]:
    """Return (number of pictures, (width, height), Pillow mode) of `content`, the bytes of an image file. Raises `OSError`."""
    return _with_image(content, lambda image: (getattr(image, 'n_frames', 1), image.size, image.mode))


def _with_image(content, function):
    """Return `function(image)` of the Pillow image in `content`. If that fails, try again without its metadata, which may be broken."""
    if not content:
        raise OSError('the file is empty')
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return function(image)
    except Exception as err:  # Pillow's decoders raise nearly every kind of error on damaged files
        bare = without_metadata(content)
        if bare:
            with contextlib.suppress(Exception), Image.open(io.BytesIO(bare), formats=FORMATS) as image:
                return function(image)
        unknown = f"not an image in a supported format ({', '.join(FORMATS)})"
        raise OSError(unknown if isinstance(err, UnidentifiedImageError) else str(err) or type(err).__name__) from err


def is_of_one_colour(image: 'torch.Tensor') -> bool:
    """Return whether all pixels of `image`, (3, H, W), are equal."""
    return bool((image == image[:, :1, :1]).all())


def _orientation(image):
    """Return the EXIF orientation of a loaded image, 1 to 8; 1 if its EXIF is broken."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1


def _to_rgb(image):
    if image.mode.startswith('I;16'):  # Pillow would clip at 255
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert('RGB')
    if image.mode in ('I', 'F'):
        raise ValueError(f'32-bit pixels of unknown range (mode {image.mode}): convert the image to 8 or 16 bits')
    if 'transparency' in image.info:  # of a palette image
        image = image.convert('RGBA')
    return image.convert('RGB')
