"""Images on disk: found by looking, decoded and resized."""
import os

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from .image_files import list_files

EXTENSIONS = ('', '.jpg', '.jpeg', '.png', '.tif', '.tiff', '.bmp', '.JPG', '.JPEG', '.PNG', '.TIF', '.TIFF', '.BMP')


def find_images(image_ids, data_path=None):
    """The file of each image id, None where there is none. `data_path` is the folder (None: ids are paths); the
    extension may be missing from an id. Each folder is listed once instead of trying to open names."""
    listings, found = {}, []
    for image_id in image_ids:
        folder, name = os.path.split(os.path.join(data_path or '', image_id))
        if folder not in listings:
            listings[folder] = list_files(folder or '.')
        match = next((listings[folder][name + ext] for ext in EXTENSIONS if name + ext in listings[folder]), None)
        found.append(match and os.path.join(folder, match))
    return found


def read_image(path, tg_size):
    """RGB uint8 tensor (3, H, W) of the image at `path`, `tg_size` = (H, W).

    A JPEG is decoded at the smallest of 1, 1/2, 1/4, 1/8 of its size that still covers the target (`Image.draft`):
    several times faster for full-size photographs, before the same antialiased bilinear resize. The format is that of the
    content, whatever the extension; EXIF turns the image, transparency is ignored, 16-bit greys are scaled, and of several
    pictures in a file the first counts. Raises `OSError` for everything that cannot be decoded, and for more pixels than
    Pillow's limit against decompression bombs.
    """
    try:
        with Image.open(path) as image:
            image.draft('RGB', (max(tg_size), max(tg_size)))
            image = _to_rgb(ImageOps.exif_transpose(image)).resize(tg_size[::-1], Image.Resampling.BILINEAR)
    except UnidentifiedImageError as err:
        empty = isinstance(path, (str, os.PathLike)) and os.path.getsize(path) == 0
        raise OSError('the file is empty' if empty else 'the content is no image') from err
    except Exception as err:  # of damaged files Pillow's decoders raise nearly every kind of error
        raise OSError(str(err) or type(err).__name__) from err
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _to_rgb(image):
    if image.mode.startswith('I;16'):  # Pillow would clip at 255
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert('RGB')
    if image.mode in ('I', 'F'):
        raise ValueError(f'its pixels are 32-bit numbers of no known range (mode {image.mode}): convert it to 8 or 16 bits')
    if 'transparency' in image.info:  # of a palette
        image = image.convert('RGBA')
    return image.convert('RGB')
