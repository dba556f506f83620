"""Scores with 95 % intervals from the per-image csvs that the test scripts write; no network, no image needed.

One file: its scores. Several without a common image: folds, pooled, with their spread. Several of the same images: repeats,
their mean and spread; of two files of the same images, the paired difference.

  python -m tools.evaluate_predictions results/demo/BSCE/seed0/results_test.csv --run experiments/demo/BSCE/seed0
  python -m tools.evaluate_predictions results/endo/F*/BSCE/mobilenetV2/results_val.csv --json endo.json
  python -m tools.evaluate_predictions results/demo/instance/seed0/results_test.csv results/demo/BSCE/seed0/results_test.csv
"""
import argparse
import json
import os

import numpy as np
import pandas as pd

from utils.common import InputError, run_script, write_text
from utils.evaluation_text import report_text
from utils.pooling import evaluate_files
from utils.prediction_table import read_labelled
from utils.statistics import LEVEL, REFERABLE, are_grades


def get_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('csvs', nargs='+', metavar='PRED.csv', help='columns image_id, label, pred, p_<class>..., optionally patient_id')
    parser.add_argument('--json', metavar='FILE', help='write everything there: values are fractions, undefined is null')
    parser.add_argument('--ordered', action=argparse.BooleanOptionalAction,
                        help='the classes are grades: kappa, and --referable (default: when they are called DR0, DR1, ... or grade 0, ...)')
    counts = parser.add_mutually_exclusive_group()
    counts.add_argument('--train_csv', help='training csv, for the scores of the many/medium/few and head/medium/tail classes')
    counts.add_argument('--run', help='run folder below experiments/, instead of --train_csv')
    parser.add_argument('--at', nargs='*', type=float, default=[LEVEL], metavar='LEVEL',
                        help='operating points: specificities to give the sensitivity at, and the reverse (default: %(default)s)')
    parser.add_argument('--referable', type=int, metavar='K', help=f'operating points of grade >= K, too (default: {REFERABLE}; 0: none)')
    parser.add_argument('--draws', type=int, default=1000, help='bootstrap draws (default: 1000)')
    parser.add_argument('--seed', type=int, default=0, help='of the draws (default: 0)')
    return parser


def training_counts(args, k):
    """Training images of each class, list of length k, or None when no flag names them."""
    if args.run:
        file = os.path.join(args.run, 'config.cfg')
        if not os.path.isfile(file):
            raise InputError(f'--run {args.run} is no run folder: it has no config.cfg')
        with open(file, encoding='utf-8') as f:
            counts = json.load(f)['class_count']
        if len(counts) != k:
            raise InputError(f'--run {args.run} has {len(counts)} classes, the predictions have {k}')
        return counts
    if args.train_csv:
        if not os.path.isfile(args.train_csv):
            raise InputError(f'--train_csv: no such csv: {args.train_csv}')
        labels = pd.to_numeric(pd.read_csv(args.train_csv).iloc[:, -1], errors='coerce')
        if not labels.isin(range(k)).all():
            raise InputError(f'--train_csv {args.train_csv}: the last column must be the class, 0..{k - 1} as in the predictions')
        return np.bincount(labels.astype(int), minlength=k).tolist()
    return None


def main(argv=None):
    args = get_parser().parse_args(argv)
    if args.draws < 100 or args.seed < 0 or not all(0 < level < 1 for level in args.at):
        raise InputError('--draws must be 100 or more, --seed 0 or more, each --at between 0 and 1')
    tables = [read_labelled(csv) for csv in args.csvs]
    class_names = tables[0].class_names
    ordered = are_grades(class_names) if args.ordered is None else args.ordered
    referable = min(REFERABLE, len(class_names) - 1) if args.referable is None else args.referable
    if ordered and not 0 <= referable < len(class_names):
        raise InputError(f'--referable {referable} is no grade of 1..{len(class_names) - 1}')
    result = evaluate_files(tables, args.draws, args.seed, ordered=ordered, class_count=training_counts(args, len(class_names)),
                            levels=args.at, referable=referable)
    for table in tables:
        print(f'{table.path}: {len(table.labels)} images, {len(class_names)} classes'
              + (f', {len(set(table.patient_ids))} patients' if table.patient_ids else ''))
    print(report_text(result, len(tables), args.draws))
    if args.json:
        settings = {'files': args.csvs, 'n_images': len({i for table in tables for i in table.image_ids}), 'class_names': class_names,
                    'ordered': ordered, 'draws': args.draws, 'seed': args.seed}
        write_text(args.json, json.dumps(settings | result, indent=1, ensure_ascii=False) + '\n')
        print(f'* Wrote {args.json}')


if __name__ == '__main__':
    run_script(main)
