"""Several runs -> the sections that compare them. Runs that differ only in a folder seed* or F1, ... are one method."""
import os

import numpy as np
from markupsafe import Markup

from utils.common import InputError
from utils.evaluation import MOST_CLASSES, SMALLER_IS_BETTER
from utils.report import settings
from utils.report.html import Cell, Section, figure, figures, note, section, table
from utils.report.runs import Run, series
from utils.report.scores import count, folded_kinds, percent, stacked
from utils.statistics import plots
from utils.statistics.comparison import SHOWN, MethodRuns, difference, find_csvs, load_methods, mean_ranks, settings_notes, summary
from utils.statistics.many_classes import choose, extremes
from utils.statistics.settings import describe_settings
from utils.statistics.text import kinds_of, show
from utils.statistics.weighted_metrics import METRIC_NAMES, mean_of_defined


def methods_of(runs: list[Run], draws: int, ordered: bool | None = None, stratified: bool = False) -> list[MethodRuns]:
    """-> list of `MethodRuns` of `runs`. All runs must have labelled predictions, in files of the same name."""
    tables = {run.table.path: run.table for run in runs if run.table}
    names = sorted({os.path.basename(path) for path in tables})
    if len(names) > 1:
        raise InputError(f"the runs were tested on different splits, {' and '.join(names)}: choose one with --file")
    return load_methods(find_csvs([run.results for run in runs if run.results], names[0]), draws, ordered=ordered,
                        tables=tables, stratified=stratified)


def _column(cells, name):
    return np.array([np.nan if cell[name] is None else 100 * cell[name] for cell in cells])


def _scores(methods, summaries):
    names = [name for name in SHOWN if any(s['metrics', name]['value'] is not None for s in summaries)]
    rows = []
    for method, cells, rank in zip(methods, summaries, mean_ranks(methods), strict=True):
        rows.append([method.name, count(len(method.runs)), count(method.n_images), Cell('-' if rank is None else f'{rank:.1f}', rank)])
        for cell in (cells['metrics', name] for name in (*names, 'ece')):
            shown, number = stacked(cell)
            deviation = Markup() if cell['sd'] is None else Markup('<small>± {:.1f}</small>').format(100 * cell['sd'])
            rows[-1].append(Cell(Markup('{}{}').format(shown, deviation), number))
    forests = []
    for name in names:
        cells = [s['metrics', name] for s in summaries]
        value, low, high = (_column(cells, end) for end in ('value', 'low', 'high'))
        drawn = plots.intervals([method.name for method in methods], value, low, high, xlabel=f'{METRIC_NAMES[name]} (%)',
                                labels=[percent(cell['value']) for cell in cells])
        best = methods[int(np.nanargmax(_column(cells, 'value')))].name
        sizes = ', '.join(sorted({f'{method.n_images:,}' for method in methods}))
        alt = f'Dots with intervals: {METRIC_NAMES[name]} of each method. Best: {best}.'
        forests.append(figure(plots.to_svg(drawn, f'compare-{name}', alt), METRIC_NAMES[name],
                              f'Mean over the runs with its 95 % interval, {sizes} images per method. Further right is better.'))
    if all(method.chance == methods[0].chance for method in methods):
        rows.append(['chance', '', '', '', *(Cell(percent(value), value) for value in map(methods[0].chance.get, (*names, 'ece')))])
    parts = [table('Scores in percent: mean [95 % interval], ± standard deviation over runs. Rank: mean rank over all scores except '
                   'accuracy and ECE, 1 is best. Chance: a classifier that ignores the image. Click a heading to sort.',
                   ['method', 'runs', 'images', 'rank', *(METRIC_NAMES[name] for name in (*names, 'ece'))], rows, sortable=True)]
    if len({frozenset(method.image_sets) for method in methods}) > 1:
        parts.append(note('Not all methods were tested on the same images: their scores are not comparable.'))
    parts += [note(f'{line}.') for line in settings_notes(methods, lambda found: describe_settings(settings.entries_in_words(found)))]
    overlap = Markup('<p>{} Two methods can differ even if their intervals overlap: compare them by paired '
                     'differences (<code>--baseline METHOD</code>).</p>').format(_coverage(methods, summaries))
    return [*parts, overlap, _kinds(summaries, (*names, 'ece')), figures(*forests)]


def _coverage(methods, cells):
    """One sentence on what the intervals of `cells` cover. `cells`: one {key: cell} for each method."""
    covered: dict = {}
    for method, of_method in zip(methods, cells, strict=True):
        covered.setdefault(of_method['metrics', 'bacc']['covers'], []).append(method.name)
    each = '; '.join(f"{what} ({', '.join(names)})" if len(covered) > 1 else what for what, names in covered.items())
    within = ', drawn within each class' if methods[0].drawn['within_classes'] else ''
    return f"The 95 % intervals account for the sampling of {each} ({methods[0].drawn['draws']:,} bootstrap resamples{within})."


def _kinds(cells, names):
    """A folded list of the kinds of interval of these metrics."""
    return folded_kinds('How the intervals were computed', kinds_of((METRIC_NAMES[name], of_method['metrics', name]) for name in names
                                                      for of_method in cells))


def _differences(methods, baseline):
    """Figure and table of the paired differences of each method from the one called `baseline`."""
    base = next((method for method in methods if method.name == baseline), None)
    if base is None:
        raise InputError(f"--baseline {baseline}: no such method (there are: {', '.join(method.name for method in methods)})")
    paired = {method.name: difference(method, base) for method in methods if method is not base}
    found = {name: cells for name, cells in paired.items() if cells is not None}
    if not found:
        return []
    names = [name for name in SHOWN if any(cells['metrics', name]['value'] is not None for cells in found.values())]
    rows = [[name, *(Cell(show(cells['metrics', metric], sign='+'), cells['metrics', metric]['value']) for metric in names)]
            for name, cells in found.items()]
    value, low, high = (_column([cells['metrics', names[0]] for cells in found.values()], end) for end in ('value', 'low', 'high'))
    drawn = plots.intervals(list(found), value, low, high, xlabel=f'difference in {METRIC_NAMES[names[0]]} (points)',
                            labels=['-' if np.isnan(v) else f'{v:+.1f}' for v in value], zero=True)
    apart = sum(bool(lo > 0 or hi < 0) for lo, hi in zip(low, high, strict=True))
    return [figure(plots.to_svg(drawn, 'compare-differences', f'Dots with intervals: difference of each method from {baseline}. {apart} of '
                                f'{len(found)} intervals exclude 0.'), f'{METRIC_NAMES[names[0]]}: difference from {baseline}',
                   'Methods to the right of the dotted line are better than the baseline. '
                   f'{_coverage([m for m in methods if m.name in found], list(found.values()))} {methods[0].n_images:,} images.'),
            table(f'Difference from {baseline} in percentage points [95 % interval], paired on the same images. Click a heading to sort.',
                  ['method', *(METRIC_NAMES[name] for name in names)], rows, sortable=True), _kinds(list(found.values()), names)]


def _recalls(methods, summaries):
    keys = [key for key in summaries[0] if key[0] == 'classes' and key[2] == 'recall']
    shares = np.array([_column([s[key] for key in keys], 'value') for s in summaries]) / 100
    counts, names = [summaries[0][key]['n'] for key in keys], [method.name for method in methods]
    choice = choose(len(keys), 'those with the lowest and those with the highest mean recall',
                    *extremes(mean_of_defined(shares), np.array(counts)))
    drawn = plots.heat_map(shares[:, choice.classes], names, [f'{plots.short(keys[c][1], 22)} ({counts[c]:,})' for c in choice.classes],
                           'class (tested images per run)', ylabel='method')
    if len(keys) <= MOST_CLASSES:
        header = ['method', *(key[1] for key in keys)]
        rows = [[name, *(stacked(s[key]) for key in keys)] for name, s in zip(names, summaries, strict=True)]
        of_classes = table('Recall in percent [95 % interval]', header, rows)
    else:  # a row for each class instead of hundreds of columns
        rows = [[key[1], count(n), *(stacked(s[key]) for s in summaries)] for key, n in zip(keys, counts, strict=True)]
        of_classes = table('Recall in percent [95 % interval]. Click a heading to sort.', ['class', 'tested images', *names], rows,
                           sortable=True)
    return [figure(plots.to_svg(drawn, 'compare-recalls', 'Recall of each class by method. The values are in the table below.'),
                   'Recall of each class, percent',
                   f'Share of the images of a class (column) that each method (row) classifies correctly.{choice.note}'),
            of_classes]


def _settings(runs):
    trained = [run for run in runs if run.config]
    differing = settings.differing_parts([run.config for run in trained])
    if not differing:
        return []
    rows = [[run.name, *(words[i] for words in differing.values())] for i, run in enumerate(trained)]
    return [table('Settings in which the runs differ', ['run', *differing], rows, numbers=False)]


def _training(runs):
    trained = [run for run in runs if run.history]
    metrics = list(dict.fromkeys(run.config['metric'] for run in trained if run.config['metric'] not in SMALLER_IS_BETTER)) or ['bacc']
    if not trained:
        return []
    shown = []
    for key, label, scale in ((metrics[0], f'{METRIC_NAMES[metrics[0]]} (%)', 100), ('loss', 'cross-entropy', 1)):
        curves = {run.name: (series(run.history, 'epoch'), scale * series(run.history, 'val', key), plots.line_style(i))
                  for i, run in enumerate(trained)}
        drawn = plots.lines(curves, 'epoch', f'validation {label}', size=(4.6, 2.7 + .17 * len(curves)))
        shown.append(figure(plots.to_svg(drawn, f'compare-training-{key}', f'Validation {label} by epoch of {len(trained)} runs.'),
                            f'Validation {label}',
                            f"{'Lower' if key == 'loss' else 'Higher'} is better. Stage two starts again at epoch 1."))
    return [figures(*shown)]


def comparison_sections(runs: list[Run], draws: int = 1000, baseline: str | None = None, ordered: bool | None = None,
                        stratified: bool = False) -> list[Section]:
    """The sections that compare `runs`. `baseline`: name of the method that the others are compared with. For `ordered` and `stratified`
    see `statistics.comparison.load_methods`."""
    tested, built = [run for run in runs if run.table], []
    if tested:
        methods = methods_of(tested, draws, ordered, stratified)
        summaries = [summary(method) for method in methods]
        built = [('compare', 'Comparison of the scores', _scores(methods, summaries)),
                 ('differences', f'Difference from {baseline}', _differences(methods, baseline) if baseline else []),
                 ('recalls', 'Recall by class', _recalls(methods, summaries))]
    built += [('settings', 'Settings that differ', _settings(runs)), ('curves', 'Training', _training(runs))]
    return [section(anchor, title, content) for anchor, title, content in built if content]
