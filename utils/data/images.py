"""Image files -> upright RGB pixels: decoded and resized."""
import contextlib
import io
import os

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError, __version__, features

from utils.data.image_metadata import without_metadata

# All that decides about the pixels of an image beside its file and the target size.
LIBJPEG = features.version('libjpeg_turbo') or features.version('jpg')
DECODER = f'Pillow {__version__}, libjpeg {LIBJPEG}, draft, 16-bit greys scaled, bilinear'
# Of the files with the extensions that this project takes. Pillow reads more formats, some of which start other programs (EPS:
# Ghostscript). Several pictures in one JPEG (MPO), as some cameras write them, are of the format JPEG here.
FORMATS = ('JPEG', 'PNG', 'TIFF', 'BMP', 'WEBP', 'GIF', 'PPM')
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}  # of EXIF's orientations


def open_rgb(path: str, size: tuple[int, int] = (0, 0)) -> Image.Image:
    """Read the whole image at `path`, upright, as an RGB Pillow image; see `decode_rgb`."""
    return decode_rgb(_content(path), size)


def read_image(path: str, im_size: tuple[int, int]) -> torch.Tensor:
    """Read RGB uint8 tensor (3, H, W) of the image at `path`, `im_size` = (H, W); see `decode_image`."""
    return decode_image(_content(path), im_size)


def _content(path):
    """The bytes of the file at `path`. Raises `OSError` for what is no regular file: a named pipe would be waited for."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(f'{str(path)!r} is no regular file')
    with open(path, 'rb') as f:
        return f.read()


def decode_image(content: bytes, im_size: tuple[int, int]) -> torch.Tensor:
    """Decode RGB uint8 tensor (3, H, W) of `content`, the bytes of an image file; `im_size` = (H, W). Antialiased bilinear resize; see
    `decode_rgb`."""
    image = decode_rgb(content, im_size).resize(im_size[::-1], Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


def decode_rgb(content: bytes, size: tuple[int, int] = (0, 0)) -> Image.Image:
    """Decode the upright RGB Pillow image of `content`, the bytes of an image file.

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


def describe_image(content: bytes) -> tuple[int, tuple[int, int], str]:
    """Return the number of pictures, (width, height) and Pillow's mode of `content`, the bytes of an image file. Raises `OSError`."""
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


def is_of_one_colour(image: torch.Tensor) -> bool:
    """Tell whether all pixels of `image`, (3, H, W), are equal."""
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
