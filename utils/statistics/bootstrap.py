"""Bootstrap 95 % confidence intervals of all scores: images or patients are resampled with replacement.

The kind of interval of each score was chosen by its coverage in simulations: see `benchmarks/coverage.py`."""
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from utils.common import InputError, counted, preview, progress
from utils.prediction.predictions import PredictionTable
from utils.statistics.weighted_metrics import WeightedMetrics, chance_levels, labels_of

WEIGHTS_IN_MEMORY = 2 ** 21  # weights in memory at a time
Z = 1.959963984540054  # 97.5th percentile of the standard normal distribution
ROUNDING = 1e-12  # smaller differences of fractions are rounding errors
INTERVALS = {
    'percentile': 'bootstrap percentile interval',
    'wilson': 'Wilson score interval (with patients and at operating points, for the effective number of images)',
    'basic': 'basic bootstrap interval, corrected for the upward bias of calibration errors',
    'normal': 'value ± 1.96 bootstrap standard errors',
    'seeds': "bootstrap percentile interval, widened by Student's t for the variation over seeds",
}
LIMITS = {'mcc': (-1., 1.), 'kappa': (-1., 1.), 'nll': (0., np.inf), 'brier': (0., 2.), 'set_size': (0., np.inf), 'cost': (0., np.inf),
          'saved': (-np.inf, np.inf)}  # other scores: 0 to 1
STRATIFIED = 'resample within each class, for test sets with class counts fixed by design (default: resample all images or patients)'
BIASED_UPWARDS = (('metrics', 'ece'), ('metrics', 'classwise_ece'))  # sums of absolute values: noise increases them


class BootstrapResult(NamedTuple):
    """Scores of one file and of its bootstrap resamples, with the keys of `WeightedMetrics`. Files with the same images share resamples."""
    values: dict  # key -> float
    draws: dict  # key -> float64 (draws,): score of each resample
    counts: dict  # key -> number of images it is computed from
    thresholds: dict  # key of an operating point -> threshold
    shrunk: Mapping = MappingProxyType({})  # key of BIASED_UPWARDS -> float64 (draws,); see `WeightedMetrics.with_shrunk`
    units: Mapping = MappingProxyType({})  # key of a proportion -> number of independent units (images or patients)
    of: str = 'file'  # or 'mean', 'difference'
    with_seeds: bool = False  # the draws cover training variance as well; see `folds.mean_over_seeds`

    def cell(self, key: tuple, n: int | None = None) -> dict[str, Any]:
        """`cell` of one score, with the kind of interval that has the best coverage. `n`: number of images, by default that of `counts`."""
        value, draws, n = self.values[key], self.draws[key], self.counts[key] if n is None else n
        low, high = LIMITS.get(key[1] if key[0] == 'metrics' else key[2], (0., 1.))
        if self.of == 'difference':
            varies = (np.abs(draws - value) > ROUNDING).any()
            return clipped(cell(value, draws, n, 'seeds' if self.with_seeds and varies else 'normal'), low - high, high - low)
        if key in BIASED_UPWARDS:
            return clipped(cell(value, draws, n, 'basic', shrunk=self.shrunk.get(key)), low, high)
        units = self.units.get(key)
        at_end = min(value, 1 - value) < ROUNDING  # all draws are the same at 0 and 1
        if units and (self.of == 'file' or at_end):
            exact = units == self.counts[key] and key[0] != 'operating_points'
            return cell(value, draws, n, 'wilson', units=units if exact or at_end else effective_n(value, draws, n, units))
        return clipped(cell(value, draws, n, 'seeds' if self.with_seeds else 'percentile'), low, high)


def unit_of_images(patient_ids: list | None, n_images: int) -> np.ndarray:
    """Int (N,): number of the patient of each image, from 0. Without patients, each image is a separate unit."""
    return np.arange(n_images) if patient_ids is None else np.unique(patient_ids, return_inverse=True)[1]


def weights_of_draws(labels: np.ndarray, patient_ids: list | None = None, draws: int = 1000, seed: int | Sequence[int] = 0,
                     stratified: bool = False) -> Iterator[np.ndarray]:
    """Yield blocks of bootstrap weights, float64 (N, B) with `draws` columns in total: how often each resample contains each image.

    A resample has as many images as the test set. With `patient_ids` (N,), whole patients are resampled, because the images of a patient
    are correlated. A resample may miss a rare class. The scores of that class are then NaN, and means over the classes ignore it.
    (Resampling until every class is present has lower coverage, and is infeasible for many classes with one image each.)

    `stratified` is for test sets with class counts fixed by design: a resample has as many images of each class as the test set. A patient
    belongs to the stratum of the rarest class among their images.
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
    """Raise `InputError` unless `table` has the `class_names` of `source` in the same order, since labels are indices into them."""
    if table.class_names == class_names:
        return
    if len(table.class_names) != len(class_names):
        shorter, longer = sorted(((table.class_names, table.path), (class_names, source)), key=lambda pair: len(pair[0]))
        absent = preview([f'p_{name}' for name in longer[0] if name not in shorter[0]])
        what = f'{len(table.class_names)} and {len(class_names)} classes, {shorter[1]} lacks {absent}'
    else:
        c, a, b = next((c, *pair) for c, pair in enumerate(zip(table.class_names, class_names, strict=True)) if pair[0] != pair[1])
        order = ' (the same names in another order)' if sorted(table.class_names) == sorted(class_names) else ''
        what = f"class {c} is '{a}' and '{b}'{order}"
    raise InputError(f'{table.path} and {source} differ in their classes: {what}. Use predictions of networks with the same classes in '
                     'the same order')


def align(tables: Sequence[PredictionTable]) -> list[PredictionTable]:
    """Sort the rows of all tables as in the first. Raises `InputError` unless images, classes and labels are the same. Labels are compared
    only between tables that have them."""
    first, result = tables[0], []
    place = {image: i for i, image in enumerate(first.image_ids)}
    for table in tables:
        if set(table.image_ids) != place.keys():
            raise InputError(f'{table.path} and {first.path} do not contain the same images')
        check_classes(table, first.class_names, first.path)
        order = np.argsort([place[image] for image in table.image_ids])
        labels = None if table.labels is None else table.labels[order]
        table = table._replace(image_ids=first.image_ids, labels=labels, preds=table.preds[order], probs=table.probs[order],
                               patient_ids=table.patient_ids and [table.patient_ids[i] for i in order],
                               further=None if table.further is None else table.further.iloc[order].reset_index(drop=True))
        if labels is not None and first.labels is not None and len(wrong := np.flatnonzero(labels != first.labels)):
            raise InputError(f"{table.path} and {first.path} have different labels for {counted(len(wrong), 'image')}, first for "
                             f'{first.image_ids[wrong[0]]}: {labels[wrong[0]]} and {first.labels[wrong[0]]} '
                             '(images of different folds need different names)')
        result.append(table)
    return result


def bootstrap_figures(tables: Sequence[PredictionTable], draws: int = 1000, seed: int | Sequence[int] = 0, stratified: bool = False,
                      **options: Any) -> list[BootstrapResult]:
    """Compute the `BootstrapResult` of each of the labelled `tables` of the same images. Resample i has the same images in all of them, so
    differences and means of their `draws` are paired. `stratified`: see `weights_of_draws`; `options`: of `WeightedMetrics`."""
    tables, result = align(tables), []
    patients = next((table.patient_ids for table in tables if table.patient_ids), None)
    unit = unit_of_images(patients, len(tables[0].preds))
    with progress(draws * len(tables), 'bootstrap', unit='resample') as bar:
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
            if stratified:  # the accuracy is then a weighted mean of recalls rather than a binomial proportion
                units.pop(('metrics', 'acc'))
            counts = {key: metrics.count(key) for key in values}
            result.append(BootstrapResult(values, of_draws, counts, metrics.thresholds(), shrunk=shrunk, units=units))
    return result


def _percentiles(defined: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(defined, (2.5, 97.5)).tolist()
    return low, high


def interval(draws: np.ndarray) -> tuple[float, float] | tuple[None, None]:
    """2.5th and 97.5th percentiles of the draws that are defined; (None, None) if none is."""
    defined = draws[np.isfinite(draws)]
    return _percentiles(defined) if len(defined) else (None, None)


def wilson(proportion: float, n: float) -> tuple[float, float]:
    """(low, high) of the Wilson score interval (Wilson, JASA 1927). `n` need not be an integer."""
    middle, half = proportion + Z ** 2 / (2 * n), Z * np.sqrt(proportion * (1 - proportion) / n + Z ** 2 / (4 * n ** 2))
    low, high = (float(min(max(end / (1 + Z ** 2 / n), 0), 1)) for end in (middle - half, middle + half))
    return low, high


def effective_n(proportion: float, draws: np.ndarray, n: int, units: int) -> float:
    """Number of independent images, 1 to `n`, for which a proportion would have the variance of `draws`. If the draws do not vary, as for a
    single patient, it is the number of `units`."""
    defined = draws[np.isfinite(draws)]
    if not len(defined) or np.ptp(defined) < ROUNDING:
        return units
    return float(np.clip(proportion * (1 - proportion) / defined.var(), 1, n))


def cell(value: float, draws: np.ndarray, n: int, kind: str = 'percentile', shrunk: np.ndarray | None = None,
         units: float | None = None) -> dict[str, Any]:
    """{'value', 'low', 'high', 'n', 'interval'}: fractions, None where undefined; 'interval' is the `kind`, a key of INTERVALS.

    There is no interval if all or nearly all draws are equal, as for a single image. The exception is the difference between two files with
    the same predictions, which is exactly 0. `units`: the n of 'wilson', by default `n`; `shrunk`: draws for the lower end of 'basic', by
    default `draws`.
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
                low, high = max(2 * value - largest, 0.), max(2 * value - low, width)  # cut at 0, but as wide as the percentile interval
            if kind != 'normal' and high - low < ROUNDING:
                low = high = None
    return {'value': float(value) if np.isfinite(value) else None, 'low': low, 'high': high, 'n': n,
            'interval': None if low is None else kind}


def clipped(cell: dict[str, Any], low: float, high: float) -> dict[str, Any]:
    """The cell with its interval clipped to `low`..`high`."""
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
    """The sum of `weights` x `figures`: (1/m, ..., 1/m) gives their mean, (1, -1) a paired difference. Only keys that all of them have are
    kept. The mean of a single result is that result, so its intervals are those of a file."""
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
    """Facts about the resampling: {'unit': 'images' or 'patients', 'within_classes', 'seeds' (whether they are covered), 'draws'}."""
    return {'unit': 'patients' if by_patient else 'images', 'within_classes': stratified, 'seeds': seeds, 'draws': draws}


def bootstrap_metrics(table: PredictionTable, draws: int = 1000, seed: int = 0, ordered: bool = False,
                      class_count: Sequence[int] | None = None, levels: Sequence[float] = (), referable: int = 0,
                      stratified: bool = False) -> dict[str, dict]:
    """All scores of one labelled `PredictionTable` with 95 % intervals, as fractions: see `as_cells`. Patients are resampled if the table
    has patient ids. The result also has 'drawn' (see `drawn_units`) and 'chance' (see `chance_levels`). Kappa is None unless `ordered`,
    groups are empty without `class_count`."""
    options = {'ordered': ordered, 'class_count': class_count, 'levels': levels, 'referable': referable}
    figures, = bootstrap_figures([table], draws, seed, stratified, **options)
    drawn = drawn_units(table.patient_ids is not None, draws, stratified)
    return {'drawn': drawn, 'chance': chance_levels(np.bincount(labels_of(table)))} | as_cells(figures)
