"""Flags of the test scripts and their checks."""
import argparse
import os
from collections.abc import Mapping

from utils.cli import parse_im_size, script_parser
from utils.common import InputError
from utils.data.permissions import add_private_flag
from utils.prediction.accelerator import add_device_flag
from utils.prediction.per_group import HELP as PER_HELP
from utils.prediction.tta import add_view_flags, check_view_flags
from utils.testing.decisions import add_decision_flag
from utils.testing.tuning import add_flags, chooses, given_correction

SPLITS = {'val': 'validation', 'test': 'test'}  # name in flags and files -> in text
# Flags without effect in combination with others: see `warn_without_effect`.
WITHOUT_EFFECT = (
    ('csv_tune', 'without --calibrate (or --tau_norm or --logit_adjust without a number)', lambda a: not chooses(a)),
    *((f'csv_out_{split}', f'without --csv_{split}', lambda a, csv=f'csv_{split}': getattr(a, csv) is None) for split in SPLITS),
)


def get_parser(description: str, splits: Mapping[str, str | None], dihedral_tta: int) -> argparse.ArgumentParser:
    """Parser of a test script. `splits`: val or test -> default csv (None: not tested by default)."""
    parser = script_parser(description)
    parser.add_argument('--load_path', required=True, metavar='RUN',
                        help='run folder (tests its best epoch), checkpoint folder or checkpoint file')
    data = parser.add_argument_group('data')
    for split, csv in splits.items():
        data.add_argument(f'--csv_{split}', default=csv, metavar='CSV',
                          help=f'{SPLITS[split]} csv; without labels, only predictions are written')
    data.add_argument('--label_column', metavar='COLUMN',
                      help='column with the class (default: as in training); none: write predictions only')
    data.add_argument('--data_path', metavar='FOLDER', help='image folder (default: as in training)')
    data.add_argument('--num_workers', type=int, default=8, metavar='N',
                      help='number of processes or threads that decode images, at most one per CPU core')
    data.add_argument('--cache_dir', metavar='FOLDER',
                      help='folder for a cache of decoded images; saves time if you test several runs')
    data.add_argument('--skip_bad_images', action='store_true',
                      help='skip images that cannot be read, and list them in skipped_<split>.csv')
    data.add_argument('--allow_outside_data_path', action='store_true', help='allow images outside of --data_path in the csvs')
    method = parser.add_argument_group('method')
    add_view_flags(method, dihedral_tta)
    method.add_argument('--batch_size', type=int, default=8, metavar='N', help='batch size; evaluation uses four times this number')
    add_device_flag(method)
    add_flags(parser)
    add_decision_flag(method)
    output = parser.add_argument_group('output')
    output.add_argument('--results_path', default='results/', metavar='FOLDER',
                        help='parent folder of the results, with a subfolder for each run')
    for split in splits:
        output.add_argument(f'--csv_out_{split}', default=f'results_{split}.csv', metavar='NAME',
                            help=f'file name of the predictions for the {SPLITS[split]} csv')
    output.add_argument('--per', metavar='COLUMN[:worst]', help=PER_HELP)
    output.add_argument('--keep', nargs='*', metavar='COLUMN', help='columns of the csv to write beside the predictions, such as age and '
                        'sex (default: all further ones; with --salt: none)')
    output.add_argument('--salt', metavar='TEXT', help='secret text; image and patient ids are replaced by hashes of this text and the id')
    add_private_flag(output)
    checks = parser.add_argument_group('stored in the checkpoint', 'not needed; a value that differs from the checkpoint is an error')
    checks.add_argument('--model_name', metavar='NAME',
                        help='network; only needed for your own network, path/to/file.py:function (the file is executed)')
    checks.add_argument('--n_classes', type=int, metavar='K', help='number of classes')
    checks.add_argument('--im_size', type=parse_im_size, metavar='PIXELS', help='image size: height,width or one number for both')
    return parser


def check_flags(args: argparse.Namespace, info: dict) -> None:
    """Raise `InputError` for flags that contradict each other or the checkpoint. `info`: facts of the checkpoint."""
    own = {'n_classes': len(info['class_names']), 'im_size': tuple(info['im_size'])}
    for name, value in own.items():
        given = getattr(args, name)
        if given is not None and given != value:
            raise InputError(f'--{name} {given} contradicts the checkpoint, which has {value}: leave the flag out')
    outputs = [value for name, value in vars(args).items() if name.startswith('csv_out_')]
    if len(set(outputs)) < len(outputs) or any(os.path.basename(name) != name or not name.endswith('.csv') for name in outputs):
        raise InputError(f"--csv_out_*: file names must differ, end in .csv and name no folder, not {', '.join(outputs)}")
    if args.salt == '':
        raise InputError('--salt must not be empty: otherwise anyone can compute the hashes of the ids')
    check_view_flags(args)
    given_correction(args)
    if args.batch_size < 1 or args.num_workers < 0:
        raise InputError('--num_workers must not be negative, --batch_size must be positive')
