"""The published form of a study: a csv with its rows, and an npz beside it with the bootstrap draws of the scores that are compared.

The draws give the intervals of the report without the predictions. Parts of a study that ran on several machines can be published in the
same pair of files.
"""
import json
import os
import zipfile

import numpy as np

from utils.common import InputError, read_text, whole_file
from utils.prediction.predictions import read_labelled
from utils.statistics.bootstrap import BootstrapResult, bootstrap_figures
from utils.statistics.weighted_metrics import are_grades

from .study_table import KEY, NAME, SETTINGS, add_rows, key_of, predictions_of, read_table

COMPARED = ('bacc', 'mcc', 'nll', 'kappa')


def read_figures(folder, table, draws=1000):
    """-> {method: {seed: BootstrapResult}} for the rows `table` of one set. All files have the same resamples."""
    counts, found = json.loads(read_text(os.path.join(folder, SETTINGS)))['sets'], {}
    for name, method, seed in table[KEY].itertuples(index=False):
        predictions = read_labelled(predictions_of(folder, name, method, seed))
        found.setdefault(method, {})[seed], = bootstrap_figures(
            [predictions], draws, ordered=are_grades(predictions.class_names), class_count=counts[name])
    return found


def npz_of(csv):
    return os.path.splitext(csv)[0] + '.npz'


def entry(*run):
    """-> name of an array in the npz. `run`: set, method and seed for the draws of a run, or the set alone for its number of images"""
    return '|'.join(map(str, run))


def read_arrays(csv):
    """-> {name: array} of the npz beside `csv`, empty if there is none. Raises `InputError` if it cannot be read."""
    path = npz_of(csv)
    if not os.path.exists(path):
        return {}
    try:
        with np.load(path) as saved:
            return dict(saved)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as err:
        raise InputError(f'{path} cannot be read ({err}): restore it, or delete it to print the tables without intervals') from err


def publish(folder, csv):
    """Add the rows of the results `folder` to `csv`, and the deviations of their draws from the score, as float16, to its npz.

    Rows and draws of the same set, method and seed are replaced.
    """
    table, arrays = read_table(os.path.join(folder, NAME)), read_arrays(csv)
    for name, rows in table.groupby('set'):
        for method, of_seed in read_figures(folder, rows).items():
            for seed, result in of_seed.items():
                deviations = [result.draws[key_of(score)] - result.values[key_of(score)] for score in COMPARED
                              if np.isfinite(result.values[key_of(score)])]
                arrays[entry(name, method, seed)] = np.array(deviations, np.float16)
                arrays[entry(name)] = np.array(result.counts[key_of('bacc')])
    with whole_file(npz_of(csv)) as f:
        np.savez_compressed(f, **arrays)
    add_rows(csv, table)


def published_figures(csv, table):
    """`read_figures` from the npz beside `csv`, with the scores of COMPARED only. Runs without draws are left out.

    Only grades have draws of kappa, the last one, and only if they were published since it is compared.
    """
    arrays, found = read_arrays(csv), {}
    for row in table.to_dict('records'):
        if (deviations := arrays.get(entry(*(row[part] for part in KEY)))) is None:
            continue
        values = {key_of(score): row[score] for score in COMPARED[:len(deviations)]}
        draws = {key: values[key] + of_score.astype(np.float64) for key, of_score in zip(values, deviations, strict=True)}
        counts = dict.fromkeys(values, int(arrays[entry(row['set'])]))
        found.setdefault(row['method'], {})[row['seed']] = BootstrapResult(values, draws, counts, {})
    return found
