"""Split Kaggle's EyePACS labels by patient into train/val/test_eyepacs.csv: both eyes of a patient stay together.

Example, with the csv from the competition's page:

  python -m tools.prepare_eyepacs_data --labels data/trainLabels.csv
"""
import os
import re

import numpy as np
import pandas as pd

from utils.cli import say_next, script_parser, to_train, warn_without_effect
from utils.common import InputError, counted, run_script, write_text
from utils.data.read_csv import csv_text, patient_key, read_csv
from utils.datasets.splitting import split_groups

GRADES, IMAGES = 5, 'data/eyepacs_all_ims'
OTHER_TABLES = ('this tool only splits EyePACS. For another data set, write train_NAME.csv and val_NAME.csv with a column image_id and '
                'the class (0 to K-1) in the last column, and give them to train_lt_mxp.py')
WITHOUT_EFFECT = (('test_fraction', 'with --test_labels', lambda a: a.test_labels),)


def read_labels(path):
    """Read Kaggle's csv (image, level[, Usage]) with the image names <patient>_left|right. -> table image_id, patient_id, name, level

    The case of left and right is ignored, and extensions are removed. Raises `InputError` that names the first row with a different image
    name, a grade other than 0..4, or a repeated image."""
    table, rows = read_csv(path, 'csv of labels')
    if not {'image', 'level'} <= set(table.columns):
        raise InputError(f"{path} has no columns 'image' and 'level' (its columns: {', '.join(table.columns)}): {OTHER_TABLES}")
    parts = table.image.str.extract(r'^((?:.*[/\\])?([^/\\]+?)\s*_(?:left|right))(?:\.\w+)*$', flags=re.IGNORECASE)
    ids, patients = parts[0], parts[1]
    levels = pd.to_numeric(table.level, errors='coerce')
    for bad, text in ((ids.isna(), "image '{image}' does not end in _left or _right: " + OTHER_TABLES),
                      (~levels.isin(range(GRADES)), f"level '{{level}}' is not an integer in 0..{GRADES - 1}"),
                      (ids.str.lower().duplicated(), "image '{image}' repeats an earlier row: delete one of them")):
        if bad.any():
            first = int(np.argmax(bad))
            raise InputError(f'{path}, row {rows[first]}: ' + text.format(**table.iloc[first][['image', 'level']].fillna('')))
    levels = levels.astype(np.int64)
    return pd.DataFrame({'image_id': ids, 'patient_id': patients, 'name': [f'DR{grade}' for grade in levels], 'level': levels})


def split_patients(table, fractions, seed):
    """Split the fractions of the patients off `table`, stratified by the grade of the worse eye. -> a table per fraction, then the rest"""
    part = split_groups(table.patient_id.map(patient_key), table.level, fractions, seed)
    return [table[part == i] for i in range(len(fractions) + 1)]


def get_parser():
    parser = script_parser(__doc__)
    data = parser.add_argument_group('data')
    data.add_argument('--labels', default='data/trainLabels.csv', metavar='CSV', help="Kaggle's trainLabels.csv")
    data.add_argument('--test_labels', metavar='CSV',
                      help="labels of Kaggle's test images (retinopathy_solution.csv), used as the test set")
    split = parser.add_argument_group('split')
    split.add_argument('--val_fraction', type=float, default=.1, metavar='FRACTION', help='share of patients for validation')
    split.add_argument('--test_fraction', type=float, default=.2, metavar='FRACTION',
                       help='share of patients for testing, if --test_labels is not given')
    split.add_argument('--seed', type=int, default=0, metavar='N', help='random seed of the split')
    output = parser.add_argument_group('output')
    output.add_argument('--out', default='data', metavar='FOLDER', help='folder for the csvs')
    return parser


def main(argv=None):
    parser = get_parser()
    args = parser.parse_args(argv)
    warn_without_effect(parser, argv, args, WITHOUT_EFFECT)
    test_fraction = 0. if args.test_labels else args.test_fraction
    if min(args.val_fraction, test_fraction) < 0 or args.val_fraction + test_fraction >= 1:
        raise InputError('--val_fraction and --test_fraction must not be negative, and must leave patients for training')
    labels = read_labels(args.labels)
    val, test, train = split_patients(labels, (args.val_fraction, test_fraction), args.seed)
    if args.test_labels:
        test = read_labels(args.test_labels)
        shared = sorted(set(test.patient_id.map(patient_key)) & set(labels.patient_id.map(patient_key)))
        if shared:
            raise InputError(f"--test_labels {args.test_labels} shares {counted(len(shared), 'patient')} with --labels {args.labels}: "
                             f"{', '.join(shared[:5])}{', ...' if len(shared) > 5 else ''} (use Kaggle's retinopathy_solution.csv)")
    os.makedirs(args.out, exist_ok=True)
    for name, part in (('train', train), ('val', val), ('test', test)):
        path = os.path.join(args.out, f'{name}_eyepacs.csv')
        write_text(path, csv_text(part))
        counts = np.bincount(part.level, minlength=GRADES)
        print(f"* {path}: {counted(len(part), 'image')} of {counted(part.patient_id.nunique(), 'patient')}, "
              f"per grade {' / '.join(map(str, counts))}")
    print(f'* Put the images into {IMAGES}/')
    if os.path.normpath(args.out) == 'data':
        say_next('train and test every method', 'bash', 'run_lt_experiments.sh', 'eyepacs')
    else:
        csvs = [os.path.join(args.out, f'{split}_eyepacs.csv') for split in ('train', 'val')]
        say_next('train', *to_train(*csvs, IMAGES, GRADES, '--recipe', 'finetune'))


if __name__ == '__main__':
    run_script(main)
