"""Evaluation of several predictions csvs: folds of one data set, or repeats on the same images."""
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from utils.common import InputError
from utils.prediction.predictions import PredictionTable
from utils.statistics.bootstrap import BootstrapResult, align, as_cells, bootstrap_figures, check_classes, combine, drawn_units
from utils.statistics.weighted_metrics import chance_levels, labels_of

PAIRINGS = 8  # random orders in which Student's t is added to the image draws
ENDING = re.compile(r'\.(jpe?g|jfif|png|tiff?|bmp|gif|webp|ppm)$', re.I)  # may be missing in image ids


def are_repeats(tables: Sequence[PredictionTable]) -> bool:
    """True if all tables have the same images (repeats, seeds, methods); False if no image is in two of them (folds). Anything between
    raises `InputError`. The ids a and a.jpg are the same image for the second check."""
    if len({frozenset(table.image_ids) for table in tables}) == 1:
        return True
    sets = [frozenset(ENDING.sub('', image) for image in table.image_ids) for table in tables]
    if sum(map(len, sets)) > len(frozenset().union(*sets)):
        paths = ', '.join(table.path for table in tables)
        raise InputError(f'{paths} share some of their images. Give either folds without common images (a and a.jpg count as one image), '
                         'or repeats on the same images. For runs x folds x seeds use python -m tools.compare_experiments')
    return False


def pool(tables: Sequence[PredictionTable]) -> PredictionTable:
    """Pool the folds `tables` into one table, in which each image is predicted by the network that was not trained on it. Patient ids are
    kept if all files have them."""
    first = tables[0]
    for table in tables[1:]:
        check_classes(table, first.class_names, first.path)
    patients = None if any(t.patient_ids is None for t in tables) else list(chain.from_iterable(t.patient_ids or [] for t in tables))
    return first._replace(image_ids=list(chain.from_iterable(t.image_ids for t in tables)), patient_ids=patients,
                          path=' + '.join(t.path for t in tables),
                          further=None if any(t.further is None for t in tables) else
                          pd.concat([t.further for t in tables], ignore_index=True),
                          labels=np.concatenate([labels_of(t) for t in tables]), preds=np.concatenate([t.preds for t in tables]),
                          probs=np.concatenate([t.probs for t in tables]))


def ensemble(tables: Sequence[PredictionTable]) -> PredictionTable:
    """Average the probabilities of tables of the same images, in the order of the first; the prediction is the most probable class. Labels
    and patient ids are those of the first table that has them."""
    tables = align(tables)
    probs = np.mean([table.probs for table in tables], axis=0)
    labels, patients = (next((values for table in tables if (values := getattr(table, name)) is not None), None)
                        for name in ('labels', 'patient_ids'))
    return tables[0]._replace(probs=probs, preds=probs.argmax(axis=1), labels=labels, patient_ids=patients)


# How several files are interpreted, judging by their images alone
FOLDS = 'The files have no images in common: pooled as the folds of one cross-validation, in which each image counts once'
REPEATS = 'The files have the same images: averaged as repeats of one method'
PAIR = 'Both files have the same images: compared image by image as two methods'


def spread(values: Iterable[float]) -> dict[str, float | None]:
    """One value for each file (NaN is ignored) -> {'mean', 'sd' (with n - 1), 'min', 'max'}, None where undefined"""
    defined = np.array([value for value in values if np.isfinite(value)])
    if not len(defined):
        return dict.fromkeys(('mean', 'sd', 'min', 'max'))
    return {'mean': float(defined.mean()), 'sd': float(defined.std(ddof=1)) if len(defined) > 1 else None,
            'min': float(defined.min()), 'max': float(defined.max())}


def mean_of(figures: Sequence[BootstrapResult]) -> BootstrapResult:
    return combine(figures, [1 / len(figures)] * len(figures))


def _training_noise(test_sets, key):
    """`test_sets`: for each set of images, the `BootstrapResult` of each run on it.

    -> three numbers for the mean over sets of the mean over runs: its variance estimated from the spread of the runs, the part of this
    variance that the image draws also contain, and the degrees of freedom.

    The spread is pooled over the sets, so it also applies to a set with a single run.
    """
    spread = images = 0.
    for runs in test_sets:
        values = np.array([run.values[key] for run in runs])
        errors = np.array([run.draws[key] for run in runs]) - values[:, None]
        spread += ((values - values.mean()) ** 2).sum()
        by_draw = ((errors - errors.mean(axis=0)) ** 2).sum(axis=0)
        images += by_draw[np.isfinite(by_draw)].mean() if np.isfinite(by_draw).any() else 0.
    freedom = sum(len(runs) - 1 for runs in test_sets)
    share = sum(1 / len(runs) for runs in test_sets) / len(test_sets) ** 2
    return share * spread / freedom, share * images / freedom, freedom


@lru_cache(maxsize=8)
def _student(freedom, n):
    """-> float64 (2 x PAIRINGS, n). Each row has `n` evenly spaced quantiles of Student's t, so its percentiles are those of t, in a random
    order that is the same for every score and independent of the images. For each row r there is a row -r. So the interval of a difference
    does not depend on which method is subtracted from the other."""
    level, rng = np.linspace(0, 1, n).clip(.5 / n, 1 - .5 / n), np.random.default_rng(0)  # the ends would be infinite
    rows = rng.permuted(np.tile(stdtrit(freedom, level), (PAIRINGS, 1)), axis=1)
    return np.concatenate([rows, -rows])


def _with_training_noise(draws, noises):
    """Image draws of a score (draws,), `_training_noise` of each of its methods -> draws that cover seeds as well: (2 x PAIRINGS x draws,),
    or those of the images if all runs agree"""
    spread, in_draws, freedom = (np.array(column) for column in zip(*noises, strict=True))
    defined = draws[np.isfinite(draws)]
    if not spread.sum() > 0 or not len(defined):  # all runs agree, or the score is undefined
        return draws
    images, twice = defined.var(), np.minimum(in_draws, spread).sum()
    shared = np.sqrt(max(0, 1 - twice / images)) if images > 0 else 1
    scale, welch = np.sqrt(spread.sum()), spread.sum() ** 2 / (spread ** 2 / freedom).sum()
    return (defined.mean() + shared * (draws - defined.mean()) + scale * _student(welch, len(draws))).ravel()


def mean_over_seeds(methods: Sequence[Sequence[Sequence[BootstrapResult]]], signs: Sequence[float] = (1,),
                    with_seeds: bool = True) -> BootstrapResult:
    """The sum of `signs` x the mean of each method, with draws that cover images and, if possible, seeds (field `with_seeds`).

    `methods`: for each method a list of test sets (folds), and for each set the `BootstrapResult` of its runs, which differ only in the
    seed. All methods have the same sets. Means are taken over the seeds of each set, then over the sets, so folds have equal weight however
    many seeds they have. Seeds are covered if `with_seeds` is true and each method has a set with at least two runs.

    Resampling the R seeds would give intervals that are too narrow, since two to five values say little about their variance. Instead,
    Student's t is added to the image draws, with scale s / sqrt(R) and R - 1 degrees of freedom. Here s is the standard deviation over the
    seeds, pooled over the sets of a method; differences use the Welch-Satterthwaite equation. Seeds of two methods are independent, because
    equal seed numbers do not make two different trainings more similar. The spread s includes image errors that the runs do not share. The
    image draws include them too, so they are shrunk by that part. The result is never narrower than image draws alone.
    """
    total = combine([mean_of([mean_of(runs) for runs in test_sets]) for test_sets in methods], signs)
    if not with_seeds or any(all(len(runs) < 2 for runs in test_sets) for test_sets in methods):
        return total
    noises = {key: [_training_noise(test_sets, key) for test_sets in methods] for key in total.draws}
    draws, shrunk = ({key: _with_training_noise(drawn, noises[key]) for key, drawn in of.items()} for of in (total.draws, total.shrunk))
    return total._replace(draws=draws, shrunk=shrunk, with_seeds=True)


def evaluate_files(tables: Sequence[PredictionTable], draws: int = 1000, seed: int = 0, stratified: bool = False,
                   with_seeds: bool = True, **options: Any) -> dict[str, Any]:
    """Evaluate labelled tables: `bootstrap.as_cells` of one file, of pooled folds, or of the mean of repeats.

    The result also has 'of' (which of these it is: file, pooled or mean), 'drawn' (see `bootstrap.drawn_units`) and 'chance' (see
    `chance_levels`). With several files it has 'assumed' (how they are interpreted), 'runs' (the cells of each file) and 'spread'
    ({metric: mean, sd, min, max} over the files). Two repeats also have 'difference': second - first, paired.

    Intervals of the mean of at least three repeats cover seeds unless `with_seeds` is False. All other intervals cover images only: two
    files are two methods with one run each. `options`: of `WeightedMetrics`.
    """
    def bootstrap(of):
        return bootstrap_figures(of, draws, seed, stratified=stratified, **options)

    result: dict[str, Any]
    seeds = False
    if are_repeats(tables):
        figures, labels, by_patient = bootstrap(tables), labels_of(tables[0]), any(table.patient_ids is not None for table in tables)
        if len(tables) == 1:
            result = {'of': 'file'} | as_cells(figures[0])
        elif len(tables) == 2:
            result = {'of': 'mean', 'assumed': PAIR} | as_cells(mean_of(figures)) | {'difference': as_cells(combine(figures, (-1, 1)))}
        else:
            mean = mean_over_seeds([[figures]], with_seeds=with_seeds)
            seeds, result = mean.with_seeds, {'of': 'mean', 'assumed': REPEATS} | as_cells(mean)
    else:
        pooled = pool(tables)
        labels, by_patient = labels_of(pooled), pooled.patient_ids is not None
        result = {'of': 'pooled', 'assumed': FOLDS} | as_cells(bootstrap([pooled])[0])
        figures = [bootstrap([table])[0] for table in tables]
    result |= {'chance': chance_levels(np.bincount(labels)), 'by_patient': by_patient,
               'drawn': drawn_units(by_patient, draws, stratified, seeds)}
    if len(tables) == 1:
        return result
    result['runs'] = [{'file': table.path} | as_cells(f) for table, f in zip(tables, figures, strict=True)]
    result['spread'] = {name: spread([f.values['metrics', name] for f in figures]) for name in result['metrics']}
    return result
