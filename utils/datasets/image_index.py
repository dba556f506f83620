"""Find the images that a table names, in folders with any subfolders: with or without extension, and where two folders share names."""
import os
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

from utils.common import InputError
from utils.data.files import EXTENSIONS, list_images
from utils.datasets.csv_splits import split_of


def common_folder(folders: Sequence[str]) -> str:
    """-> the deepest folder that holds all `folders`, relative if they are. Raises `InputError` if one does not exist."""
    for folder in folders:
        if not os.path.isdir(folder):
            raise InputError(f"no such folder: {folder}{' (unpack it first)' if os.path.isfile(folder) else ''}")
    if len({os.path.realpath(folder) for folder in folders}) == 1:
        return folders[0]
    try:
        common = os.path.commonpath([os.path.abspath(folder) for folder in folders])
    except ValueError as err:  # different drives on Windows
        raise InputError(f"{' and '.join(folders)} have no common folder: move them into one") from err
    return common if any(map(os.path.isabs, folders)) else os.path.relpath(common)


class ImageIndex:
    """The images below `folders`, as paths relative to `root` with '/', found by the id that a table has for them.

    Ids match the end of a path, with or without the extension; a different extension or case is accepted if nothing else matches.
    """

    def __init__(self, folders: Sequence[str], root: str) -> None:
        self.folders, self.paths = folders, set()
        for folder in folders:
            below = os.path.relpath(folder, root).replace(os.sep, '/')
            self.paths |= {posixpath.normpath(f'{below}/{image}') for image in list_images(folder).images}
        self._by_name: dict[str, list] = defaultdict(list)
        for path in sorted(self.paths):
            name = _normal(posixpath.basename(path))
            for key in {name, without_extension(name), without_extension(name).casefold()}:
                self._by_name[key].append(path)

    def candidates(self, image_id: str) -> list[str]:
        """-> the images that `image_id` may name, sorted; [] if there are none"""
        head, name = posixpath.split(posixpath.normpath(_normal(image_id).replace('\\', '/')))
        stem = without_extension(name)
        for key in dict.fromkeys((name, stem, stem.casefold())):
            if found := [path for path in self._by_name.get(key, ()) if _ends_with(_normal(posixpath.dirname(path)), head)]:
                return found
        return []

    def find(self, image_ids: Sequence[str], parts: Sequence[str]) -> list[list[str]]:
        """-> the images that each id may name: one, unless it is missing or ambiguous.

        `parts`: 'train', 'val', 'test' or '' for each id. Of several images, one in a folder of that name is preferred. Folders at the
        beginning of all ids are ignored if they exist for none, as in ids from another computer.
        """
        ids = [_normal(image_id).replace('\\', '/') for image_id in image_ids]
        found = [self.candidates(image_id) if image_id else [] for image_id in ids]
        heads = [posixpath.dirname(image_id) for image_id in ids if '/' in image_id]
        if not any(found) and heads:
            try:
                shared = posixpath.commonpath(heads)
            except ValueError:  # absolute and relative ids
                shared = ''
            found = [self.candidates(image_id.removeprefix(f'{shared}/')) if image_id else [] for image_id in ids]
        return [[path for path in paths if part in map(split_of, path.split('/')[:-1])] or paths if len(paths) > 1 else paths
                for paths, part in zip(found, parts, strict=True)]


def _normal(text):
    return unicodedata.normalize('NFC', text)  # macOS stores accents as separate characters


def without_extension(name: str) -> str:
    """a.jpg -> a; a name without the extension of an image is unchanged"""
    stem, extension = posixpath.splitext(name)
    return stem if extension.lower() in EXTENSIONS else name


def _ends_with(folder, head):
    return not head or folder == head or folder.endswith(f'/{head}')
