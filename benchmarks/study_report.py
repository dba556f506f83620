"""Print the tables of a study as Markdown.

For each set: the mean and standard deviation of the scores and of recall in the shot groups over the seeds, and the difference from
--baseline over the seeds that both have. The 95 % interval of this difference covers other test images and other seeds. With a single seed,
it covers test images only, which a star marks. Then the mean rank of each method over the sets that have all methods, by its mean over the
seeds of each set.

The scores come from study.csv in the folder, and the intervals from the predictions beside it. --publish CSV adds the rows to a csv and
what the intervals need to an npz beside it, and prints the tables of all rows of that csv. --table prints the tables of such a csv again,
without intervals if it has no npz. --baseline_csv CSV takes the baseline from another published csv with the same test images, such as a
study with larger images.

Examples:

  python -m benchmarks.study_report results/study
  python -m benchmarks.study_report results/study --publish study_pretrained.csv
  python -m benchmarks.study_report --table benchmarks/results/study.csv
  python -m benchmarks.study_report --table benchmarks/results/study.csv --baseline 'class sampling'
  python -m benchmarks.study_report --table benchmarks/results/study_paper.csv --baseline_csv benchmarks/results/study_pretrained.csv
"""
from utils.cli import tune_process

tune_process()  # before torch is imported

import os
import sys

import numpy as np
import pandas as pd

from utils.cli import say_next, script_parser
from utils.common import InputError, counted, run_script
from utils.statistics.bootstrap import combine
from utils.statistics.folds import mean_over_seeds
from utils.statistics.tables import to_markdown

from .study_draws import COMPARED, publish, published_figures, read_figures
from .study_methods import BASELINE, POST_HOC
from .study_table import GROUPS, NAME, SCORES, key_of, read_table

OVERALL = [score for score in SCORES if score not in GROUPS]
RANKED = ('bacc', 'mcc', 'f1', 'auc', 'nll')
SMALLER_IS_BETTER = ('nll',)


def shown(score, value, sign=''):
    """-> a score as text, in percent except for NLL"""
    return f'{value:{sign}.2f}' if score == 'nll' else f'{100 * value:{sign}.1f}'


def complete(table):
    """-> the rows of the sets that have all methods"""
    return table[table.groupby('set').method.transform('nunique') == table.method.nunique()]


def mean_ranks(table):
    """-> DataFrame (methods x RANKED): mean rank over the `complete` sets (Demšar, JMLR 2006); 1 is the best. Equal scores share a rank.

    In each set, methods are ranked by their mean over all seeds that they have. So each set counts alike, and no run is left out.
    """
    means = complete(table).groupby(['set', 'method'])[[*RANKED]].mean()
    ranks = {score: means.groupby('set')[score].rank(ascending=score in SMALLER_IS_BETTER) for score in RANKED}
    return pd.DataFrame(ranks).groupby('method').mean()


def rank_rows(table):
    """-> rows of the table of mean ranks, the best method first"""
    ranks = mean_ranks(table)
    ranks.insert(0, 'mean', ranks.mean(axis=1))
    rows = [[method, *(f'{rank:.1f}' for rank in of_method)] for method, *of_method in ranks.sort_values('mean').itertuples()]
    return [['method', 'mean rank', *(SCORES[score] for score in RANKED)], *rows]


def score_rows(table, scores):
    """-> rows of a table of `scores` of one set, the method with the best mean rank first. Scores that no row has are left out."""
    scores, ranks = [score for score in scores if score in table and table[score].notna().any()], mean_ranks(table).mean(axis=1)
    rows = [['method', 'seeds', 'mean rank', *(SCORES[score] for score in scores)]]
    for method in sorted(table.method.unique(), key=lambda m: ranks.get(m, np.inf)):
        own = table[table.method == method]
        cells = [shown(score, own[score].mean()) + (f' ± {shown(score, own[score].std())}' if len(own) > 1 else '') for score in scores]
        rows.append([method, str(len(own)), f'{ranks[method]:.1f}' if method in ranks else '-', *cells])
    return rows


def recall_section(table):
    """-> [caption, table] of recall in the shot groups of one set, empty if there are none"""
    header, *rows = score_rows(table, GROUPS)
    if not header[3:]:
        return []
    return ['Recall of classes with more than 100 training images (many), 20 to 100 (medium) and less than 20 (few):',
            to_markdown([[method, *cells] for method, _, _, *cells in [header, *rows]])]


def common_seeds(figures, method, baseline):
    """-> the seeds that both methods have. `figures`: see `read_figures`"""
    return sorted(figures.get(method, {}).keys() & figures.get(baseline, {}).keys())


def trained_method(method):
    """-> the method with whose networks `method` predicts: another one only for post-hoc corrections"""
    return POST_HOC.get(method, (method,))[0]


def difference(figures, method, baseline=BASELINE):
    """-> `BootstrapResult` of `method` minus `baseline`, as means over their `common_seeds`

    A post-hoc correction has the networks of another method, so their difference is taken within each seed. Otherwise, the networks are
    independent even with the same seeds.
    """
    seeds = common_seeds(figures, method, baseline)
    first, second = ([figures[name][seed] for seed in seeds] for name in (method, baseline))
    if trained_method(method) == trained_method(baseline):
        return mean_over_seeds([[[combine(pair, (1, -1)) for pair in zip(first, second, strict=True)]]])
    return mean_over_seeds([[first], [second]], (1, -1))


def shown_difference(score, cell):
    """-> a difference with its interval as text; without the interval if it is undefined. `cell`: see `BootstrapResult.cell`"""
    ends = '' if cell['low'] is None else f" [{shown(score, cell['low'], '+')}, {shown(score, cell['high'], '+')}]"
    return shown(score, cell['value'], '+') + ends


def difference_rows(figures, baseline=BASELINE):
    """-> rows of the differences from `baseline`, the largest gain in balanced accuracy first. `figures`: see `read_figures`

    Methods without a seed of `baseline` are left out, and so is a score that a run lacks: only grades have a kappa. A star beside the
    number of seeds marks intervals that cover test images only.
    """
    runs = [run for of_seed in figures.values() for run in of_seed.values()]
    scores = [score for score in COMPARED if all(np.isfinite(run.values.get(key_of(score), np.nan)) for run in runs)]
    results = {method: difference(figures, method, baseline) for method in figures
               if method != baseline and common_seeds(figures, method, baseline)}
    rows = [['method', 'seeds', *(f'{SCORES[score]} [95 %]' for score in scores)]]
    for method, result in sorted(results.items(), key=lambda item: -item[1].values[key_of('bacc')]):
        seeds = f"{len(common_seeds(figures, method, baseline))}{'' if result.with_seeds else '*'}"
        rows.append([method, seeds, *(shown_difference(score, result.cell(key_of(score))) for score in scores)])
    return rows


def difference_section(figures, baseline=BASELINE):
    """-> [caption, table] of the differences from `baseline`, empty if there are none. `figures`: see `read_figures`"""
    header, *rows = difference_rows(figures, baseline)
    if not rows:
        return []
    star = ' (*: one seed, so the interval covers test images only)' if any('*' in seeds for _, seeds, *_ in rows) else ''
    return [f'Difference from {baseline} over the seeds of both{star}:', to_markdown([header, *rows])]


def rank_section(table):
    """-> [heading, table] of the mean ranks, or the reason why there are none"""
    n_sets = complete(table).set.nunique()
    if not n_sets:
        return ['## Mean ranks', 'No set has all methods yet.']
    return [f"## Mean ranks over {counted(n_sets, 'set')}", to_markdown(rank_rows(table))]


def markdown(table, figures_of, baseline=BASELINE):
    """-> the tables of a study. `figures_of`: function from the rows of a set to their `read_figures`"""
    parts = []
    for name, rows in table.groupby('set', sort=False):
        parts += [f'## {name}', to_markdown(score_rows(rows, OVERALL)), *recall_section(rows)]
        parts += difference_section(figures_of(rows), baseline)
    return '\n\n'.join([*parts, *rank_section(table)]) + '\n'


def get_parser():
    parser = script_parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('folder', nargs='?', help='results folder of the study, such as results/study')
    source.add_argument('--table', metavar='CSV', help='csv of a study, to print its tables without its predictions')
    parser.add_argument('--publish', metavar='CSV', help='csv to which the rows are added; needs the results folder')
    parser.add_argument('--baseline', default=BASELINE, metavar='METHOD', help='method to which the others are compared')
    parser.add_argument('--baseline_csv', metavar='CSV', help='published csv with the baseline (default: that of the other methods)')
    return parser


def with_baseline_of(csv, figures, baseline, name):
    """-> `figures` of the set `name` and those of `baseline` in another published csv, as the method 'BASELINE of CSV'. Raises `InputError`
    if the numbers of test images differ."""
    rows = read_table(csv).query('set == @name and method == @baseline')
    other = published_figures(csv, rows).get(baseline, {})
    counts = {run.counts[key_of('bacc')] for of_seed in [*figures.values(), other] for run in of_seed.values()}
    if other and len(counts) > 1:
        raise InputError(f'--baseline_csv {csv}: {name} has other test images there')
    return figures | {baseline_name(csv, baseline): other}


def baseline_name(csv, baseline):
    return f'{baseline} of {os.path.basename(csv)}' if csv else baseline


def check_baseline(baseline, table):
    """Raise `InputError` if no row of `table` has this method. Without a CE, the default, there are no differences."""
    if baseline not in (methods := [*table.method.unique()]) and baseline != BASELINE:
        raise InputError(f"--baseline {baseline}: the study has no such method, only {', '.join(methods)}")


def main(argv=None):
    parser = get_parser()
    args = parser.parse_args(argv)
    if args.publish:
        if args.table:
            parser.error('--publish needs the results folder instead of --table')
        publish(args.folder, args.publish)
    csv = args.publish or args.table
    table = read_table(csv or os.path.join(args.folder, NAME))
    check_baseline(args.baseline, read_table(args.baseline_csv) if args.baseline_csv else table)

    def figures_of(rows):
        figures = published_figures(csv, rows) if csv else read_figures(args.folder, rows)
        return with_baseline_of(args.baseline_csv, figures, args.baseline, rows.set.iloc[0]) if args.baseline_csv else figures

    print(markdown(table, figures_of, baseline_name(args.baseline_csv, args.baseline)))
    for name in [] if csv else table.set.unique():
        say_next(f'see all runs on {name} on one page', 'python', '-m', 'tools.report', os.path.join(args.folder, name),
                 file=sys.stderr)  # stdout has only the tables


if __name__ == '__main__':
    run_script(main)
