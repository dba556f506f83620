"""Print the tables of a study.

Reads METHOD/seed*/results_test.csv in the folder, and writes study.csv there with a row for each method and seed. Prints Markdown tables:
the mean and standard deviation over seeds, the mean rank over seeds and scores, and the difference from the baseline. The 95 % interval
of this difference covers other test images and other seeds.

Example (after benchmarks.study with data in data/isic8):

  python -m benchmarks.study_report results/study --train_csv data/isic8/train_isic8_lt.csv
"""
from utils.cli import tune_process

tune_process()  # before torch is imported

import glob
import os
import sys

import numpy as np
import pandas as pd

from utils.cli import say_next, script_parser
from utils.common import InputError, run_script, write_text
from utils.data.label_column import describe_label_column
from utils.get_loaders import ClassDataset
from utils.prediction.predictions import read_labelled
from utils.statistics.bootstrap import bootstrap_figures
from utils.statistics.folds import mean_over_seeds
from utils.statistics.tables import to_markdown

from .study import BASELINE, METHODS, slug_of

FIGURES = {'bacc': 'balanced accuracy', 'mcc': 'MCC', 'f1': 'macro-F1', 'auc': 'macro-AUC', 'nll': 'NLL'}
SMALLER_IS_BETTER = ('nll',)
GROUPS = ('many', 'medium', 'few')


def read_study(folder, class_count, draws=1000):
    """-> {method: {seed: BootstrapResult}} in the order of METHODS, for the seeds that the baseline has"""
    found = {}
    for method in METHODS:
        for csv in sorted(glob.glob(os.path.join(glob.escape(folder), slug_of(method), 'seed*', 'results_test.csv'))):
            seed = int(os.path.basename(os.path.dirname(csv)).removeprefix('seed'))
            figures = bootstrap_figures([read_labelled(csv)], draws, class_count=class_count)[0]  # the same resamples for every file
            found.setdefault(method, {})[seed] = figures
    if BASELINE not in found:
        raise InputError(f'{folder} has no tested run of {BASELINE}: run benchmarks.study first')
    common = {method: {seed: f for seed, f in runs.items() if seed in found[BASELINE]} for method, runs in found.items()}
    return {method: runs for method, runs in common.items() if runs}


def value_of(figures, name):
    key = ('groups', name, 'recall') if name in GROUPS else ('metrics', name)
    return figures.values.get(key, np.nan)


def table_of(study):
    """-> DataFrame with a row for each method and seed; scores are fractions"""
    return pd.DataFrame([{'method': method, 'seed': seed} | {name: value_of(figures, name) for name in (*FIGURES, *GROUPS)}
                         for method, runs in study.items() for seed, figures in runs.items()])


def mean_ranks(table):
    """-> {method: mean rank} over FIGURES and the seeds that all methods have; 1 is the best"""
    complete = table.groupby('seed').filter(lambda rows: len(rows) == table.method.nunique())
    ranks = [complete.groupby('seed')[name].rank(ascending=name in SMALLER_IS_BETTER) for name in FIGURES]
    return pd.concat(ranks, axis=1).mean(axis=1).groupby(complete.method).mean()


def difference(runs, baseline, name):
    """-> (difference of the means over seeds, `runs` minus `baseline`; low; high), as in `mean_over_seeds`"""
    cell = mean_over_seeds([[list(runs.values())], [list(baseline.values())]], (1, -1)).cell(('metrics', name))
    return cell['value'], cell['low'], cell['high']


def markdown(study):
    table = table_of(study)
    ranks = mean_ranks(table)
    rows = [['method', 'seeds', 'mean rank', *FIGURES.values(), *(f'recall, {name}' for name in GROUPS)]]
    for method in sorted(study, key=lambda m: ranks.get(m, np.inf)):
        own, cells = table[table.method == method], []
        for name in (*FIGURES, *GROUPS):
            scale, digits = (1, 2) if name == 'nll' else (100, 1)
            spread = f' ± {scale * own[name].std():.{digits}f}' if len(own) > 1 else ''
            cells.append(f'{scale * own[name].mean():.{digits}f}{spread}' if own[name].notna().any() else '-')  # no class in this group
        rows.append([method, str(len(own)), f'{ranks[method]:.1f}' if method in ranks else '-', *cells])
    names = ('bacc', 'mcc', 'nll')
    differences = [['method', *(f'{FIGURES[name]} [95 %]' for name in names)]]
    for method in sorted((m for m in study if m != BASELINE), key=lambda m: -difference(study[m], study[BASELINE], 'bacc')[0]):
        cells = []
        for name in names:
            scale, digits = (1, 2) if name == 'nll' else (100, 1)
            value, low, high = (scale * v for v in difference(study[method], study[BASELINE], name))
            cells.append(f'{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]')
        differences.append([method, *cells])
    return f'{to_markdown(rows)}\n\nDifference from {BASELINE}:\n\n{to_markdown(differences)}\n'


def get_parser():
    parser = script_parser(__doc__)
    parser.add_argument('folder', help='results folder of the study, such as results/study')
    parser.add_argument('--train_csv', required=True, metavar='CSV', help='training csv, for the groups many, medium and few')
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    train = ClassDataset(args.train_csv)
    print(describe_label_column(args.train_csv, train.label_column), file=sys.stderr)
    count = np.bincount(train.labels)
    study = read_study(args.folder, count)
    write_text(os.path.join(args.folder, 'study.csv'), table_of(study).round(5).to_csv(index=False))
    print(markdown(study))
    say_next('see all runs on one page', 'python', '-m', 'tools.report', args.folder, file=sys.stderr)  # stdout has only the tables


if __name__ == '__main__':
    run_script(main)
