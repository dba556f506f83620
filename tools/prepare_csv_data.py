"""Write train/val/test csvs from a table of labels and a folder of images, as data sets and hospitals have them; the images stay in place.

Labels may be text, numbers, or one column of 0 and 1 per class. Images may be in subfolders, named with or without extension. Tables of
HAM10000, ISIC 2018 and 2019, APTOS 2019, IDRiD, Messidor-2, EyePACS, Hyper-Kvasir and PAD-UFES-20 are recognised by their columns.

Examples:

  python -m tools.prepare_csv_data HAM10000_metadata.csv --images HAM10000 --keep age sex localization
  python -m tools.prepare_csv_data labels.csv --images pictures --label_column finding --classes normal,benign,malignant
  python -m tools.prepare_csv_data train.csv --images train --test_table test.csv --test_images test
"""
import os
import re

import pandas as pd

from utils.cli import say_next, script_parser, warn_without_effect
from utils.common import run_script
from utils.data.permissions import add_private_flag, keep_private, private_flag
from utils.datasets.class_numbers import class_texts, number_classes
from utils.datasets.csv_splits import (
    add_output_flags,
    add_split_flags,
    check_split_flags,
    draw_parts,
    keep_one_per_patient,
    leave_out_copies,
    print_classes,
    refuse_unfit_parts,
    write_parts,
)
from utils.datasets.image_index import ImageIndex, common_folder
from utils.datasets.label_tables import NO_COLUMN, LabelTable, read_label_table
from utils.datasets.labelled_images import check_kept_columns, describe, labelled_images

NOT_A_NAME = {'train', 'training', 'test', 'testing', 'labels', 'label', 'metadata', 'data', 'groundtruth', 'csv'}
WITHOUT_EFFECT = (
    ('test_images', 'without --test_table', lambda a: not a.test_table),
    ('test_fraction', 'with --test_table', lambda a: a.test_table),
    ('patient_pattern', 'with --group_column', lambda a: a.group_column and a.group_column != NO_COLUMN),
)


def get_parser():
    parser = script_parser(__doc__)
    parser.add_argument('table', metavar='TABLE', help='csv with one row per image')
    parser.add_argument('--images', nargs='+', required=True, metavar='FOLDER', help='folders with the images, at any depth')
    columns = parser.add_argument_group('columns')
    columns.add_argument('--image_column', metavar='COLUMN', help='column with the image (default: the one that names the images)')
    columns.add_argument('--label_column', nargs='+', default=[], metavar='COLUMN',
                         help='column with the class, or a column of 0 and 1 for each class (default: found by name or content)')
    columns.add_argument('--group_column', metavar='COLUMN', help="column with the patient or lesion, whose images go to one split; 'none' "
                         'for images of different patients (default: found by name)')
    columns.add_argument('--classes', metavar='A,B,...', help='labels in the order of the classes 0 to K-1, or names for the labels 0 to '
                         'K-1 (default: natural order)')
    columns.add_argument('--keep', nargs='+', default=[], metavar='COLUMN', help='further columns to write, such as age and sex')
    columns.add_argument('--join', nargs='+', default=[], metavar='FILE', help='csvs with more columns for the same images, or with the '
                         'images of one patient in each row')
    columns.add_argument('--skip_missing', action='store_true', help='leave out rows without an image file')
    split = add_split_flags(parser, '--images')
    split.add_argument('--split_column', metavar='COLUMN', help='column with train, val or test; a split without rows is drawn from train')
    split.add_argument('--test_table', metavar='FILE', help='csv with the test images')
    split.add_argument('--test_images', nargs='+', metavar='FOLDER', help='folders with the images of --test_table (default: --images)')
    split.add_argument('--one_per_group', action='store_true', help='keep one image per patient or lesion in validation and test')
    add_private_flag(add_output_flags(parser, 'name of a recognised data set, or of TABLE'))
    return parser


def set_name_of(source: LabelTable) -> str:
    """-> name for the csvs: that of a known table, or what the file name says besides 'train', 'labels' and the like"""
    words = [word for word in re.split(r'[\W_]+', os.path.splitext(os.path.basename(source.path))[0]) if word]
    telling = '_'.join(word for word in words if word.lower() not in NOT_A_NAME)
    return source.known.name if source.known else telling or os.path.basename(os.path.dirname(os.path.abspath(source.path))) or 'own'


def main(argv=None):
    parser = get_parser()
    args = parser.parse_args(argv)
    check_split_flags(args)
    warn_without_effect(parser, argv, args, WITHOUT_EFFECT)
    check_kept_columns(args.keep)
    test_folders = (args.test_images or args.images) if args.test_table else []
    root = common_folder([*args.images, *test_folders])
    images = ImageIndex(args.images, root)
    wanted = {'image': [args.image_column] if args.image_column else [], 'label': args.label_column,
              'group': [args.group_column] if args.group_column else []}
    source = read_label_table(args.table, images, wanted, joined=args.join)
    if source.known:
        print(f'* Recognised {source.known.title} by its columns')
    numbering = number_classes(source, class_texts(source), args.classes.split(',') if args.classes else [])
    tables = [labelled_images(source, images, args, numbering=numbering, fixed='train' if args.test_table else '')]
    describe(source, tables[0])
    if args.test_table:
        test_images = ImageIndex(test_folders, root)
        test = read_label_table(args.test_table, test_images, wanted, joined=args.join, is_test=True)
        tables.append(labelled_images(test, test_images, args, numbering=numbering, fixed='test'))
        describe(test, tables[1])
    if source.known and source.known.hint and 'patient_id' not in tables[0]:
        print(f'* Note: {source.known.hint}')
    table = leave_out_copies(pd.concat(tables, ignore_index=True), root, args.copies)
    draw_parts(table, args, 'the given splits')
    if args.one_per_group:
        table = keep_one_per_patient(table)
    numbers, set_name = {name: c for c, name in enumerate(numbering[1])}, args.name or set_name_of(source)
    refuse_unfit_parts(table, numbers, args.out, set_name)
    keep_private(args.private, beside=args.out)
    csv = write_parts(table, args.out, set_name)
    print_classes(table, numbers)
    if 'test' in csv:
        say_next('check the data, train, test and write a report', 'bash', 'run_lt_experiments.sh', 'own', '--csv_train', csv['train'],
                 '--data_path', root, *private_flag(args))
    else:
        say_next('check the csvs and images', 'python', '-m', 'tools.check_data', *csv.values(), '--data_path', root)


if __name__ == '__main__':
    run_script(main)
