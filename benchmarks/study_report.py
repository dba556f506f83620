"""Print the tables of a study as Markdown.

For each set: the mean and standard deviation of the scores and of recall in the shot groups over the seeds, and the difference from the
baseline over the seeds that both have. The 95 % interval of this difference covers other test images and other seeds. With a single seed it
covers test images only, which a star marks. Then the mean rank of each method over the sets that have all methods, by its mean over the
seeds of each set.

The scores come from study.csv in the folder, and the intervals from the predictions beside it. --publish CSV adds the rows to a csv and
what the intervals need to an npz beside it, and prints the tables of all rows of that csv. --table prints the tables of such a csv again,
without intervals if it has no npz.

Examples:

  python -m benchmarks.study_report results/study
  python -m benchmarks.study_report results/study --publish study_pretrained.csv
  python -m benchmarks.study_report --table benchmarks/results/study.csv
"""
from utils.cli import tune_process

tune_process()  # before torch is imported

import os
import sys

import numpy as np
import pandas as pd

from utils.cli import say_next, script_parser
from utils.common import counted, run_script
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


def common_seeds(figures, method):
    """-> the seeds that both `method` and BASELINE have. `figures`: see `read_figures`"""
    return sorted(figures[method].keys() & figures[BASELINE].keys())


def difference(figures, method):
    """-> `BootstrapResult` of `method` minus BASELINE, as means over their `common_seeds`

    A post-hoc correction of BASELINE has the networks of BASELINE, so the difference is taken within each seed. All other methods have
    trainings of their own, which are independent of those of BASELINE even with the same seeds.
    """
    runs, baseline = ([figures[name][seed] for seed in common_seeds(figures, method)] for name in (method, BASELINE))
    if POST_HOC.get(method, (method,))[0] == BASELINE:
        return mean_over_seeds([[[combine(pair, (1, -1)) for pair in zip(runs, baseline, strict=True)]]])
    return mean_over_seeds([[runs], [baseline]], (1, -1))


def shown_difference(score, cell):
    """-> a difference with its interval as text; without the interval if it is undefined. `cell`: see `BootstrapResult.cell`"""
    ends = '' if cell['low'] is None else f" [{shown(score, cell['low'], '+')}, {shown(score, cell['high'], '+')}]"
    return shown(score, cell['value'], '+') + ends


def difference_rows(figures):
    """-> rows of the differences from BASELINE, the largest gain in balanced accuracy first. `figures`: see `read_figures`

    Methods without a seed of BASELINE are left out, and so is a score that a run lacks: only grades have a kappa. A star beside the number
    of seeds marks intervals that cover test images only.
    """
    runs = [run for of_seed in figures.values() for run in of_seed.values()]
    scores = [score for score in COMPARED if all(np.isfinite(run.values.get(key_of(score), np.nan)) for run in runs)]
    results = {method: difference(figures, method) for method in figures if method != BASELINE and common_seeds(figures, method)}
    rows = [['method', 'seeds', *(f'{SCORES[score]} [95 %]' for score in scores)]]
    for method, result in sorted(results.items(), key=lambda item: -item[1].values[key_of('bacc')]):
        seeds = f"{len(common_seeds(figures, method))}{'' if result.with_seeds else '*'}"
        rows.append([method, seeds, *(shown_difference(score, result.cell(key_of(score))) for score in scores)])
    return rows


def difference_section(figures):
    """-> [caption, table] of the differences from BASELINE, empty if there are none. `figures`: see `read_figures`"""
    header, *rows = difference_rows(figures)
    if not rows:
        return []
    star = ' (*: one seed, so the interval covers test images only)' if any('*' in seeds for _, seeds, *_ in rows) else ''
    return [f'Difference from {BASELINE} over the seeds of both{star}:', to_markdown([header, *rows])]


def rank_section(table):
    """-> [heading, table] of the mean ranks, or the reason why there are none"""
    n_sets = complete(table).set.nunique()
    if not n_sets:
        return ['## Mean ranks', 'No set has all methods yet.']
    return [f"## Mean ranks over {counted(n_sets, 'set')}", to_markdown(rank_rows(table))]


def markdown(table, figures_of):
    """-> the tables of a study. `figures_of`: function from the rows of a set to their `read_figures`"""
    parts = []
    for name, rows in table.groupby('set', sort=False):
        parts += [f'## {name}', to_markdown(score_rows(rows, OVERALL)), *recall_section(rows)]
        if BASELINE in (figures := figures_of(rows)):
            parts += difference_section(figures)
    return '\n\n'.join([*parts, *rank_section(table)]) + '\n'


def get_parser():
    parser = script_parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('folder', nargs='?', help='results folder of the study, such as results/study')
    source.add_argument('--table', metavar='CSV', help='csv of a study, to print its tables without its predictions')
    parser.add_argument('--publish', metavar='CSV', help='csv to which the rows are added; needs the results folder')
    return parser


def main(argv=None):
    parser = get_parser()
    args = parser.parse_args(argv)
    if args.publish:
        if args.table:
            parser.error('--publish needs the results folder instead of --table')
        publish(args.folder, args.publish)
    if csv := args.publish or args.table:
        print(markdown(read_table(csv), lambda rows: published_figures(csv, rows)))
        return
    table = read_table(os.path.join(args.folder, NAME))
    print(markdown(table, lambda rows: read_figures(args.folder, rows)))
    for name in table.set.unique():
        say_next(f'see all runs on {name} on one page', 'python', '-m', 'tools.report', os.path.join(args.folder, name),
                 file=sys.stderr)  # stdout has only the tables


if __name__ == '__main__':
    run_script(main)
