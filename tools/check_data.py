"""Check csvs and images before training: labels, files, decoding of every image, duplicates, overlap between splits.

The exit status is 1 if there are problems.

Example, with the demo set (created by python -m tools.prepare_demo_data):

  python -m tools.check_data data/demo/train_demo.csv data/demo/val_demo.csv data/demo/test_demo.csv --data_path data/demo/images
"""
from utils.cli import tune_process

tune_process()  # before torch is imported

import os
import sys
from collections import defaultdict

import numpy as np

from utils.cli import label_flag, say_next, script_parser, sibling_csv, to_train
from utils.common import InputError, check_writable, counted, preview, run_script, write_text
from utils.data.check_data import check_data, find_name_conflicts, find_outside_rows, find_shared, patient_notes
from utils.data.label_column import HELP as LABEL_HELP
from utils.data.label_column import describe_label_column
from utils.data.permissions import add_private_flag, keep_private
from utils.data.read_csv import csv_text, read_csv

SIMILARITY = .75  # see docs/reliability.md for how it was chosen


def file_problems(data, scans):
    bad = [f'{path} (row {row}): {scans[path].problem}' for path, row in zip(data.paths, data.rows, strict=True)
           if path in scans and scans[path].problem]
    notes = defaultdict(list)
    for path, row in zip(data.paths, data.rows, strict=True):
        if path in scans and scans[path].note:
            notes[scans[path].note].append(f'{path} (row {row})')
    return ([f"{counted(len(bad), 'image')} cannot be read (--skip_bad_images skips them): {preview(bad)}"] if bad else [],
            [f"{counted(len(files), 'image')}: {note}: {preview(files)}" for note, files in notes.items()])


def shared_lines(sets):
    """Describe images and patients that two csvs share, and classes that they name differently."""
    for i, a in enumerate(sets):
        for b in sets[i + 1:]:
            for line in find_name_conflicts(a, b):
                yield f'{a.csv_path} and {b.csv_path}: {line}'
            for what, both in find_shared(a, b).items():
                if both:
                    yield f'{counted(len(both), what, "appear")} in both {a.csv_path} and {b.csv_path}: {preview(both)}'


def report(title, problems, notes):
    print('\n'.join([title, *(f'  problem: {line}' for line in problems), *(f'  note: {line}' for line in notes)]))


def get_parser():
    parser = script_parser(__doc__)
    data = parser.add_argument_group('data')
    data.add_argument('csv', nargs='+', help='csvs of one data set, in the order training, validation, test')
    data.add_argument('--data_path', default='data/images', metavar='FOLDER', help='folder of the images')
    data.add_argument('--label_column', metavar='COLUMN', help=LABEL_HELP)
    data.add_argument('--n_classes', type=int, metavar='K', help='number of classes (default: the largest label of all csvs + 1)')
    data.add_argument('--allow_outside_data_path', action='store_true', help='allow csvs to name images outside of --data_path')
    search = parser.add_argument_group('checks and output')
    search.add_argument('--similarity', type=float, default=SIMILARITY, metavar='S',
                        help='correlation (0.5 to 1) from which two pictures count as the same; 1: identical files only')
    search.add_argument('--out', metavar='FILE', help='csv to write all pairs of duplicates to')
    add_private_flag(search)
    search.add_argument('--num_workers', type=int, default=os.cpu_count(), metavar='N', help='processes that decode images')
    return parser


def next_step(sets, args, n_classes):
    """Return what to do next with csvs that have no problems, and its command."""
    csvs = [data.csv_path for data in sets if data.has_labels and len(data)]
    if not csvs:
        return 'predict these images', 'python', '-m', 'tools.predict', '--help'
    train, val = (csvs + [sibling_csv(csvs[0], 'val')])[:2]
    if train == val or not os.path.isfile(val):
        return ('look at the images', 'python', '-m', 'tools.contact_sheet', train, '--data_path', args.data_path,
                *label_flag(args.label_column))
    return 'train', *to_train(train, val, args.data_path, n_classes, '--model_name', 'tf_efficientnet_lite0', '--im_size', 224,
                              '--recipe', 'finetune', '--save_path', 'my/finetune', *label_flag(args.label_column),
                              *(['--allow_outside_data_path'] if args.allow_outside_data_path else []))


def main(argv=None):
    args = get_parser().parse_args(argv)
    if not .5 <= args.similarity <= 1:
        raise InputError(f'--similarity must be between 0.5 and 1, not {args.similarity:g}')
    if args.n_classes is not None and args.n_classes < 1:
        raise InputError(f'--n_classes must be positive, not {args.n_classes}')
    if args.out:
        keep_private(args.private, beside=os.path.dirname(args.out))
        check_writable(os.path.dirname(args.out))
    for path in args.csv:
        read_csv(path)  # reports a csv that cannot be read before the imports below, because torch takes seconds
    from utils.data.dataset import ClassDataset
    from utils.data.near_duplicates import describe_pairs, find_pairs, scan_images

    sets: list = []
    for path in dict.fromkeys(args.csv):
        label_column = args.label_column or next((data.label_column for data in sets), None)  # of the training csv
        sets.append(ClassDataset(path, args.data_path, allow_outside=args.allow_outside_data_path, label_column=label_column))
    n_classes = args.n_classes or 1 + max((int(data.labels.max()) for data in sets if len(data)), default=0)
    outside = {data.paths[i] for data in sets for i in find_outside_rows(data)}  # must not be opened
    paths = list(dict.fromkeys(path for data in sets for path in data.paths if path is not None and path not in outside))
    scans, owners, n_problems = dict(zip(paths, scan_images(paths, args.num_workers), strict=True)), defaultdict(dict), 0
    for data in sets:
        problems, notes = file_problems(data, scans)
        problems = [problem.text for problem in check_data({'csv': data}, n_classes)] + problems
        print(describe_label_column(data.csv_path, data.label_column))
        counts = np.bincount(data.labels[data.labels >= 0], minlength=n_classes) if data.has_labels else []
        no_classes = ', no valid labels' if data.has_labels else ', no labels'
        classes = f" ({' / '.join(map(str, counts))} per class)" if len(counts) else no_classes
        report(f"{data.csv_path}: {counted(len(data), 'image')}{classes}", problems, notes)
        n_problems += len(problems)
        for path, label in zip(data.paths, data.labels, strict=True):
            owners[path][data.csv_path] = int(label)
    pairs = find_pairs(scans, args.similarity)
    wrong, notes = describe_pairs(pairs, owners)
    wrong += shared_lines(sets)
    report(f"all csvs together: {counted(len(scans), 'image file')}", wrong, [*notes, *patient_notes(sets)])
    if args.out:
        write_text(args.out, csv_text(pairs))
        print(f"* Wrote {counted(len(pairs), 'pair')} of duplicates to {args.out}")
    n_problems += len(wrong)
    print(f"* Found {counted(n_problems, 'problem')}: correct the csvs or images, then check again" if n_problems else
          '* Found no problems')
    if len(pairs) and n_problems:
        print('* Duplicates can be left out: ' + (f'prepare the csvs again with --copies {args.out}' if args.out else
              'write them with --out PAIRS.csv, and prepare the csvs again with --copies PAIRS.csv'))
    if not n_problems:
        say_next(*next_step(sets, args, n_classes))
    sys.exit(n_problems > 0)


if __name__ == '__main__':
    run_script(main, 'close other programs that use it, or search for identical files only: --similarity 1')
