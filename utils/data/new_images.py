"""Images without a csv: files and folders given by the user, which may include other files."""
import os
from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from utils.common import InputError, counted, preview, printable
from utils.data.files import is_namable, list_images
from utils.data.images import open_rgb, read_image


def find_new_images(inputs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the paths of the images in `inputs`, in order and without repetition, and their ids: paths relative to the common folder.

    A folder without images is returned as a path, for which `why_unreadable` gives the reason. Files whose names cannot be written to a
    csv are printed and skipped. Raises `InputError` if no file is left.
    """
    paths: dict = {}
    folders: list[str] = []
    unnamable: list[str] = []
    for item in inputs:
        if os.path.isdir(item):
            images, _, of_folder = list_images(item)
            unnamable += of_folder
            paths |= dict.fromkeys(os.path.abspath(os.path.join(item, image)) for image in images or [''])
            folders.append(os.path.abspath(item if images else os.path.join(item, '..')))
        else:
            paths[os.path.abspath(item)] = None
            folders.append(os.path.dirname(os.path.abspath(item)))
    base = os.path.commonpath(folders)
    ids = {path: os.path.relpath(path, base).replace(os.sep, '/') for path in paths}
    unnamable += [ascii(image_id) for image_id in ids.values() if not is_namable(image_id)]
    if unnamable:
        print(f"* Skipped {counted(len(unnamable), 'file')} with invalid names (not UTF-8, or with control characters): "
              f'{preview(unnamable)}')
    named = [(path, image_id) for path, image_id in ids.items() if is_namable(image_id)]
    if not named:
        raise InputError('no file has a valid name (UTF-8 without control characters): rename the files')
    return [path for path, _ in named], [image_id for _, image_id in named]


def unique_names(names: Sequence[str]) -> list[str]:
    """Names of uploaded files, for a csv: without folders and control characters; repeated ones become 'a (2).jpg'."""
    unique: dict[str, None] = {}
    for name in names:
        name = printable(os.path.basename(name)).encode(errors='replace').decode()
        stem, extension = os.path.splitext(name)
        number = 1
        while name in unique:
            number += 1
            name = f'{stem} ({number}){extension}'
        unique[name] = None
    return list(unique)


def why_unreadable(path: str) -> str | None:
    """Return the reason why the image cannot be read; None if it can be read."""
    if os.path.isdir(path):
        return 'no images in this folder'
    try:
        open_rgb(path)
    except FileNotFoundError:
        return 'no such file'
    except OSError as err:
        return str(err).replace(repr(path), '').splitlines()[0].strip()
    return None


def read_new_images(inputs: Sequence[str], im_size: tuple[int, int], max_images: int) -> torch.Tensor:
    """Read the first `max_images` images of `inputs`: uint8 (N, 3, H, W). Raises `InputError` for an image that cannot be read."""
    images = []
    for path, image_id in zip(*(items[:max_images] for items in find_new_images(inputs)), strict=True):
        if problem := why_unreadable(path):
            raise InputError(f'--images: {image_id}: {problem}')
        images.append(read_image(path, im_size))
    return torch.stack(images)


class ImageFiles(Dataset):
    """Dataset with items (uint8 tensor (3, H, W), -1, image_id), or (zeros, -2, image_id) for a file that cannot be read."""

    def __init__(self, paths: Sequence[str], ids: Sequence[str], im_size: tuple[int, int]):
        self.paths, self.ids, self.im_size = paths, ids, im_size

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        try:
            return read_image(self.paths[index], self.im_size), -1, self.ids[index]
        except OSError:  # `why_unreadable` gives the reason
            return torch.zeros((3, *self.im_size), dtype=torch.uint8), -2, self.ids[index]
