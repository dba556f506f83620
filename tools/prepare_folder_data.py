"""A folder with one folder of images per class -> train/val/test csvs; the images stay where they are.

Examples, with pictures/benign/a.jpg, pictures/malignant/deep/b.png, ..., or with pictures/benign/patient12_3.jpg, ...:

  python -m tools.prepare_folder_data pictures/
  python -m tools.prepare_folder_data pictures/ --patient_pattern '([^/_]+)_[^/]*$'
"""
import os
import re

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from utils.common import InputError, run_script, write_text
from utils.console import say_next, script_parser, to_train
from utils.images import list_images
from utils.read_csv import csv_text
from utils.splitting import rarity, split_groups

SPLIT_NAMES = {'train', 'training', 'val', 'valid', 'validation', 'test', 'testing'}


def get_parser():
    parser = script_parser(__doc__)
    parser.add_argument('folder', help='folder that holds one folder of images per class, named like the class')
    split = parser.add_argument_group('split')
    split.add_argument('--patient_pattern', metavar='REGEX', help='regular expression whose one group (...) finds the patient in the path '
                       'below FOLDER; the images of a patient come into the same part (default: every image is a patient of its own)')
    split.add_argument('--val_fraction', type=float, default=.1, metavar='FRACTION', help='share of the patients for validation')
    split.add_argument('--test_fraction', type=float, default=.2, metavar='FRACTION', help='share of the patients for testing')
    split.add_argument('--seed', type=int, default=0, metavar='N', help='random seed of the split')
    output = parser.add_argument_group('output')
    output.add_argument('--out', default='data', metavar='FOLDER', help='folder of the csvs')
    output.add_argument('--name', metavar='NAME', help='name of the set, in train_NAME.csv (default: the name of the folder)')
    return parser


def natural(text):
    """Key that sorts grade2 before grade10."""
    return [int(part) if i % 2 else part.lower() for i, part in enumerate(re.split(r'([0-9]+)', text))], text


def readable(folder, image):
    try:
        with Image.open(os.path.join(folder, image)):
            return True
    except (OSError, SyntaxError, ValueError):
        return False


def read_folder(folder):
    """-> table image_id (with extension, relative to `folder`), name, label; prints what is left out."""
    if not os.path.isdir(folder):
        raise InputError(f'no such folder: {folder}')
    images, others, not_utf8 = list_images(folder)
    loose = [image for image in images if '/' not in image]
    broken = {image for image in tqdm(images, desc='headers', unit='img', leave=False, disable=None)
              if '/' in image and not readable(folder, image)}
    images = [image for image in images if '/' in image and image not in broken]
    names = sorted({image.split('/')[0] for image in images}, key=natural)
    if len(names) < 2 or {name.lower() for name in names} <= SPLIT_NAMES:
        what = f"folders with images: {', '.join(names) or 'none'}" + (', which are no classes' if len(names) > 1 else '')
        raise InputError(f'{folder} must hold one folder of images for each of two or more classes ({what})')
    for what, files in (('images outside any class folder', loose), ('images that cannot be opened', sorted(broken)),
                        ('files that are no images by their extension', others), ('files whose names are not UTF-8', not_utf8)):
        if files:
            print(f"* Left out: {len(files)} {what}: {', '.join(files[:5])}{', ...' if len(files) > 5 else ''}")
    name = [image.split('/')[0] for image in images]
    return pd.DataFrame({'image_id': images, 'name': name, 'label': [names.index(n) for n in name]})


def patients(image_ids, pattern):
    """What the one group of `pattern` finds in each id. Raises `InputError` naming the first id in which it finds nothing."""
    try:
        compiled = re.compile(pattern)
    except re.error as err:
        raise InputError(f'--patient_pattern {pattern} is no regular expression: {err}') from err
    if compiled.groups != 1:
        raise InputError(f'--patient_pattern {pattern} must have one group (...), it has {compiled.groups}')
    found = [compiled.search(image_id) for image_id in image_ids]
    missing = [image_id for image_id, match in zip(image_ids, found, strict=True) if not (match and match.group(1))]
    if missing:
        raise InputError(f'--patient_pattern {pattern} finds no patient in {len(missing)} of {len(found)} images, such as {missing[0]}')
    return [match.group(1) for match in found]


def main(argv=None):
    args = get_parser().parse_args(argv)
    if min(args.val_fraction, args.test_fraction) < 0 or args.val_fraction + args.test_fraction >= 1 or not args.val_fraction:
        raise InputError('--val_fraction must be positive, and leave, together with --test_fraction, images for training')
    table = read_folder(args.folder)
    groups = table.image_id
    if args.patient_pattern:
        groups = patients(table.image_id, args.patient_pattern)
        table.insert(1, 'patient_id', groups)
    names = table.drop_duplicates('label').sort_values('label').name.tolist()
    part = split_groups(groups, rarity(table.label), (args.val_fraction, args.test_fraction), args.seed)
    set_name = args.name or os.path.basename(os.path.abspath(args.folder))
    os.makedirs(args.out, exist_ok=True)
    parts = {split: table[part == i] for split, i in (('train', 2), ('val', 0), ('test', 1)) if (part == i).any()}
    counts = {split: np.bincount(rows.label, minlength=len(names)) for split, rows in parts.items()}
    absent = [name for name, n in zip(names, counts['train'], strict=True) if not n]
    if absent:
        raise InputError(f"no training image is left of {', '.join(absent)}: give another --seed, or smaller fractions")
    csv = {split: os.path.join(args.out, f'{split}_{set_name}.csv') for split in counts}
    for split, rows in parts.items():
        write_text(csv[split], csv_text(rows))
        of = f' of {rows.patient_id.nunique()} patients' if args.patient_pattern else ''
        print(f'* {csv[split]}: {len(rows)} images{of}')
    for c, name in enumerate(names):
        print(f"  class {c} ({name}): {' / '.join(str(count[c]) for count in counts.values())}")
    say_next('train', *to_train(csv['train'], args.folder, len(names), '--save_path', f'{set_name}/instance'))


if __name__ == '__main__':
    run_script(main)
