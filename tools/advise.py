"""Describe a data set and plan its training: network, image size, batch size, metric and methods, with reasons. Trains nothing.

Example, with the demo set (created by python -m tools.prepare_demo_data):

  python -m tools.advise data/demo/train_demo.csv data/demo/val_demo.csv data/demo/test_demo.csv --data_path data/demo/images
"""
import json
import os

from utils.cli import label_flag, say_next, script_parser, sibling_csv
from utils.common import InputError, counted, run_script, write_text
from utils.data.label_column import HELP as LABEL_HELP
from utils.data.permissions import add_private_flag, keep_private

SPLITS = ('train', 'val', 'test')


def get_parser():
    parser = script_parser(__doc__)
    data = parser.add_argument_group('data')
    data.add_argument('csv', nargs='+', help='csvs in the order training, validation, test (default: those beside the training csv)')
    data.add_argument('--data_path', default='data/images', metavar='FOLDER', help='folder of the images')
    data.add_argument('--label_column', metavar='COLUMN', help=LABEL_HELP)
    data.add_argument('--init', default='imagenet', metavar='imagenet|none|PATH', help='initial weights, as in training')
    output = parser.add_argument_group('output')
    output.add_argument('--json', metavar='FILE', help='also write the fingerprint and the plan as JSON')
    add_private_flag(output)
    return parser


def describe(found):
    """Print the fingerprint `found`."""
    names = found['classes']
    for split, of in found['splits'].items():
        patients = f", {of['patients']:,} patients" if of['patients'] is not None else ''
        print(f"* {of['csv']}: {of['images']:,} {split} images{patients}")
    print(f"* {len(names)} classes, imbalance {found['imbalance']:.0f} (most frequent to rarest training class)")
    width = max(map(len, names))
    for c, name in enumerate(names):
        counts = ', '.join(f"{split} {of['class_count'][c]:,} ({100 * of['share'][c]:.1f} %)" for split, of in found['splits'].items())
        print(f'    {name:<{width}}  {counts}')
    sides = found['sides']
    shorter, longer = (', '.join(map(str, sides[name])) for name in ('shorter', 'longer'))
    print(f"* Image sides in pixels (smallest, median, largest of {sides['read']} images): shorter {shorter}; longer {longer}")
    if found['copies']:
        print(f"* Warning: {counted(found['copies'], 'file', 'equal')} another file (tools.check_data finds them)")
    for pair, both in found['shared'].items():
        for what, n in both.items():
            if n:
                print(f'* Warning: {pair} share {n} {what}{"s" * (n > 1)}')


def print_plan(plan, methods):
    """Print the plan with its reasons. `methods`: {name: Method}."""
    print('* Plan:')
    for name, reason in plan.reasons.items():
        value = getattr(plan, name)
        print(f"    --{name.replace('methods', 'recipes')} {' '.join(value) if isinstance(value, list) else value}: {reason}")
    for name in plan.methods:
        print(f'      {name}: {methods[name].what}')


def main(argv=None):
    args = get_parser().parse_args(argv)
    if len(args.csv) > 3:
        raise InputError(f'give at most three csvs (training, validation, test), not {len(args.csv)}')
    csvs = [*args.csv, *(sibling_csv(args.csv[0], split) for split in SPLITS[len(args.csv):])]
    import torch  # these imports take seconds

    from utils.data.fingerprint import fingerprint, read_sets
    from utils.training.advice import METHODS, make_plan

    given = {split: csv for split, csv in zip(SPLITS, csvs, strict=True) if split == 'train' or (os.path.isfile(csv) and csv != csvs[0])}
    if 'val' not in given:
        raise InputError(f'no such csv: {csvs[1]}: give the validation csv after the training csv')
    found = fingerprint(read_sets(given, args.data_path, args.label_column))
    plan = make_plan(found, torch.cuda.is_available(), args.init)
    describe(found)
    print_plan(plan, METHODS)
    if args.json:
        keep_private(args.private, beside=os.path.dirname(args.json))
        write_text(args.json, json.dumps(found | {'plan': plan._asdict()}, indent=2) + '\n')
        print(f'* Wrote {args.json}')
    say_next('carry the plan out', 'bash', 'run_lt_experiments.sh', 'own',
             *(word for split, csv in given.items() for word in (f'--csv_{split}', csv)), '--data_path', args.data_path,
             *label_flag(args.label_column), *(['--init', args.init] if args.init != 'imagenet' else []))


if __name__ == '__main__':
    run_script(main)
