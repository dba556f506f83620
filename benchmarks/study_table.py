"""The results folder of a study: where its files are, and study.csv with a row for each set, method and seed."""
import json
import os
import statistics

import numpy as np
import pandas as pd
from filelock import FileLock

from utils.common import InputError, read_text, write_text
from utils.prediction.predictions import read_labelled
from utils.runs.formats import read_log
from utils.runs.results import results_path
from utils.statistics.weighted_metrics import WeightedMetrics, are_grades

from .study_methods import slug_of

SCORES = {'bacc': 'balanced accuracy', 'mcc': 'MCC', 'f1': 'macro-F1', 'auc': 'macro-AUC', 'nll': 'NLL', 'ece': 'ECE',
          'many': 'recall, many', 'medium': 'recall, medium', 'few': 'recall, few', 'kappa': 'quadratic kappa'}
GROUPS = ('many', 'medium', 'few')
CHOOSING = ('bacc', 'mcc', 'kappa', 'auc')  # scores of the validation set by which hyper-parameters may be chosen
KEY = ['set', 'method', 'seed']
NAME, SETTINGS = 'study.csv', 'settings.json'


def name_of(data, method, seed, stage=''):
    """-> name of a run: its folder below results/ or experiments/ of the study. `data`: name of the set"""
    return os.path.join(data, stage, slug_of(method), f'seed{seed}')


def predictions_of(folder, *run):
    """-> path of the predictions csv of the test set. `run`: arguments of `name_of`

    The file exists if the run is done. log.jsonl beside it is the log of the tested network.
    """
    return os.path.join(folder, name_of(*run), 'results_test.csv')


def key_of(score):
    """-> key of a score of `SCORES` in the results of `WeightedMetrics`"""
    return ('groups', score, 'recall') if score in GROUPS else ('metrics', score)


def scores_of(csv, class_count):
    """-> {name in `SCORES`: fraction, NaN where undefined} of a predictions csv. Only grades have a kappa.

    `class_count`: training images of each class.
    """
    table = read_labelled(csv)
    metrics = WeightedMetrics(table, ordered=are_grades(table.class_names), class_count=class_count)
    values = metrics(np.ones((len(table.preds), 1)))
    return {name: float(values[key_of(name)][0]) for name in SCORES}


def training_of(csv):
    """-> {'epoch': the one that was tested; 'seconds' of the training; 'images_per_second': median of the epochs; 'val_bacc' and the like:
    scores of CHOOSING on the validation set, without test-time augmentation}

    They come from the results file and log.jsonl beside the predictions `csv`. The log of a two-stage method is that of stage two.
    """
    history, tested = read_log(os.path.dirname(csv)), json.loads(read_text(results_path(csv)))['checkpoint']
    chosen = next(record['val'] for record in history if record['epoch'] == tested['epoch'])
    return {'epoch': tested['epoch'], 'seconds': sum(record['seconds'] for record in history),
            'images_per_second': statistics.median(record['images_per_second'] for record in history),
            **{f'val_{score}': chosen[score] for score in CHOOSING}}


def lock_of(folder):
    """-> a lock for the files that all runs of a study write, also in several processes"""
    return FileLock(os.path.join(folder, '.lock'))


def add_row(folder, row):
    """Add a row to study.csv in `folder`, or replace the row of the same set, method and seed."""
    with lock_of(folder):
        add_rows(os.path.join(folder, NAME), pd.DataFrame([row]).round(5))


def add_rows(path, new):
    """Add the rows of the DataFrame `new` to the csv `path`. Rows of the same set, method and seed are replaced."""
    if os.path.exists(path):
        new = pd.concat([read_table(path), new]).drop_duplicates(KEY, keep='last')
    write_text(path, new.sort_values(KEY).to_csv(index=False))


def read_table(path):
    """-> DataFrame of a study.csv. Scores are fractions, NaN where undefined."""
    if not os.path.isfile(path):
        raise InputError(f'there is no {path}: run benchmarks.study first')
    table = pd.read_csv(path, dtype={'set': str, 'method': str})
    if missing := [name for name in [*KEY, 'bacc'] if name not in table]:
        raise InputError(f"{path} is not the table of a study: it has no column {', '.join(missing)}")
    return table
