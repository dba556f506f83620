r"""Average the probabilities of several networks for the same images, from the predictions csvs that the test scripts write.

The networks may differ in seed, fold or method. The result is a predictions csv, which the other tools read like that of one network.

Example, after the demonstration (bash run_lt_experiments.sh):

  python -m tools.ensemble_predictions results/demo/BSCE/seed0/results_test.csv results/demo/2stage_BSCE/seed0/results_test.csv \
      --out results/demo/ensemble/results_test.csv
"""
from utils.cli import tune_process

tune_process()  # before the other imports

import os

from utils.cli import say_next, script_parser
from utils.common import InputError, counted, run_script
from utils.data.permissions import add_private_flag, keep_private
from utils.prediction.predictions import read_predictions, write_predictions
from utils.statistics.folds import ensemble


def get_parser():
    parser = script_parser(__doc__)
    parser.add_argument('csvs', nargs='+', metavar='PRED.csv', help='predictions csvs of the same images, two or more')
    parser.add_argument('--out', required=True, metavar='FILE', help='csv to write')
    parser.add_argument('--overwrite', action='store_true', help='replace FILE if it exists')
    add_private_flag(parser)
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    if len(args.csvs) < 2:
        raise InputError('an ensemble needs the predictions csvs of at least two networks')
    if os.path.exists(args.out) and not args.overwrite:
        raise InputError(f'--out {args.out} exists: use --overwrite to replace it')
    table = ensemble([read_predictions(csv) for csv in args.csvs])
    keep_private(args.private, beside=os.path.dirname(args.out))
    os.makedirs(os.path.dirname(args.out) or '.', exist_ok=True)
    write_predictions(args.out, table, table.class_names, table.patient_ids, further=table.further)
    print(f"* Wrote {args.out}: {counted(len(table.preds), 'image')}, the mean of {len(args.csvs)} networks")
    if table.labels is None:
        say_next('look at the result', 'head', args.out)
    else:
        say_next('compute scores with intervals', 'python', '-m', 'tools.evaluate_predictions', args.out)


if __name__ == '__main__':
    run_script(main)
