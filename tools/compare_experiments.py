"""Compare methods over folds and seeds in one table, from the predictions csvs that the test scripts write.

Runs whose paths differ only in a folder seed* (repeats) or F1, fold1, ... (folds) count as one method.

Examples, after the demonstration (bash run_lt_experiments.sh):

  python -m tools.compare_experiments results/demo --baseline instance
  python -m tools.compare_experiments results/demo --format latex --metrics bacc mcc --decimals 1 > table.tex
"""
from utils.cli import tune_process

tune_process()  # before the other imports

import argparse
import glob
import os
import sys

import pandas as pd

from utils.cli import say_next, script_parser, warn_without_effect
from utils.common import InputError, printable, run_script
from utils.data.read_csv import csv_text
from utils.prediction.predictions import read_labelled
from utils.statistics.bootstrap import INTERVALS, STRATIFIED
from utils.statistics.comparison import (
    SHOWN,
    columns_of,
    difference,
    find_csvs,
    load_methods,
    mean_ranks,
    settings_notes,
    summary,
    tidy_rows,
)
from utils.statistics.folds import pool
from utils.statistics.settings import are_ordered
from utils.statistics.subgroups import HELP as BY_HELP
from utils.statistics.subgroups import parse_by, recall_rows, subgroup_notes, subgroup_rows, subgroups
from utils.statistics.tables import TABLES, to_latex
from utils.statistics.text import NOT_PERCENT, kinds_of, number, show
from utils.statistics.weighted_metrics import METRIC_NAMES

ERRORS = ('nll', 'brier', 'ece', 'classwise_ece')  # smaller is better
WITHOUT_EFFECT = (
    *((flag, 'without --format latex', lambda a: a.format != 'latex') for flag in ('metrics', 'decimals', 'spread')),
    ('by', 'with --format csv', lambda a: a.format == 'csv'),
)


def get_parser():
    parser = script_parser(__doc__)
    runs = parser.add_argument_group('runs')
    runs.add_argument('folders', nargs='+', metavar='folder', help='folder of results, e.g. results/demo')
    runs.add_argument('--file', metavar='NAME',
                      help='name of the predictions csvs (default: results_test.csv, or results_val.csv if there is none)')
    table = parser.add_argument_group('table')
    table.add_argument('--baseline', metavar='METHOD', help='also show the difference of each method to this one, paired by image')
    table.add_argument('--format', choices=(*TABLES, 'latex', 'csv'), default='markdown',
                       help='latex: one table for a paper; csv: one row per method and score, with all scores as fractions')
    table.add_argument('--metrics', nargs='+', choices=[*METRIC_NAMES, 'recall'], metavar='NAME',
                       help=f"scores of the latex table: {', '.join(METRIC_NAMES)}, or recall of each class (default: {' '.join(SHOWN)}, "
                            'without undefined ones)')
    table.add_argument('--decimals', type=int, default=1, metavar='N', help='decimals of the latex table')
    table.add_argument('--spread', choices=('sd', 'interval'),
                       help='in the latex table: standard deviation over the runs (default if a method has several), or 95 %% interval')
    table.add_argument('--by', nargs='+', default=[], metavar='COLUMN[:LIMITS]', help=BY_HELP)
    table.add_argument('--ordered', action=argparse.BooleanOptionalAction,
                       help='treat the classes as ordered grades and show kappa (default: if they are named DR0, DR1, ... or grade 0, ..., '
                            'or if runs selected their epoch by kappa)')
    table.add_argument('--stratified', action='store_true', help=STRATIFIED)
    table.add_argument('--images_only', action='store_true',
                       help='intervals cover the sampling of test images only (default: also of seeds, for methods with two or more)')
    table.add_argument('--draws', type=int, default=1000, metavar='N', help='bootstrap resamples, 100 or more')
    table.add_argument('--seed', type=int, default=0, metavar='N', help='random seed of the bootstrap')
    return parser


def mean_and_sd(cell, digits=1, scale=100.):
    if cell is None or cell['value'] is None:
        return '-'
    return number(scale * cell['value'], digits) + ('' if cell['sd'] is None else f" ± {number(scale * cell['sd'], digits)}")


def latex_table(methods, summaries, differences, args):
    """-> text of one LaTeX table, with comments on what it shows. The best mean of each score, as printed, is bold."""
    names = args.metrics or [name for name in SHOWN if any(cells['metrics', name]['value'] is not None for cells in summaries)]
    keys = {METRIC_NAMES[name]: ('metrics', name) for name in names if name != 'recall'}
    if 'recall' in names:
        keys |= {f'recall of {key[1]}': key for key in summaries[0] if key[0] == 'classes' and key[2] == 'recall'}
    spread = args.spread or ('sd' if any(len(method.runs) > 1 for method in methods) else 'interval')
    rows, bold = [['Method', *keys]], []
    for method, cells, difference_of in zip(methods, summaries, differences, strict=True):
        rows.append([method.name])
        for key in keys.values():
            cell, digits, scale = cells[key], *((args.decimals + 2, 1) if key[1] in NOT_PERCENT else (args.decimals, 100))
            text = mean_and_sd(cell, digits, scale) if spread == 'sd' else show(cell, digits, scale)
            rows[-1].append(text + ('*' if excludes_zero(difference_of, key) and method.name != args.baseline else ''))
    for column, key in enumerate(keys.values(), start=1):
        printed = {i: float(row[column].split()[0].rstrip('*')) for i, row in enumerate(rows[1:], start=1) if row[column] != '-'}
        best = (min if key[1] in ERRORS else max)(printed.values(), default=None)
        bold += [(i, column) for i, value in printed.items() if value == best and len(methods) > 1]
    shown = 'mean and standard deviation over the runs' if spread == 'sd' else 'mean and 95 % interval'
    sizes = ' or '.join(f'{n:,}' for n in sorted({method.n_images for method in methods}))
    lines = [r'needs \usepackage{booktabs}', f'{shown}, in percent except NLL and Brier; {sizes} test images',
             f"runs of each method: {', '.join(f'{method.name} {len(method.runs)}' for method in methods)}",
             *(['bold: best mean; this alone does not show that a method is better'] if len(methods) > 1 else [])]
    if args.baseline:
        lines.append(f'*: the 95 % interval of the paired difference from {args.baseline} excludes 0')
    return '\n'.join([*(f'% {printable(line)}' for line in lines), to_latex(rows, bold)])


def print_subgroups(methods, by, args):
    """Print one table of the groups of `by` for all methods, and notes."""
    tables = {method.name: tables_by_seed(method) for method in methods}
    ordered = are_ordered([table for of_method in tables.values() for table in of_method], args.ordered)
    found = {name: subgroups(of_method, by, args.draws, args.seed, ordered=ordered, stratified=args.stratified)
             for name, of_method in tables.items()}
    write, comment = (to_latex, '% ') if args.format == 'latex' else (TABLES[args.format], '')
    for rows_of, what in ((subgroup_rows, 'mean [95 % interval]; last column: difference in balanced accuracy, unpaired, over the classes '
                                          'that both groups have'), (recall_rows, 'recall [95 % interval] of the number of images')):
        rows: list = []
        for name, groups in found.items():
            header, *of_method = rows_of(groups)
            rows = rows or [['method', *header]]
            rows += [[name, *row] for row in of_method]
        if len(rows) > 1:
            print(f'\n{comment}By {printable(by.column)}: {what}\n\n{write(rows)}')
    for note in dict.fromkeys(note for groups in found.values() for note in subgroup_notes(groups)):
        print(f'* Note: {printable(note)}', file=sys.stderr)


def tables_by_seed(method):
    """-> a table for each run of the method, in which the folds are pooled. Raises `InputError` if folds have different numbers of runs."""
    of_sets: dict = {}
    for csv, image_set in zip(method.csvs, method.image_sets, strict=True):
        of_sets.setdefault(image_set, []).append(read_labelled(csv))
    if len({len(tables) for tables in of_sets.values()}) > 1:
        raise InputError(f'--by: the folds of {method.name} have different numbers of runs: give the folders of complete ones')
    return [pool(tables) if len(tables) > 1 else tables[0] for tables in zip(*of_sets.values(), strict=True)]


def excludes_zero(cells, key):
    """Return whether the interval of a difference does not contain 0. `cells`: from `difference`, or None."""
    found = cells[key] if cells else {'low': None}
    return found['low'] is not None and not found['low'] <= 0 <= found['high']


def kinds_text(summaries, columns):
    """-> the kinds of interval in these columns, such as 'MCC, recall: ' + INTERVALS['percentile']"""
    kinds = kinds_of((heading, cells[key]) for heading, key in columns.items() for cells in summaries)
    return '; '.join(f"{', '.join(headings)}: {INTERVALS[kind]}" for kind, headings in kinds.items())


def tables_of(methods, summaries, ranks, differences, baseline):
    """-> {caption of a table: its rows of text}, in the order of `methods`"""
    within = ' within each class' if methods[0].drawn['within_classes'] else ''
    overall, recalls = columns_of(summaries)
    scores = [['method', 'runs', 'images', 'rank', *overall, *recalls]]
    intervals = [['method', 'intervals cover', *overall]]
    for method, cells, rank in zip(methods, summaries, ranks, strict=True):
        sizes = '/'.join(map(str, sorted(set(method.sizes))))
        scores.append([method.name, str(len(method.runs)), sizes, '-' if rank is None else f'{rank:.1f}',
                       *(mean_and_sd(cells.get(key)) for key in (overall | recalls).values())])
        intervals.append([method.name, cells['metrics', 'bacc']['covers'], *(show(cells[key]) for key in overall.values())])
    if all(method.chance == methods[0].chance for method in methods):
        by_chance = {('metrics', name): f'{100 * value:.1f}' for name, value in methods[0].chance.items()}
        scores.append(['chance', '', '', '', *(by_chance.get(key, '-') for key in overall.values()), *([''] * len(recalls))])
    result = {'Mean ± standard deviation over the runs, in percent. R: recall of a class; rank: mean rank over the scores (without '
              'accuracy) and the test sets, 1 is the best.': scores,
              f"Mean [95 % interval, {methods[0].drawn['draws']:,} bootstrap resamples{within}]; "
              f'{kinds_text(summaries, overall)}:': intervals}
    if baseline:
        rows = [['method', 'intervals cover', *overall]]
        rows += [[method.name, '-' if cells is None else cells['metrics', 'bacc']['covers'],
                  *('-' if cells is None else show(cells[key], sign='+') for key in overall.values())]
                 for method, cells in zip(methods, differences, strict=True) if method.name != baseline]
        others = [cells for method, cells in zip(methods, differences, strict=True) if cells and method.name != baseline]
        kinds = kinds_text(others, overall)
        result[f'Difference from {baseline} [95 % interval], paired on the same images; {kinds}:'] = rows
    return result


def main(argv=None):
    parser = get_parser()
    args = parser.parse_args(argv)
    if args.draws < 100 or args.seed < 0 or args.decimals < 0:
        raise InputError('--draws must be 100 or more, --seed and --decimals 0 or more')
    warn_without_effect(parser, argv, args, WITHOUT_EFFECT)
    tested = any(glob.glob(os.path.join(glob.escape(folder), '**', 'results_test.csv'), recursive=True) for folder in args.folders)
    csvs = find_csvs(args.folders, args.file or ('results_test.csv' if tested else 'results_val.csv'))
    if args.baseline and args.baseline not in csvs:
        raise InputError(f"--baseline {args.baseline}: no such method; there are {', '.join(csvs)}")
    methods = load_methods(csvs, args.draws, args.seed, args.ordered, stratified=args.stratified)
    summaries, ranks = [summary(method, not args.images_only) for method in methods], mean_ranks(methods)
    baseline = next((method for method in methods if method.name == args.baseline), None)
    differences = [baseline and difference(method, baseline, not args.images_only) for method in methods]
    if args.format == 'csv':
        header, *rows = tidy_rows(methods, summaries, ranks, differences)
        print(csv_text(pd.DataFrame(rows, columns=header)), end='')
    elif args.format == 'latex':
        print(latex_table(methods, summaries, differences, args))
    else:
        for what, rows in tables_of(methods, summaries, ranks, differences, baseline=args.baseline).items():
            print(f'{printable(what)}\n\n{TABLES[args.format](rows)}\n')
    for by in parse_by(args.by) if args.format != 'csv' else ():
        print_subgroups(methods, by, args)
    if len({frozenset(method.image_sets) for method in methods}) > 1:
        print('* Note: not all methods were tested on the same images', file=sys.stderr)
    for note in settings_notes(methods):
        print(f'* Note: {note}', file=sys.stderr)
    named = ['--file', args.file] if args.file else []
    say_next('write a report of these runs', 'python', '-m', 'tools.report', *args.folders, *named, file=sys.stderr)  # stdout: tables only


if __name__ == '__main__':
    run_script(main)
