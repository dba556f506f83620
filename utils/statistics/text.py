"""Console tables of scores with confidence intervals, from the cells of `bootstrap.as_cells`."""
from collections.abc import Iterable, Mapping
from typing import Any

from utils.evaluation import MOST_CLASSES
from utils.statistics.bootstrap import INTERVALS
from utils.statistics.tables import to_text
from utils.statistics.weighted_metrics import CLASS_METRICS, METRIC_NAMES

NOT_PERCENT = ('nll', 'brier')
HEADINGS = dict(zip(CLASS_METRICS, ('recall', 'precision', 'F1', 'AUC', 'average precision'), strict=True))
FEW = 30  # images of a class; with fewer, percentile intervals cover less than 95 %: see `benchmarks/coverage.py`
LEGEND = '''Scores in percent (except NLL and Brier) with [95 % interval]. n: number of images.
Chance: score without looking at the images. Accuracy: always the most frequent class; average precision: class frequency.'''


def number(value: float, digits: int = 1, sign: str = '') -> str:
    """`value` as text. What rounds to zero has no sign: '0.0', not '-0.0' or '+0.0'."""
    text = f'{value:{sign}.{digits}f}'
    return text if float(text) else text.lstrip('+-')


def show(cell: Mapping[str, Any], digits: int = 1, scale: float = 100, sign: str = '') -> str:
    """{'value', 'low', 'high'} -> '52.2 [51.4, 53.0]' in percent; '52.2' without an interval, '-' if undefined."""
    if cell['value'] is None:
        return '-'
    shown = [number(scale * cell[name], digits, sign) for name in ('value', 'low', 'high') if cell[name] is not None]
    return '{} [{}, {}]'.format(*shown) if len(shown) == 3 else shown[0]


def _scale(name):
    """-> digits, factor of the values shown"""
    return (3, 1) if name in NOT_PERCENT else (2, 100)


def _defined(metrics):
    """Names of the metrics, without kappa if the classes are not ordered."""
    return [name for name in METRIC_NAMES if name != 'kappa' or metrics[name]['value'] is not None]


def metrics_text(columns: Mapping[str, dict], chance: Mapping[str, float]) -> str:
    """Table of the overall metrics. `columns`: header -> {metric: cell}; values of the column 'difference' have a sign. `chance`: see
    `weighted_metrics.chance_levels`."""
    first = next(iter(columns.values()))
    rows = [['', *columns, 'chance', 'n']]
    for name in _defined(first):
        digits, scale = _scale(name)
        cells = [show(column[name], digits, scale, '+' if header == 'difference' else '') for header, column in columns.items()]
        rows.append([METRIC_NAMES[name], *cells, number(scale * chance[name], digits) if name in chance else '-', str(first[name]['n'])])
    return to_text(rows)


def classes_text(what: str, classes: Mapping[str, dict], sign: str = '') -> str:
    """{class or group: {metric: cell}} -> table; n is the number of images of the class or group."""
    rows = [[what, 'n', *CLASS_METRICS]]
    rows += [[name, str(cells['recall']['n']), *(show(cells[metric], sign=sign) for metric in CLASS_METRICS)]
             for name, cells in classes.items()]
    return to_text(rows)


def operating_points_text(points: Mapping[str, dict]) -> str:
    """{positives: {name: {level: cell}}} -> one table for each level. Cells of a single file have a 'threshold'."""
    tables = []
    for level in next(iter(points.values()))['sensitivity_at_specificity']:
        at = f'≥ {100 * float(level):g} %'
        rows = [['positive', 'n', f'sensitivity at specificity {at}', 'threshold', f'specificity at sensitivity {at}', 'threshold']]
        for positives, of_name in points.items():
            cells = [of_name[name][level] for name in ('sensitivity_at_specificity', 'specificity_at_sensitivity')]
            rows.append([positives, str(cells[0]['n'])])
            for cell in cells:
                threshold = cell.get('threshold')
                rows[-1] += [show(cell), '-' if threshold is None else f'{threshold:.4f}']
        tables.append(to_text(rows))
    return '\n\n'.join(tables) + ('\nThresholds apply to p_<class> (for "or worse", to the sum from that grade upwards).\n'
                                  'They were chosen on these images; expect lower scores on new images.')


def spread_text(n_files: int, result: Mapping[str, Any]) -> str:
    rows = [[f'over {n_files} files', 'mean', 'sd', 'min', 'max']]
    for name in _defined(result['metrics']):
        digits, factor = _scale(name)
        values = result['spread'][name].values()
        rows.append([METRIC_NAMES[name], *('-' if value is None else number(factor * value, digits) for value in values)])
    return to_text(rows)


def covers_text(drawn: Mapping[str, Any]) -> str:
    """Sentence (without a full stop) on what the intervals cover, from 'drawn' of `bootstrap_metrics` or `evaluate_files`."""
    covered = 'and training variance' if drawn['seeds'] else 'but not training variance'
    within = ' within each class' if drawn['within_classes'] else ''
    return f"95 % intervals cover test-set sampling {covered} ({drawn['draws']:,} bootstrap resamples of {drawn['unit']}{within})"


def kinds_of(named_cells: Iterable[tuple[str, dict]]) -> dict[str, list[str]]:
    """Group the names of scores by their kind of interval, a key of INTERVALS. Cells without an interval are ignored."""
    kinds: dict = {}
    for name, cell in named_cells:
        if cell['interval'] is not None:
            kinds.setdefault(cell['interval'], {})[name] = None
    return {kind: list(names) for kind, names in kinds.items()}


def interval_kinds(result: Mapping[str, dict]) -> dict[str, list[str]]:
    """`kinds_of` all scores in a result of `bootstrap.as_cells`."""
    cells = [(METRIC_NAMES[name], cell) for name, cell in result['metrics'].items()]
    cells += [(f'per-class {HEADINGS[metric]}', cell) for of_class in result['classes'].values() for metric, cell in of_class.items()]
    cells += [(f'per-group {HEADINGS[metric]}', cell) for group in result['groups'].values() for metric, cell in group.items()]
    cells += [('operating points', cell) for points in result['operating_points'].values() for of_level in points.values()
              for cell in of_level.values()]
    return kinds_of(cells)


def intervals_text(result: Mapping[str, dict], drawn: Mapping[str, Any]) -> str:
    """Lines on the intervals: what they cover, then each kind with the scores it is used for."""
    lines = [f'{covers_text(drawn)}:']
    for kind, names in interval_kinds(result).items():
        lines.append(f"- {INTERVALS[kind]}: {', '.join(names)}")
    return '\n'.join(lines)


def notes(result: Mapping[str, Any]) -> str:
    """Warnings about the intervals of this result, one a line; '' if there are none."""
    lines = []
    few = [name for name, cells in result['classes'].items() if 0 < cells['recall']['n'] < FEW]
    if few:
        which = ', '.join(few) if len(few) <= MOST_CLASSES else f"{len(few)} of {len(result['classes'])} classes"
        lines.append(f'Note: fewer than {FEW} images of {which}: the intervals of F1, AUC, average precision and of the macro scores are '
                     'slightly too narrow.')
    outside: dict = {}
    for shown in result['runs'] if 'difference' in result else [result]:
        for name, c in shown['metrics'].items():
            if c['low'] is not None and not c['low'] - 1e-9 <= c['value'] <= c['high'] + 1e-9:
                outside.setdefault(c['interval'] == 'basic', {})[METRIC_NAMES[name]] = None
    for is_basic, names in outside.items():
        why = ('Sampling noise biases calibration errors upwards; the interval corrects for this. Rely on the interval.' if is_basic else
               'With few images, the bootstrap is biased. Rely on the width of the interval, not on its position.')
        lines.append(f"Note: the value lies outside its interval: {', '.join(names)}. {why}")
    return '\n'.join(lines)


def report_text(result: Mapping[str, Any], n_files: int) -> str:
    """Console report of a result of `folds.evaluate_files`."""
    parts = [LEGEND]
    if 'assumed' in result:
        parts.insert(0, f"{result['assumed']}.")
    if 'difference' in result:
        first, second = (run['metrics'] for run in result['runs'])
        parts += [metrics_text({'first': first, 'second': second, 'difference': result['difference']['metrics']}, result['chance']),
                  'Differences are second - first, on the same images. They compare two trained networks. To compare two methods, train '
                  'several seeds of each.',
                  classes_text('difference', result['difference']['classes'], '+')]
        parts.append(intervals_text(result['runs'][0], result['drawn']))
        if kinds := interval_kinds(result['difference']):
            parts[-1] += '\n- ' + '; '.join(INTERVALS[kind] for kind in kinds) + ': differences'
        return '\n\n'.join([*parts, *filter(None, [notes(result)])])
    header = {'file': 'value', 'pooled': 'pooled', 'mean': f'mean of {n_files}'}[result['of']]
    parts.append(metrics_text({header: result['metrics']}, result['chance']))
    if 'spread' in result:
        parts.append(spread_text(n_files, result))
    parts.append(classes_text('class', result['classes']))
    if result['groups']:
        parts.append(classes_text('classes by training images', result['groups'])
                     + '\nMeans over classes. many: more than 100 training images; medium: 20 to 100; few: fewer than 20.'
                     + '\nThirds: classes sorted by their number of training images.')
    if result['operating_points']:
        parts.append(operating_points_text(result['operating_points'])
                     + '\nThese thresholds were chosen on the tested images, and do worse on others.')
    parts.append(intervals_text(result, result['drawn']))
    return '\n\n'.join([*parts, *filter(None, [notes(result)])])
