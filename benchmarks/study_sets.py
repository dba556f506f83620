"""Write the data sets of the study, each as a folder with train.csv, val.csv, test.csv and images/.

SOURCE has a folder for each collection, with images.zip or images/ and csvs. The sets ham and ham_small need ham10000/ with train_ham.csv,
train_ham_small.csv, val_ham.csv and test_ham.csv. The set idrid needs idrid/ with train_idrid.csv, val_idrid.csv and test_idrid.csv. The
set isic8_lt needs isic8/ with train_isic8_lt.csv, val_isic8_lt.csv and train_isic8.csv.

Sets without their files are skipped, and sets that TARGET has already are kept. Images whose files are exact copies of an image in an
earlier split (training, validation, test) are left out. The test images of isic8_lt are those of train_isic8.csv in neither of its other
csvs. If a class has none, half of its validation images become test images.

Example:

  python -m benchmarks.study_sets data/real data/study
"""
import hashlib
import os
import shutil
import tempfile
from typing import NamedTuple

import numpy as np
import pandas as pd

from utils.cli import say_next, script_parser
from utils.common import InputError, file_sha256, preview, run_script, write_text
from utils.data.files import find_images
from utils.data.read_csv import check_csv_exists, read_csv
from utils.datasets.archives import open_zip
from utils.get_loaders import ClassDataset

SPLITS = ('train', 'val', 'test')
MOST_BYTES = 1 << 30  # limit for the unpacked images of a zip


class Source(NamedTuple):
    """A set in the folder SOURCE: the folder of its collection, and its csvs there."""
    folder: str
    train: str
    val: str
    test: str
    held_out: bool = False  # the test images are those of `test` that are in no other csv, see `split_held_out`


SOURCES = {
    'isic8_lt': Source('isic8', 'train_isic8_lt.csv', 'val_isic8_lt.csv', 'train_isic8.csv', held_out=True),
    'idrid': Source('idrid', 'train_idrid.csv', 'val_idrid.csv', 'test_idrid.csv'),
    'ham_small': Source('ham10000', 'train_ham_small.csv', 'val_ham.csv', 'test_ham.csv'),
    'ham': Source('ham10000', 'train_ham.csv', 'val_ham.csv', 'test_ham.csv'),
}


class StudySet(NamedTuple):
    """A set of the study."""
    name: str
    folder: str
    class_count: list  # training images of each class

    def csv(self, split: str) -> str:
        return os.path.join(self.folder, f'{split}.csv')

    def sha256(self) -> str:
        """-> one SHA-256 for the three csvs, that of their hashes"""
        return hashlib.sha256(' '.join(file_sha256(self.csv(split)) for split in SPLITS).encode()).hexdigest()

    @property
    def images(self) -> str:
        return os.path.join(self.folder, 'images')


def read_set(folder: str) -> StudySet:
    """-> the set in `folder`, with the name of the folder. Raises `InputError` if it lacks a csv or images/."""
    found = StudySet(os.path.basename(os.path.abspath(folder)), folder, [])
    for split in SPLITS:
        check_csv_exists(found.csv(split))
    if not os.path.isdir(found.images):
        raise InputError(f'{folder} has no folder images: make the sets with python -m benchmarks.study_sets')
    return found._replace(class_count=np.bincount(ClassDataset(found.csv('train')).labels).tolist())


def split_held_out(train, val, pool):
    """-> (validation, test) tables, as the module docstring describes. The last column of each table is the class."""
    test = pool[~pool.image_id.isin([*train.image_id, *val.image_id])]
    label = val.columns[-1]
    moved = val[~val[label].isin(test[label])].sort_values('image_id').groupby(label).nth(slice(None, None, 2))
    return val.drop(moved.index), pd.concat([test, moved])


def without_copies(tables, paths):
    """Leave out images whose files equal an image of an earlier split. In IDRiD, the photographs train_IDRiD_118 and test_IDRiD_064 of the
    official training and test sets are the same file.

    `tables`: {split: DataFrame}; `paths`: {image id: path}. -> (tables, {id that is left out: id of the image that it copies})
    """
    earlier, copies, kept = {}, {}, {}
    for split in SPLITS:
        hashes = {image_id: file_sha256(paths[image_id]) for image_id in tables[split].image_id}
        copies |= {image_id: earlier[found] for image_id, found in hashes.items() if found in earlier}
        earlier = {found: image_id for image_id, found in hashes.items()} | earlier
        kept[split] = tables[split][~tables[split].image_id.isin(copies)]
    return kept, copies


def unpack(collection, folder):
    """Unpack images.zip, or copy images/, from a collection to a new `folder`. -> the folder with the images"""
    images, zipped = os.path.join(folder, 'images'), os.path.join(collection, 'images.zip')
    if os.path.exists(zipped):
        with open_zip(zipped, MOST_BYTES, MOST_BYTES) as archive:
            archive.extractall(folder)
    else:
        os.makedirs(images)
        for name in os.listdir(os.path.join(collection, 'images')):
            shutil.copyfile(os.path.join(collection, 'images', name), os.path.join(images, name))  # without read-only permissions
    return images


def write_set(source, collection, images, target):
    """Write one set to the new folder `target`. Its images are hard links to files in `images`, so that sets can share them."""
    tables = {split: read_csv(os.path.join(collection, getattr(source, split)))[0] for split in SPLITS}
    if source.held_out:
        tables['val'], tables['test'] = split_held_out(tables['train'], tables['val'], tables['test'])
    ids = [image_id for table in tables.values() for image_id in table.image_id]
    paths = dict(zip(ids, find_images(ids, images), strict=True))
    if missing := [image_id for image_id, path in paths.items() if path is None]:
        raise InputError(f'{collection} lacks images of its csvs: {preview(missing)}')
    tables, copies = without_copies(tables, paths)
    for image_id, first in copies.items():
        print(f'* {os.path.basename(target)}: {image_id} is left out, since its file is a copy of {first}')
    os.makedirs(os.path.join(target, 'images'))
    for split, table in tables.items():
        write_text(os.path.join(target, f'{split}.csv'), table.to_csv(index=False))
        for image_id in table.image_id:
            os.link(paths[image_id], os.path.join(target, 'images', os.path.basename(paths[image_id])))
    n = {split: len(table) for split, table in tables.items()}
    print(f"* {os.path.basename(target)}: {n['train']:,} training, {n['val']:,} validation and {n['test']:,} test images")


def missing_files(source, folder):
    """-> names of the files of a set that its collection in `folder` lacks"""
    collection, csvs = os.path.join(folder, source.folder), [getattr(source, split) for split in SPLITS]
    has_images = any(os.path.exists(os.path.join(collection, name)) for name in ('images.zip', 'images'))
    return [*([] if has_images else ['images']), *(csv for csv in csvs if not os.path.isfile(os.path.join(collection, csv)))]


def write_sets(source, target, names=tuple(SOURCES)):
    """Write the sets `names` from the folder `source`, as the module docstring describes. -> their folders

    Raises `InputError` if `source` has the files of none of them.
    """
    missing = {name: files for name in names if (files := missing_files(SOURCES[name], source))}
    for name, files in missing.items():
        print(f"* {name} is skipped: {os.path.join(source, SOURCES[name].folder)} has no {', '.join(files)}")
    found = [name for name in names if name not in missing]
    if not found:
        raise InputError(f"{source} has none of the sets {', '.join(names)}: python -m benchmarks.study_sets --help lists the files")
    os.makedirs(target, exist_ok=True)
    new = [name for name in found if not os.path.exists(os.path.join(target, name))]
    for name in found:
        if name not in new:
            print(f'* {name}: kept, it exists')
    for folder in dict.fromkeys(SOURCES[name].folder for name in new):
        collection = os.path.join(source, folder)
        with tempfile.TemporaryDirectory(dir=target, prefix='.') as temporary:  # a set is renamed when it is complete
            images = unpack(collection, os.path.join(temporary, 'unpacked'))
            for name in (name for name in new if SOURCES[name].folder == folder):
                write_set(SOURCES[name], collection, images, os.path.join(temporary, name))
                os.rename(os.path.join(temporary, name), os.path.join(target, name))
    return [os.path.join(target, name) for name in found]


def get_parser():
    parser = script_parser(__doc__)
    parser.add_argument('source', metavar='SOURCE', help='folder with the collections')
    parser.add_argument('target', metavar='TARGET', help='folder for the sets')
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    say_next('run the study', 'python', '-m', 'benchmarks.study', *write_sets(args.source, args.target))


if __name__ == '__main__':
    run_script(main)
