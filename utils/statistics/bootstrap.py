"""95 % intervals of every figure by drawing images (or patients) with replacement, many draws at a time.

The kind of interval of each figure was chosen by its coverage in simulation: `benchmarks/coverage.py`."""
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from utils.common import InputError, progress
from utils.prediction.predictions import PredictionTable
from utils.statistics.weighted_metrics import WeightedMetrics, chance_levels, labels_of

WEIGHTS_IN_MEMORY = 2 ** 21  # weights in memory at a time
Z = 1.959963984540054  # of the normal distribution, two-sided 95 %
ROUNDING = 1e-12  # differences of fractions below it are rounding
INTERVALS = {
    'percentile': 'percentiles of the bootstrap draws',
    'wilson': 'Wilson score interval (with patients and at operating points, of the effective number of images)',
    'basic': 'basic bootstrap interval, corrected for the upward bias of calibration errors',
    'normal': 'value ± 1.96 standard errors of the bootstrap draws',
    'seeds': "percentiles of the bootstrap draws, widened by Student's t of the seeds",
}
LIMITS = {'mcc': (-1., 1.), 'kappa': (-1., 1.), 'nll': (0., np.inf), 'brier': (0., 2.)}  # of other figures: 0 and 1
STRATIFIED = 'bootstrap within each class, for test sets whose class counts were fixed by design (default: images or patients at random)'
BIASED_UPWARDS = (('metrics', 'ece'), ('metrics', 'classwise_ece'))  # sums of absolute values, which noise makes larger


class BootstrapResult(NamedTuple):
    """One file's figures, keyed as in `WeightedMetrics`; those of files with the same images share their draws."""
    values: dict  # key -> float
    draws: dict  # key -> float64 (draws,)
    counts: dict  # key -> images behind it
    thresholds: dict  # of operating points
    shrunk: Mapping = MappingProxyType({})  # key of BIASED_UPWARDS -> float64 (draws,), see `WeightedMetrics.with_shrunk`
    units: Mapping = MappingProxyType({})  # key of a proportion -> independent units (images, patients) behind it
    of: str = 'file'  # or 'mean', 'difference'
    with_seeds: bool = False  # the draws cover another training as well, see `folds.mean_over_seeds`

    def cell(self, key: tuple, n: int | None = None) -> dict[str, Any]:
        """`cell` of one figure with the kind of interval that covers best. `n`: images behind it, where it is not `counts`."""
        value, draws, n = self.values[key], self.draws[key], self.counts[key] if n is None else n
        low, high = LIMITS.get(key[1] if key[0] == 'metrics' else key[2], (0., 1.))
        if self.of == 'difference':
            varies = (np.abs(draws - value) > ROUNDING).any()
            return clipped(cell(value, draws, n, 'seeds' if self.with_seeds and varies else 'normal'), low - high, high - low)
        if key in BIASED_UPWARDS:
            return clipped(cell(value, draws, n, 'basic', shrunk=self.shrunk.get(key)), low, high)
        units = self.units.get(key)
        at_end = min(value, 1 - value) < ROUNDING  # there the draws do not vary
        if units and (self.of == 'file' or at_end):
            exact = units == self.counts[key] and key[0] != 'operating_points'
            return cell(value, draws, n, 'wilson', units=units if exact or at_end else effective_n(value, draws, n, units))
        return clipped(cell(value, draws, n, 'seeds' if self.with_seeds else 'percentile'), low, high)


def unit_of_images(patient_ids: list | None, n_images: int) -> np.ndarray:
    """Int (N,): the patient of each image, numbered from 0; without patients each image is its own unit."""
    return np.arange(n_images) if patient_ids is None else np.unique(patient_ids, return_inverse=True)[1]


def weights_of_draws(labels: np.ndarray, patient_ids: list | None = None, draws: int = 1000, seed: int | Sequence[int] = 0,
                     stratified: bool = False) -> Iterator[np.ndarray]:
    """Yields blocks of whole-number weights, float64 (N, B), in all `draws` columns: how often each image is drawn.

    As many images are drawn as there are. With `patient_ids` (N,) whole patients are drawn, since their images are alike. A draw
    may leave out a rare class: then its figures are NaN in this draw, and means over the classes go without it. (Drawing again
    until each class is there covers less, and is impossible with many classes of one image.)

    `stratified` is for test sets whose class counts were fixed by design: as many images of each class are drawn as it has. Of
    patients, each counts to the rarest of the classes that they have.
    """
    labels, rng = np.asarray(labels), np.random.default_rng(seed)
    unit = unit_of_images(patient_ids, len(labels))
    stratum = np.zeros(unit.max() + 1, np.int64)
    if stratified:
        by_rarity = np.lexsort((labels, np.bincount(labels)[labels]))
        stratum[unit[by_rarity[::-1]]] = labels[by_rarity[::-1]]  # the last assignment stays: the rarest class
    members = [np.flatnonzero(stratum == c) for c in np.unique(stratum)]
    block = max(1, WEIGHTS_IN_MEMORY // len(labels))
    for done in range(0, draws, block):
        b = min(block, draws - done)
        weights = np.empty((len(stratum), b))
        for units in members:
            drawn = rng.integers(len(units), size=(b, len(units))) + np.arange(b)[:, None] * len(units)
            weights[units] = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(b, -1).T
        yield weights[unit]


def check_classes(table: PredictionTable, class_names: list[str], source: str) -> None:
    """Raise `InputError` unless `table` has the `class_names` of `source` in their order: else a label stands for another class."""
    if table.class_names == class_names:
        return
    if len(table.class_names) != len(class_names):
        what = f'{len(table.class_names)} and {len(class_names)}'
    else:
        c, a, b = next((c, *pair) for c, pair in enumerate(zip(table.class_names, class_names, strict=True)) if pair[0] != pair[1])
        order = ' (the same names in another order)' if sorted(table.class_names) == sorted(class_names) else ''
        what = f"class {c} is '{a}' and '{b}'{order}"
    raise InputError(f'{table.path} and {source} differ in their classes: {what}: use predictions of networks with the same classes '
                     'in the same order')


def align(tables: Sequence[PredictionTable]) -> list[PredictionTable]:
    """The tables with their rows in the order of the first; `InputError` unless images, classes and labels are the same. Only the
    tables with labels are compared in these."""
    first, result = tables[0], []
    place = {image: i for i, image in enumerate(first.image_ids)}
    for table in tables:
        if set(table.image_ids) != place.keys():
            raise InputError(f'{table.path} and {first.path} do not hold the same images')
        check_classes(table, first.class_names, first.path)
        order = np.argsort([place[image] for image in table.image_ids])
        labels = None if table.labels is None else table.labels[order]
        table = table._replace(image_ids=first.image_ids, labels=labels, preds=table.preds[order], probs=table.probs[order],
                               patient_ids=table.patient_ids and [table.patient_ids[i] for i in order])
        if labels is not None and first.labels is not None and len(wrong := np.flatnonzero(labels != first.labels)):
            raise InputError(f'{table.path} and {first.path} differ in {len(wrong)} labels, the first is that of '
                             f'{first.image_ids[wrong[0]]}: {labels[wrong[0]]} and {first.labels[wrong[0]]}')
        result.append(table)
    return result


def bootstrap_figures(tables: Sequence[PredictionTable], draws: int = 1000, seed: int | Sequence[int] = 0, stratified: bool = False,
                      **options: Any) -> list[BootstrapResult]:
    """`BootstrapResult` of each of the labelled `tables`, which hold the same images: draw i is the same images in all of them, so
    that differences and means of their `draws` are paired. `stratified`: of `weights_of_draws`; `options`: of `WeightedMetrics`."""
    tables, result = align(tables), []
    patients = next((table.patient_ids for table in tables if table.patient_ids), None)
    unit = unit_of_images(patients, len(tables[0].preds))
    with progress(draws * len(tables), 'bootstrap draws', unit='draw') as bar:
        for table in tables:
            metrics = WeightedMetrics(table, unit=unit, **options)
            values = {key: float(value[0]) for key, value in metrics(np.ones((len(unit), 1))).items()}
            blocks = []
            for weights in weights_of_draws(labels_of(table), patients, draws, seed, stratified=stratified):
                blocks.append(metrics.with_shrunk(weights))
                bar.update(weights.shape[1])
            of_draws, shrunk = ({key: np.concatenate([block[key] for block in part]) for key in part[0]}
                                for part in zip(*blocks, strict=True))
            units = {key: count for key in values if (count := metrics.units(key)) is not None}
            if stratified:  # accuracy is then no proportion of images that are drawn alike, but a weighted mean of the recalls
                units.pop(('metrics', 'acc'))
            counts = {key: metrics.count(key) for key in values}
            result.append(BootstrapResult(values, of_draws, counts, metrics.thresholds(), shrunk=shrunk, units=units))
    return result


def _percentiles(defined: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(defined, (2.5, 97.5)).tolist()
    return low, high


def interval(draws: np.ndarray) -> tuple[float, float] | tuple[None, None]:
    """2.5th and 97.5th percentile of the defined draws; None where there is none."""
    defined = draws[np.isfinite(draws)]
    return _percentiles(defined) if len(defined) else (None, None)


def wilson(proportion: float, n: float) -> tuple[float, float]:
    """(low, high) of the Wilson score interval; `n` need not be whole. Wilson, JASA 1927."""
    middle, half = proportion + Z ** 2 / (2 * n), Z * np.sqrt(proportion * (1 - proportion) / n + Z ** 2 / (4 * n ** 2))
    low, high = (float(min(max(end / (1 + Z ** 2 / n), 0), 1)) for end in (middle - half, middle + half))
    return low, high


def effective_n(proportion: float, draws: np.ndarray, n: int, units: int) -> float:
    """How many independent images would vary as much as the `draws` of this proportion: 1 to `n`. Where the draws do not vary, as those
    of a single patient, it is the number of `units`."""
    defined = draws[np.isfinite(draws)]
    if not len(defined) or np.ptp(defined) < ROUNDING:
        return units
    return float(np.clip(proportion * (1 - proportion) / defined.var(), 1, n))


def cell(value: float, draws: np.ndarray, n: int, kind: str = 'percentile', shrunk: np.ndarray | None = None,
         units: float | None = None) -> dict[str, Any]:
    """{'value', 'low', 'high', 'n', 'interval'}: fractions, None where undefined; 'interval' is the `kind`, a key of INTERVALS.

    Draws that are all alike, or nearly all (of one image, or of figures that hardly a draw changes), tell nothing: no interval, except
    that the difference of two files with the same answers is exactly 0. `units`: the n of 'wilson', None for `n`; `shrunk`: draws for
    the lower end of 'basic', None for the same.
    """
    low = high = None
    defined = draws[np.isfinite(draws)]
    if np.isfinite(value) and len(defined):
        if kind == 'wilson':
            low, high = wilson(value, n if units is None else units)
        elif n > 1 and (np.ptp(defined) > ROUNDING or (kind == 'normal' and abs(value) < ROUNDING)):
            low, high = _percentiles(defined)
            if kind == 'normal':
                half = Z * float(defined.std(ddof=1)) if len(defined) > 1 else 0.
                low, high = value - half, value + half
            elif kind == 'basic':
                largest, width = high if shrunk is None else _percentiles(shrunk[np.isfinite(shrunk)])[1], high - low
                low, high = max(2 * value - largest, 0.), max(2 * value - low, width)  # cut off at 0, it stays as wide as the draws
            if kind != 'normal' and high - low < ROUNDING:
                low = high = None
    return {'value': float(value) if np.isfinite(value) else None, 'low': low, 'high': high, 'n': n,
            'interval': None if low is None else kind}


def clipped(cell: dict[str, Any], low: float, high: float) -> dict[str, Any]:
    """The cell with its interval inside of what is possible."""
    return cell | {end: None if cell[end] is None else min(max(cell[end], low), high) for end in ('low', 'high')}


def as_cells(figures: BootstrapResult) -> dict[str, dict]:
    """`BootstrapResult` -> {'metrics': {name: cell}, 'classes': {class: {metric: cell}}, 'groups': {group: {metric: cell}},
    'operating_points': {positives: {name: {level: cell with 'threshold'}}}}."""
    result = {'metrics': {}, 'classes': {}, 'groups': {}, 'operating_points': {}}
    for key in figures.values:
        place = result
        for part in key[:-1]:
            place = place.setdefault(str(part), {})
        place[str(key[-1])] = figures.cell(key)
        if key in figures.thresholds:
            place[str(key[-1])]['threshold'] = figures.thresholds[key]
    return result


def combine(figures: Sequence[BootstrapResult], weights: Sequence[float]) -> BootstrapResult:
    """The sum of `weights` x `figures`: (1/m, ..., 1/m) is their mean, (1, -1) a paired difference. Keys are those of all. The mean of
    one is that one, so that its intervals are those of a file."""
    if list(weights) == [1]:
        return figures[0]
    keys = [key for key in figures[0].values if all(key in other.values for other in figures)]
    pairs = list(zip(weights, figures, strict=True))
    difference = any(w < 0 or f.of == 'difference' for w, f in pairs)
    return BootstrapResult({key: sum(w * f.values[key] for w, f in pairs) for key in keys},
                   {key: sum(w * f.draws[key] for w, f in pairs) for key in keys},
                   {key: figures[0].counts[key] for key in keys}, {},
                   shrunk={key: sum(w * f.shrunk[key] for w, f in pairs) for key in BIASED_UPWARDS
                           if all(key in f.shrunk for f in figures)},
                   units={key: min(f.units[key] for f in figures) for key in keys if all(key in f.units for f in figures)},
                   of='difference' if difference else 'mean')


def drawn_units(by_patient: bool, draws: int, stratified: bool = False, seeds: bool = False) -> dict[str, Any]:
    """What the draws of a result were: {'unit': 'images' or 'patients', 'within_classes', 'seeds' (covered as well), 'draws'}."""
    return {'unit': 'patients' if by_patient else 'images', 'within_classes': stratified, 'seeds': seeds, 'draws': draws}


def bootstrap_metrics(table: PredictionTable, draws: int = 1000, seed: int = 0, ordered: bool = False,
                      class_count: Sequence[int] | None = None, levels: Sequence[float] = (), referable: int = 0,
                      stratified: bool = False) -> dict[str, dict]:
    """All figures of one labelled `PredictionTable` with 95 % intervals, by patient where there is a `patient_id`: see `as_cells`;
    'drawn' tells what was drawn, 'chance' what answers by chance reach. Fractions; kappa is None unless `ordered`, groups are empty
    without `class_count`."""
    options = {'ordered': ordered, 'class_count': class_count, 'levels': levels, 'referable': referable}
    figures, = bootstrap_figures([table], draws, seed, stratified, **options)
    drawn = drawn_units(table.patient_ids is not None, draws, stratified)
    return {'drawn': drawn, 'chance': chance_levels(np.bincount(labels_of(table)))} | as_cells(figures)
