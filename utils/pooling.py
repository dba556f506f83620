"""Several files of predictions: folds of one set, or repeats on the same images."""
import re
from itertools import chain

import numpy as np

from .bootstrap import align, bootstrap_figures, check_classes, combine, nested
from .common import InputError

ENDING = re.compile(r'\.(jpe?g|jfif|png|tiff?|bmp|gif|webp|ppm)$', re.I)  # ids may have it or not


def are_repeats(tables):
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


def pool(tables):
    """The folds `tables` as one table: each image as predicted by the network that was not trained on it. Patients are kept
    where all files name them."""
    first = tables[0]
    for table in tables[1:]:
        check_classes(table, first.class_names, first.path)
    patients = None if any(t.patient_ids is None for t in tables) else list(chain.from_iterable(t.patient_ids for t in tables))
    return first._replace(image_ids=list(chain.from_iterable(t.image_ids for t in tables)), patient_ids=patients,
                          path=' + '.join(t.path for t in tables),
                          **{name: np.concatenate([getattr(t, name) for t in tables]) for name in ('labels', 'preds', 'probs')})


def ensemble(tables):
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


def spread(values):
    """Numbers of the files (NaN: undefined, left out) -> {'mean', 'sd' (n - 1), 'min', 'max'}, None where undefined."""
    defined = np.array([value for value in values if np.isfinite(value)])
    if not len(defined):
        return dict.fromkeys(('mean', 'sd', 'min', 'max'))
    return {'mean': float(defined.mean()), 'sd': float(defined.std(ddof=1)) if len(defined) > 1 else None,
            'min': float(defined.min()), 'max': float(defined.max())}


def evaluate_files(tables, draws=1000, seed=0, **options):
    """Labelled tables -> `bootstrap.nested` of the one file, of the pooled folds, or of the mean of repeats; which of them
    is 'of', and 'by_patient' tells what was drawn.

    Several files also have 'assumed' (what they are taken for), 'runs' (each file), 'spread' ({metric: mean, sd, min, max} over them), and
    two repeats 'difference': the second less the first, paired. `options`: of `statistics.WeightedMetrics`.
    """
    if are_repeats(tables):
        figures = bootstrap_figures(tables, draws, seed, **options)
        result: dict = {'of': 'mean', 'by_patient': any(table.patient_ids is not None for table in tables)}
        if len(tables) == 1:
            return result | {'of': 'file'} | nested(figures[0])
        result |= {'assumed': PAIR if len(tables) == 2 else REPEATS} | nested(combine(figures, [1 / len(tables)] * len(tables)))
        if len(tables) == 2:
            result['difference'] = nested(combine(figures, (-1, 1)))
    else:
        pooled = pool(tables)
        result = {'of': 'pooled', 'assumed': FOLDS, 'by_patient': pooled.patient_ids is not None}
        result |= nested(bootstrap_figures([pooled], draws, seed, **options)[0])
        figures = [bootstrap_figures([table], draws, seed, **options)[0] for table in tables]
    result['runs'] = [{'file': table.path} | nested(f) for table, f in zip(tables, figures, strict=True)]
    result['spread'] = {name: spread([f.values['metrics', name] for f in figures]) for name in result['metrics']}
    return result
