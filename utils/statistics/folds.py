"""Several files of predictions: folds of one set, or repeats on the same images."""
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
from scipy.special import stdtrit

from utils.common import InputError
from utils.prediction.predictions import PredictionTable
from utils.statistics.bootstrap import BootstrapResult, align, as_cells, bootstrap_figures, check_classes, combine, drawn_units
from utils.statistics.weighted_metrics import chance_levels, labels_of

ENDING = re.compile(r'\.(jpe?g|jfif|png|tiff?|bmp|gif|webp|ppm)$', re.I)  # ids may have it or not


def are_repeats(tables: Sequence[PredictionTable]) -> bool:
    """True: all hold the same images (repeats, seeds, methods). False: no image stands in two of them (folds), also not once as a and once
    as a.jpg. Else `InputError`."""
    if len({frozenset(table.image_ids) for table in tables}) == 1:
        return True
    sets = [frozenset(ENDING.sub('', image) for image in table.image_ids) for table in tables]
    if sum(map(len, sets)) > len(frozenset().union(*sets)):
        paths = ', '.join(table.path for table in tables)
        raise InputError(f'{paths} share some of their images: give folds, which have no image in common (a and a.jpg are one), or '
                         'repeats on the same images (runs x folds x seeds: python -m tools.compare_experiments)')
    return False


def pool(tables: Sequence[PredictionTable]) -> PredictionTable:
    """The folds `tables` as one table: each image as predicted by the network that was not trained on it. Patients are kept
    where all files name them."""
    first = tables[0]
    for table in tables[1:]:
        check_classes(table, first.class_names, first.path)
    patients = None if any(t.patient_ids is None for t in tables) else list(chain.from_iterable(t.patient_ids or [] for t in tables))
    return first._replace(image_ids=list(chain.from_iterable(t.image_ids for t in tables)), patient_ids=patients,
                          path=' + '.join(t.path for t in tables),
                          labels=np.concatenate([labels_of(t) for t in tables]), preds=np.concatenate([t.preds for t in tables]),
                          probs=np.concatenate([t.probs for t in tables]))


def ensemble(tables: Sequence[PredictionTable]) -> PredictionTable:
    """Tables of the same images, in the order of the first -> one, with the mean of the probabilities and the class of the largest.
    Labels and patients are those of the first table that has them."""
    tables = align(tables)
    probs = np.mean([table.probs for table in tables], axis=0)
    labels, patients = (next((values for table in tables if (values := getattr(table, name)) is not None), None)
                        for name in ('labels', 'patient_ids'))
    return tables[0]._replace(probs=probs, preds=probs.argmax(axis=1), labels=labels, patient_ids=patients)


# What several files are taken for, by their images alone
FOLDS = ('The files have no image in common: taken as the folds of one cross-validation and pooled; each image counts once, whichever '
         'network predicted it')
REPEATS = 'The files have the same images: taken as repeats of one method, whose mean is given'
PAIR = 'Both files have the same images: taken as two methods, compared image by image'


def spread(values: Iterable[float]) -> dict[str, float | None]:
    """Numbers of the files (NaN: undefined, left out) -> {'mean', 'sd' (n - 1), 'min', 'max'}, None where undefined."""
    defined = np.array([value for value in values if np.isfinite(value)])
    if not len(defined):
        return dict.fromkeys(('mean', 'sd', 'min', 'max'))
    return {'mean': float(defined.mean()), 'sd': float(defined.std(ddof=1)) if len(defined) > 1 else None,
            'min': float(defined.min()), 'max': float(defined.max())}


def mean_of(figures: Sequence[BootstrapResult]) -> BootstrapResult:
    return combine(figures, [1 / len(figures)] * len(figures))


def _training_noise(test_sets, key):
    """`test_sets`: for each set of images the `BootstrapResult` of each run on it.

    -> three numbers for the mean over the sets of the mean over the runs: its variance by the spread of the runs, how much of that the
    image draws contain as well, and the degrees of freedom.

    The spread is pooled over the sets, so a set with one run has that of the others.
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
    """`n` evenly spaced quantiles of Student's t, in a random order that is the same for every figure and has nothing to do with images;
    percentiles of them are those of t itself."""
    level = np.linspace(0, 1, n).clip(.5 / n, 1 - .5 / n)  # the ends would be infinite
    return np.random.default_rng(0).permutation(stdtrit(freedom, level))


def _with_training_noise(draws, noises):
    """Image draws of a figure (draws,), `_training_noise` of each method in it -> draws that cover the seeds as well."""
    spread, in_draws, freedom = (np.array(column) for column in zip(*noises, strict=True))
    defined = draws[np.isfinite(draws)]
    if not spread.sum() > 0 or not len(defined):  # the runs agree, or the figure is undefined
        return draws
    images, twice = defined.var(), np.minimum(in_draws, spread).sum()
    shared = np.sqrt(max(0, 1 - twice / images)) if images > 0 else 1
    scale, welch = np.sqrt(spread.sum()), spread.sum() ** 2 / (spread ** 2 / freedom).sum()
    return defined.mean() + shared * (draws - defined.mean()) + scale * _student(welch, len(draws))


def mean_over_seeds(methods: Sequence[Sequence[Sequence[BootstrapResult]]], signs: Sequence[float] = (1,),
                    with_seeds: bool = True) -> BootstrapResult:
    """The sum of `signs` x the mean of each method. The field `with_seeds` tells whether its draws cover other seeds as well as images.

    `methods`: for each a list of test sets (folds), for each of these the `BootstrapResult` of its runs, which differ in the seed
    alone; the sets are the same for all methods. A mean is that over the seeds of each set, then over the sets: folds count the same
    however many seeds they have. Seeds are covered where `with_seeds` and each method has a set with two runs or more; else the draws
    are of images alone.

    Drawing the R seeds again is too narrow: two to five values say little about their own variance. Instead Student's t is added to the
    image draws, with the scale s / sqrt(R) and R - 1 degrees of freedom (s: sample standard deviation over the seeds; pooled over the
    sets of a method; Welch and Satterthwaite for a difference). The seeds of two methods are independent: equal numbers make two
    different trainings no more alike. The spread s contains the errors on these images that the runs do not share. The image draws
    contain them too, so they are shrunk by that part; the result is never narrower than image draws alone.
    """
    total = combine([mean_of([mean_of(runs) for runs in test_sets]) for test_sets in methods], signs)
    if not with_seeds or any(all(len(runs) < 2 for runs in test_sets) for test_sets in methods):
        return total
    noises = {key: [_training_noise(test_sets, key) for test_sets in methods] for key in total.draws}
    draws, shrunk = ({key: _with_training_noise(drawn, noises[key]) for key, drawn in of.items()} for of in (total.draws, total.shrunk))
    return total._replace(draws=draws, shrunk=shrunk, with_seeds=True)


def evaluate_files(tables: Sequence[PredictionTable], draws: int = 1000, seed: int = 0, stratified: bool = False,
                   with_seeds: bool = True, **options: Any) -> dict[str, Any]:
    """Labelled tables -> `bootstrap.as_cells` of the one file, of the pooled folds, or of the mean of repeats; which of them
    is 'of'. 'drawn' tells what the intervals come from: {'unit': 'images' or 'patients', 'within_classes', 'seeds', 'draws'}; 'chance' what
    answers by chance reach on these images.

    Several files also have 'assumed' (what they are taken for), 'runs' (each file), 'spread' ({metric: mean, sd, min, max} over them), and
    two repeats 'difference': the second less the first, paired. Intervals of the mean of three repeats or more cover other seeds unless
    `with_seeds` is False. Two files are two methods with one run each: all their intervals cover images alone, and so do those of folds
    and of each single file. `options`: of `WeightedMetrics`.
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
