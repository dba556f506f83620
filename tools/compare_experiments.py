"""One table of tested runs, from the per-image csvs that the test scripts write."""
import argparse
import glob
import math
import os

import numpy as np
import pandas as pd

from utils.common import InputError, run_script
from utils.evaluation import evaluate_multi_cls, recall_per_class

SCORES = ('bacc', 'mcc', 'kappa', 'f1', 'auc')


def scores_of(csv):
    """{'BACC': ., ..., 'R <class>': recall} in percent of one per-image csv with labels."""
    table = pd.read_csv(csv)
    columns = [name for name in table.columns if name.startswith('p_')]
    if not columns or not {'label', 'pred'} <= set(table.columns):
        raise InputError(f'{csv} is no csv of labelled predictions: it needs label, pred and p_<class> columns')
    metrics = evaluate_multi_cls(table.label.to_numpy(), table.pred.to_numpy(), table[columns].to_numpy())
    recalls = recall_per_class(table.label, table.pred, len(columns))
    row = {name.upper(): 100 * getattr(metrics, name) for name in SCORES}
    if len(columns) <= 10:
        row |= {f'R {name[2:]}': 100 * recall for name, recall in zip(columns, recalls, strict=True)}
    return {'images': len(table)} | row


def compare(folder, file_name):
    """Rows of `folder`/<method>/[seed*/]`file_name`: runs that differ only in a folder seed* are one method.
    -> DataFrame: method, runs, images of a run, and each score as mean or mean +- standard deviation."""
    methods = {}
    for csv in sorted(glob.glob(os.path.join(glob.escape(folder), '**', file_name), recursive=True), key=os.path.getmtime):
        parts = os.path.relpath(os.path.dirname(csv), folder).split(os.sep)
        methods.setdefault('/'.join(part for part in parts if not part.startswith('seed')), []).append(scores_of(csv))
    if not methods:
        raise InputError(f'no {file_name} below {folder}: test some runs first')
    rows = []
    for method, scores in methods.items():
        row = {'method': method, 'runs': len(scores), 'images': '/'.join(sorted({str(score.pop('images')) for score in scores}))}
        for name in scores[0]:
            values = [score.get(name, math.nan) for score in scores]
            row[name] = f'{np.mean(values):.1f}' + (f' ± {np.std(values, ddof=1):.1f}' if len(values) > 1 else '')
        rows.append(row)
    return pd.DataFrame(rows).fillna('')


def to_markdown(table):
    rows = [list(table.columns), *table.astype(str).to_numpy().tolist()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ['| ' + ' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + ' |' for row in rows]
    return '\n'.join([lines[0], '|' + '|'.join('-' * (width + 2) for width in widths) + '|', *lines[1:]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('folder', help='folder of results, e.g. results/demo')
    parser.add_argument('--file', help='name of the per-image csvs (default: results_test.csv, or results_val.csv where there is none)')
    args = parser.parse_args()
    tested = glob.glob(os.path.join(glob.escape(args.folder), '**', 'results_test.csv'), recursive=True)
    table = compare(args.folder, args.file or ('results_test.csv' if tested else 'results_val.csv'))
    print(to_markdown(table))
    if table.images.nunique() > 1:
        print('Note: the numbers of images differ: not all runs were tested on the same csv.')
    print('In percent. R: recall of a class; ±: standard deviation over runs that differ only in a folder seed*.')


if __name__ == '__main__':
    run_script(main)
