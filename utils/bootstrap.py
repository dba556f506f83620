"""95 % intervals of every figure by drawing images (or patients) with replacement, many draws at a time."""
from typing import NamedTuple

import numpy as np

from .common import InputError, progress
from .statistics import WeightedMetrics

CELLS = 2 ** 21  # weights in memory at a time


class Figures(NamedTuple):
    """One file's figures, keyed as in `WeightedMetrics`; those of files with the same images share their draws."""
    values: dict  # key -> float
    draws: dict  # key -> float64 (draws,)
    counts: dict  # key -> images behind it
    thresholds: dict  # of operating points


def weights_of_draws(labels, patient_ids=None, draws=1000, seed=0):
    """Yields blocks of whole-number weights, float64 (N, B), in all `draws` columns: how often each image is drawn.

    Within each class as many images are drawn as it has, so a rare class is neither lost nor doubled. With `patient_ids`
    (N,) whole patients are drawn, since their images are alike; a patient counts to the rarest of the classes that they have.
    """
    labels, rng = np.asarray(labels), np.random.default_rng(seed)
    unit = np.arange(len(labels)) if patient_ids is None else np.unique(patient_ids, return_inverse=True)[1]
    size = np.bincount(labels)[labels]
    by_rarity = np.lexsort((labels, size))
    stratum = np.empty(unit.max() + 1, np.int64)
    stratum[unit[by_rarity[::-1]]] = labels[by_rarity[::-1]]  # the last assignment stays: the rarest class
    members = [np.flatnonzero(stratum == c) for c in np.unique(stratum)]
    block = max(1, CELLS // len(labels))
    for done in range(0, draws, block):
        b = min(block, draws - done)
        weights = np.empty((len(stratum), b))
        for units in members:
            drawn = rng.integers(len(units), size=(b, len(units))) + np.arange(b)[:, None] * len(units)
            weights[units] = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(b, -1).T
        yield weights[unit]


def check_classes(table, class_names, source):
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


def align(tables):
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


def bootstrap_figures(tables, draws=1000, seed=0, **options):
    """`Figures` of each of the labelled `tables`, which hold the same images: draw i is the same images in all of them, so
    that differences and means of their `draws` are paired. `options`: of `WeightedMetrics`."""
    tables, result = align(tables), []
    patients = next((table.patient_ids for table in tables if table.patient_ids), None)
    with progress(draws * len(tables), 'bootstrap draws', unit='draw') as bar:
        for table in tables:
            metrics = WeightedMetrics(table, **options)
            values = {key: float(value[0]) for key, value in metrics(np.ones((len(table.labels), 1))).items()}
            blocks = []
            for weights in weights_of_draws(table.labels, patients, draws, seed):
                blocks.append(metrics(weights))
                bar.update(weights.shape[1])
            result.append(Figures(values, {key: np.concatenate([block[key] for block in blocks]) for key in values},
                                  {key: metrics.count(key) for key in values}, metrics.thresholds()))
    return result


def interval(draws):
    """2.5th and 97.5th percentile of the defined draws; None where there is none."""
    defined = draws[np.isfinite(draws)]
    return tuple(np.percentile(defined, (2.5, 97.5)).tolist()) if len(defined) else (None, None)


def cell(value, draws, n):
    """{'value', 'low', 'high', 'n'}: fractions, None where undefined. One image has a value, but no interval."""
    low, high = interval(draws) if np.isfinite(value) and n > 1 else (None, None)
    return {'value': float(value) if np.isfinite(value) else None, 'low': low, 'high': high, 'n': n}


def nested(figures):
    """`Figures` -> {'metrics': {name: cell}, 'classes': {class: {metric: cell}}, 'groups': {group: {metric: cell}},
    'operating_points': {positives: {name: {level: cell with 'threshold'}}}}."""
    result = {'metrics': {}, 'classes': {}, 'groups': {}, 'operating_points': {}}
    for key, value in figures.values.items():
        place = result
        for part in key[:-1]:
            place = place.setdefault(str(part), {})
        place[str(key[-1])] = cell(value, figures.draws[key], figures.counts[key])
        if key in figures.thresholds:
            place[str(key[-1])]['threshold'] = figures.thresholds[key]
    return result


def combine(figures, weights):
    """The sum of `weights` x `figures`: (1/m, ..., 1/m) is their mean, (1, -1) a paired difference. Keys are those of all."""
    keys = [key for key in figures[0].values if all(key in other.values for other in figures)]
    pairs = list(zip(weights, figures, strict=True))
    return Figures({key: sum(w * f.values[key] for w, f in pairs) for key in keys},
                   {key: sum(w * f.draws[key] for w, f in pairs) for key in keys},
                   {key: figures[0].counts[key] for key in keys}, {})


def bootstrap_metrics(table, draws=1000, seed=0, ordered=False, class_count=None, levels=(), referable=0):
    """All figures of one labelled `PredictionTable` with 95 % percentile intervals (stratified, by patient where there is
    a `patient_id`): see `nested`. Fractions; kappa is None unless `ordered`, groups are empty without `class_count`."""
    options = {'ordered': ordered, 'class_count': class_count, 'levels': levels, 'referable': referable}
    return nested(bootstrap_figures([table], draws, seed, **options)[0])
