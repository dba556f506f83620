"""Figures with intervals, as `bootstrap.as_cells` gives them, as tables that people read."""
from collections.abc import Iterable, Mapping
from typing import Any

from utils.evaluation import MOST_CLASSES
from utils.statistics.bootstrap import INTERVALS
from utils.statistics.tables import to_text
from utils.statistics.weighted_metrics import CLASS_METRICS, METRIC_NAMES

NOT_PERCENT = ('nll', 'brier')
HEADINGS = dict(zip(CLASS_METRICS, ('recall', 'precision', 'F1', 'AUC', 'average precision'), strict=True))
FEW = 30  # images of a class, below which percentile intervals cover less than they say: `benchmarks/coverage.py`
CHANCE = ('chance: answers that know nothing about the image (accuracy: always the most frequent class; average precision: the share of '
          'the class)')


def show(cell: Mapping[str, Any], digits: int = 1, scale: float = 100, sign: str = '') -> str:
    """{'value', 'low', 'high'} -> '52.2 [51.4, 53.0]', in percent; '-' where it is undefined, no interval where there is none."""
    if cell['value'] is None:
        return '-'
    shown = [f'{scale * cell[name]:{sign}.{digits}f}' for name in ('value', 'low', 'high') if cell[name] is not None]
    return '{} [{}, {}]'.format(*shown) if len(shown) == 3 else shown[0]


def _scale(name):
    """-> digits, factor"""
    return (3, 1) if name in NOT_PERCENT else (2, 100)


def _defined(metrics):
    """Without kappa where the classes are not ordered."""
    return [name for name in METRIC_NAMES if name != 'kappa' or metrics[name]['value'] is not None]


def metrics_text(columns: Mapping[str, dict], chance: Mapping[str, float]) -> str:
    """`columns`: header -> {metric: cell}; a column 'difference' has signs. `chance`: see `weighted_metrics.chance_levels`."""
    first = next(iter(columns.values()))
    rows = [['', *columns, 'chance', 'n']]
    for name in _defined(first):
        digits, scale = _scale(name)
        cells = [show(column[name], digits, scale, '+' if header == 'difference' else '') for header, column in columns.items()]
        rows.append([METRIC_NAMES[name], *cells, f'{scale * chance[name]:.{digits}f}' if name in chance else '-', str(first[name]['n'])])
    return to_text(rows)


def classes_text(what: str, classes: Mapping[str, dict], sign: str = '') -> str:
    """{class or group: {metric: cell}} -> table; n are the images of the class (group)."""
    rows = [[what, 'n', *CLASS_METRICS]]
    rows += [[name, str(cells['recall']['n']), *(show(cells[metric], sign=sign) for metric in CLASS_METRICS)]
             for name, cells in classes.items()]
    return to_text(rows)


def operating_points_text(points: Mapping[str, dict]) -> str:
    """{positives: {name: {level: cell, with 'threshold' where it is one file's}}} -> one table for each level."""
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
    return '\n\n'.join(tables) + ('\nA threshold applies to p_<class> (for "or worse", summed from that grade on). Chosen on these very '
                                  'images, it will do worse on others.')


def spread_text(n_files: int, result: Mapping[str, Any]) -> str:
    rows = [[f'over {n_files} files', 'mean', 'sd', 'min', 'max']]
    for name in _defined(result['metrics']):
        digits, factor = _scale(name)
        values = result['spread'][name].values()
        rows.append([METRIC_NAMES[name], *('-' if value is None else f'{factor * value:.{digits}f}' for value in values)])
    return to_text(rows)


def covers_text(drawn: Mapping[str, Any]) -> str:
    """What the intervals cover, from 'drawn' of `bootstrap_metrics` or `evaluate_files`."""
    unit, seeds = drawn['unit'], drawn['seeds']
    how = 'drawn within each class' if drawn['within_classes'] else 'drawn at random'
    return (f"95 % intervals cover other test {unit}{' and other seeds' if seeds else ', not another training'} "
            f"({drawn['draws']:,} bootstrap draws; {unit} {how})")


def kinds_of(named_cells: Iterable[tuple[str, dict]]) -> dict[str, list[str]]:
    """Pairs (name of a figure, its cell) -> {kind, a key of INTERVALS: names}; cells without an interval do not count."""
    kinds: dict = {}
    for name, cell in named_cells:
        if cell['interval'] is not None:
            kinds.setdefault(cell['interval'], {})[name] = None
    return {kind: list(names) for kind, names in kinds.items()}


def interval_kinds(result: Mapping[str, dict]) -> dict[str, list[str]]:
    """`kinds_of` all figures of a `bootstrap.as_cells`."""
    cells = [(METRIC_NAMES[name], cell) for name, cell in result['metrics'].items()]
    cells += [(f'{HEADINGS[metric]} of a class', cell) for of_class in result['classes'].values() for metric, cell in of_class.items()]
    cells += [(f'{HEADINGS[metric]} of a group', cell) for group in result['groups'].values() for metric, cell in group.items()]
    cells += [('operating points', cell) for points in result['operating_points'].values() for of_level in points.values()
              for cell in of_level.values()]
    return kinds_of(cells)


def intervals_text(result: Mapping[str, dict], drawn: Mapping[str, Any]) -> str:
    """What the intervals are, as lines: what they cover, and each kind with its figures."""
    lines = [f'{covers_text(drawn)}:']
    for kind, names in interval_kinds(result).items():
        lines.append(f"- {INTERVALS[kind]}: {', '.join(names)}")
    return '\n'.join(lines)


def notes(result: Mapping[str, Any]) -> str:
    """What a reader must know about the intervals of this result; '' where there is nothing."""
    lines = []
    few = [name for name, cells in result['classes'].items() if 0 < cells['recall']['n'] < FEW]
    if few:
        which = ', '.join(few) if len(few) <= MOST_CLASSES else f"{len(few)} of {len(result['classes'])} classes"
        lines.append(f'Note: fewer than {FEW} images of {which}: the intervals of F1, AUC and average precision, and of the means over the '
                     'classes, are somewhat too narrow.')
    outside: dict = {}
    for shown in result['runs'] if 'difference' in result else [result]:
        for name, c in shown['metrics'].items():
            if c['low'] is not None and not c['low'] - 1e-9 <= c['value'] <= c['high'] + 1e-9:
                outside.setdefault(c['interval'] == 'basic', {})[METRIC_NAMES[name]] = None
    for is_basic, names in outside.items():
        why = ('noise makes a calibration error larger, and the interval takes that off. Read the interval, not the value.' if is_basic else
               'the draws are biased, as those of few images are. Read the width, not the place.')
        lines.append(f"Note: {', '.join(names)} outside of the interval: {why}")
    return '\n'.join(lines)


def report_text(result: Mapping[str, Any], n_files: int) -> str:
    """The whole of `folds.evaluate_files` for the console."""
    parts = [f'Percent (NLL, Brier: as they are) [95 % interval]; n: images; {CHANCE}']
    if 'assumed' in result:
        parts.insert(0, f"{result['assumed']}.")
    if 'difference' in result:
        first, second = (run['metrics'] for run in result['runs'])
        parts += [metrics_text({'first': first, 'second': second, 'difference': result['difference']['metrics']}, result['chance']),
                  'Differences are second - first, on the same images. They compare two trained networks, not two methods: repeat with '
                  'other seeds.',
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
                     + '\nMeans over the classes. many: more than 100 training images, few: less than 20; thirds of the classes by rank.')
    if result['operating_points']:
        parts.append(operating_points_text(result['operating_points']))
    parts.append(intervals_text(result, result['drawn']))
    return '\n\n'.join([*parts, *filter(None, [notes(result)])])
