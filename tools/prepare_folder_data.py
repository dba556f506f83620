"""Write train/val/test csvs for a folder with one subfolder of images per class; the images stay where they are.

FOLDER may also hold the folders train, val and test with the class folders inside. These splits are kept; a split without a folder is
drawn from train.

Examples, with pictures/benign/a.jpg, pictures/malignant/deep/b.png, ..., or with pictures/benign/patient12_3.jpg, ...:

  python -m tools.prepare_folder_data pictures/
  python -m tools.prepare_folder_data pictures/ --patient_pattern '([^/_]+)_[^/]*$'

Example, with a test set in a separate folder, which need not hold every class:

  python -m tools.prepare_folder_data other_clinic/ --classes_from data/train_pictures.csv
"""
from utils.cli import tune_process

tune_process()  # before torch is imported

import os
import re
import unicodedata

import pandas as pd
from PIL import Image
from tqdm import tqdm

from utils.cli import say_next, script_parser, warn_without_effect
from utils.common import InputError, counted, preview, run_script
from utils.data.files import list_images
from utils.data.images import FORMATS, open_rgb
from utils.data.label_column import HELP as LABEL_HELP
from utils.data.label_column import describe_label_column
from utils.data.permissions import add_private_flag, keep_private
from utils.datasets.archives import one_line
from utils.datasets.csv_splits import (
    add_output_flags,
    add_patients,
    add_split_flags,
    check_split_flags,
    draw_parts,
    leave_out_copies,
    match_patients,
    natural,
    print_classes,
    refuse_unfit_parts,
    split_of,
    write_parts,
)

WITHOUT_EFFECT = (
    ('label_column', 'without --classes_from', lambda a: not a.classes_from),
    *((flag, 'with --classes_from, which makes one csv', lambda a: a.classes_from)
      for flag in ('val_fraction', 'test_fraction', 'copies', 'seed')),
    *((f'{name}_fraction', f'if the {name} images have a folder', lambda a, name=name: name in a.parts)
      for name in ('val', 'test')),
)
NO_CLASS = re.compile(r'fold[\W_]*\d+|(annotation|evaluation|image|label|mask|segmentation)s?|dev|eval', re.IGNORECASE)
MASK = re.compile(r'(.+)_(?:mask|segmentation)(?:_\d+)?')


def get_parser():
    parser = script_parser(__doc__)
    parser.add_argument('folder', help='folder with one subfolder of images per class, named after the class')
    classes = parser.add_argument_group('classes')
    classes.add_argument('--classes_from', metavar='CSV', help='csv with the class names and numbers to use, such as the training csv; '
                         'all images go to one csv, test_NAME.csv')
    classes.add_argument('--label_column', metavar='COLUMN', help=f'--classes_from: {LABEL_HELP}')
    add_split_flags(parser, 'FOLDER')
    add_private_flag(add_output_flags(parser, 'name of the folder'))
    return parser


def readable(folder, image):
    path = os.path.join(folder, image)
    if not os.path.isfile(path):  # opening a named pipe would block
        return False
    try:
        with Image.open(path, formats=FORMATS):
            return True
    except Exception:  # Pillow raises nearly any exception for a damaged header
        pass
    try:
        open_rgb(path)  # slower, but reads images of which only the header is damaged
    except OSError:
        return False
    return True


def class_depth(folder, images):
    """-> depth of the class folders in the paths: 0, or 1 if they are in the folders train, val and test. Raises `InputError` for any other
    folder beside these."""
    tops = {image.split('/')[0] for image in images if '/' in image}
    classes = {tuple(image.split('/')[:2]) for image in images if image.count('/') > 1 and split_of(image.split('/')[0]) == 'train'}
    if len(classes) < 2:
        return 0
    if others := sorted(top for top in tops if not split_of(top)):
        raise InputError(f"{folder}: the class folders are in {' and '.join(sorted(tops - set(others)))}, but {' and '.join(others)} "
                         f"{'is' if len(others) == 1 else 'are'} not train, val or test: rename or remove {' and '.join(others)}")
    return 1


def masks(images):
    """-> those of the paths `images` that are masks of other images, such as a_mask.png of a.png"""
    stems = {os.path.splitext(image)[0] for image in images}
    found = [MASK.fullmatch(os.path.splitext(image)[0]) for image in images]
    return [image for image, match in zip(images, found, strict=True) if match and match[1] in stems]


def read_folder(folder):
    """Find the images of `folder`, and print the files that are left out. -> table image_id (path relative to `folder`, with extension),
    name (of the class), part (train, val or test if `folder` holds these folders, else '')"""
    if not os.path.isdir(folder):
        raise InputError(f'no such folder: {folder}')
    images, others, unnamable = list_images(folder)
    depth, of_others = class_depth(folder, images), masks(images)
    images = sorted(set(images) - set(of_others))
    broken = {image for image in tqdm(images, desc='headers', unit='img', leave=False, disable=None)
              if image.count('/') > depth and not readable(folder, image)}
    for what, files in (('image outside any class folder', [image for image in images if image.count('/') <= depth]),
                        ('mask of another image', of_others), ('image that cannot be opened', sorted(broken)),
                        ('file without an image extension', others),
                        ('file with a name that is not UTF-8 or contains control characters', unnamable)):
        if files:
            noun, rest = what.split(' ', 1)
            print(f'* Left out: {counted(len(files), noun)} {rest}: {preview([one_line(file) for file in files])}')
    images = [image for image in images if image.count('/') > depth and image not in broken]
    parts = [split_of(image.split('/')[0]) if depth else '' for image in images]
    return pd.DataFrame({'image_id': images, 'name': [image.split('/')[depth] for image in images], 'part': parts}, dtype=str)


def classes_of(data):
    """-> {class name: number} of `data` (ClassDataset). Raises `InputError` unless names and numbers match one to one."""
    pairs, csv = data.named_classes(), data.csv_path
    if not pairs or pairs[0][0] < 0:
        raise InputError(f"--classes_from {csv} must have the class names in a column 'name', and the class numbers in the last column or "
                         'in --label_column')
    for of, by in ((0, 1), (1, 0)):
        for value in {pair[of] for pair in pairs}:
            several = [str(pair[by]) for pair in pairs if pair[of] == value]
            if len(several) > 1:
                raise InputError(f"--classes_from {csv}: {('class', 'name')[of]} {value} has the {('names', 'classes')[of]} "
                                 f"{' and '.join(several)}")
    return {name: number for number, name in pairs}


def number_classes(table, folder, training=None):
    """-> ({class name: number}, (N,) label of each row of `table`). The classes are those of `training` (ClassDataset), or else the folders
    of images (in train, if there are splits) in natural order. Raises `InputError` for a folder that is not a class."""
    present = sorted(table.name.unique(), key=natural)
    if training:
        numbers, source = classes_of(training), training.csv_path
        if not len(table):
            raise InputError(f'{folder} has no images in class folders: it needs at least one class of {source}')
        if table.part.any():
            raise InputError(f"{folder} holds the splits {', '.join(sorted(table.part.unique()))}: with --classes_from, give the folder of "
                             'one of them')
    else:
        numbers = {name: c for c, name in enumerate(sorted(table.name[table.part.isin(['', 'train'])].unique(), key=natural))}
        source = 'the training images'
        if len(numbers) < 2 or all(split_of(name) or NO_CLASS.fullmatch(name) for name in numbers):
            what = f"folders with images: {', '.join(present) or 'none'}" + (', which are not classes' if len(present) > 1 else '')
            raise InputError(f'{folder} must hold one folder of images for each of two or more classes ({what}); for a test set, give the '
                             'training csv with --classes_from')
    # NFC because macOS stores accents as separate characters
    by_name = {unicodedata.normalize('NFC', name.strip()): number for name, number in numbers.items()}
    labels = [by_name.get(unicodedata.normalize('NFC', name.strip())) for name in table.name]
    unknown = sorted({name for name, label in zip(table.name, labels, strict=True) if label is None}, key=natural)
    if unknown:
        raise InputError(f"{folder}: {', '.join(unknown)} {'is not a class' if len(unknown) == 1 else 'are not classes'} of {source} "
                         f"({', '.join(numbers)}): rename or remove {'this folder' if len(unknown) == 1 else 'these folders'}")
    return numbers, labels


def main(argv=None):
    parser = get_parser()
    args = parser.parse_args(argv)
    check_split_flags(args)
    set_name = args.name or os.path.basename(os.path.abspath(args.folder))
    table = read_folder(args.folder)
    warn_without_effect(parser, argv, args, WITHOUT_EFFECT, parts=set(table.part))
    training = None
    if args.classes_from:
        from utils.data.dataset import ClassDataset  # imported here: it takes seconds, and a split needs no torch

        training = ClassDataset(args.classes_from, label_column=args.label_column)
        print(describe_label_column(args.classes_from, training.label_column))
    numbers, table['label'] = number_classes(table, args.folder, training)
    table['name'] = table.label.map({c: name for name, c in numbers.items()})  # the spelling of the training csv
    if args.patient_pattern:
        add_patients(table, match_patients(table.image_id, args.patient_pattern))
    if args.classes_from:
        table['part'] = 'test'
    else:
        table = leave_out_copies(table, args.folder, args.copies)
        draw_parts(table, args, 'the folders train, val and test')
        refuse_unfit_parts(table, numbers, args.out, set_name)
    keep_private(args.private, beside=args.out)
    label_column = training.label_column if training else 'label'  # the test scripts look for the column of the training csv
    csv = write_parts(table.rename(columns={'label': label_column}), args.out, set_name)
    print_classes(table, numbers)
    say_next('check the csvs and images', 'python', '-m', 'tools.check_data', *csv.values(), '--data_path', args.folder,
             *(['--n_classes', max(numbers.values()) + 1] if args.classes_from else []))


if __name__ == '__main__':
    run_script(main)
