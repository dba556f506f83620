"""Several networks as one: the mean of their probabilities for the same images, from the per-image csvs that the test scripts write.

  python -m tools.ensemble_predictions results/demo/BSCE/seed{0,1,2}/results_test.csv --out results/demo/ensemble/results_test.csv

The networks may be of other seeds, folds or methods; the csv that is written is one like theirs, for all tools that read these.
"""
import argparse
import os
import shlex

from utils.common import InputError, run_script
from utils.pooling import ensemble
from utils.prediction_table import read_predictions, write_predictions


def get_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('csvs', nargs='+', metavar='PRED.csv', help='per-image predictions of the same images, two or more')
    parser.add_argument('--out', required=True, metavar='FILE', help='csv to write')
    parser.add_argument('--overwrite', action='store_true', help='replace FILE if there is one')
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    if len(args.csvs) < 2:
        raise InputError('an ensemble needs the predictions of two networks or more')
    if os.path.exists(args.out) and not args.overwrite:
        raise InputError(f'--out {args.out} exists: --overwrite replaces it')
    table = ensemble([read_predictions(csv) for csv in args.csvs])
    os.makedirs(os.path.dirname(args.out) or '.', exist_ok=True)
    write_predictions(args.out, table, table.class_names, table.patient_ids)
    print(f'* Wrote {args.out}: {len(table.preds):,} images, the mean of {len(args.csvs)} networks')
    if table.labels is not None:
        print(f"* Next: {shlex.join(['python', '-m', 'tools.evaluate_predictions', args.out])}")


if __name__ == '__main__':
    run_script(main)
