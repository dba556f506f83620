"""What a report is made from: a run folder below experiments/ and its folder below results/, found from either."""
import os
import re
from typing import NamedTuple

import numpy as np

from utils.common import InputError, progress
from utils.prediction.predictions import PredictionTable, read_predictions
from utils.runs.formats import read_config, read_log
from utils.runs.paths import counterpart, is_run, name_below, split_path
from utils.runs.provenance import replaced_network, text_report, text_report_path
from utils.statistics.bootstrap import check_classes
from utils.statistics.comparison import CORRECTIONS

CSVS = ('results_test.csv', 'results_val.csv')  # the first one that is there


class Run(NamedTuple):
    name: str
    folder: str | None  # experiments/NAME
    results: str | None  # results/NAME
    config: dict | None
    history: list  # records of log.jsonl
    stages: list  # (name of the run, its records up to the epoch that the next stage starts from), the last is this run
    table: PredictionTable | None  # with labels
    facts: list  # what the test script said about the predictions: checkpoint, csv, corrections
    seen_as: str | None  # 'train' or 'val' where the network saw the tested csv as that


def _folders_below(path):
    """Run folders and folders of results at or below `path`, sorted by name."""
    found = []
    for folder, below, files in os.walk(path):
        below[:] = [] if is_run(folder) else sorted(below)
        if is_run(folder) or any(re.fullmatch(r'results_.*\.csv', file) for file in files):
            found.append(folder)
    return found


def _stages(folder, config, history):
    """The records of this run after those of the runs that it started from, as far as their logs can be found. Raises `InputError` where
    runs name each other as the one that they started from."""
    stages, parent, here = [(name_below(folder, 'experiments'), history)], config['parent'], folder
    visited = [os.path.realpath(folder)]
    while parent:
        before = re.sub(r'/(epoch_\d+[^/]*|last)/?$', '', parent['path'])
        split = split_path(here, 'experiments')  # the working folder may be another one than in training
        beside = [os.path.join(split[0], 'experiments', name_below(before, 'experiments'))] if split else []
        found = next((run for run in (before, *beside) if is_run(run)), None)
        if found is None or (found != before and os.path.realpath(found) in visited):  # a run that has the name of another one elsewhere
            break
        if os.path.realpath(found) in visited:
            names = ' from '.join([*(name for name, _ in reversed(stages)), name_below(found, 'experiments')])
            raise InputError(f"{os.path.join(here, 'config.cfg')}: 'parent' leads in a circle ({names}): a run cannot start from itself")
        visited.append(os.path.realpath(found))
        stages.insert(0, (name_below(found, 'experiments'), read_log(found)[:parent['epoch']]))
        parent, here = read_config(found)['parent'], found
    return stages


def _facts(csv):
    """The lines on corrections, checkpoint and csv at the end of the report of a test."""
    text = text_report(csv)
    if text is None:
        path = text_report_path(csv)
        return [f'{path} is of other predictions: checkpoint and csv of these are not known'] if os.path.isfile(path) else []
    found = [line for line in text.splitlines() if line.startswith(('Checkpoint ', *CORRECTIONS))]
    return [*found, *filter(None, [replaced_network(csv)])]


def _table(csv, config):
    table = read_predictions(csv)
    if config:
        check_classes(table, config['class_names'], 'its run')
    return None if table.labels is None else table


def read_run(folder, results, file=None):
    config = read_config(folder) if folder else None
    csvs = [os.path.join(results, name) for name in ((file,) if file else CSVS)] if results else []
    csv = next((path for path in csvs if os.path.isfile(path)), None)
    facts = _facts(csv) if csv else []
    tested = re.search(r'SHA-256 (\w{64})', ' '.join(facts))
    seen = [role for role, digest in (config['csv_sha256'] if config else {}).items() if tested and digest == tested.group(1)]
    name = name_below(folder, 'experiments') if folder else name_below(results, 'results')
    table = _table(csv, config) if csv else None
    if config is None and table is None:
        raise InputError(f'{results} holds neither labelled predictions ({file or " or ".join(CSVS)}) nor belongs to a run with config.cfg')
    history = read_log(folder) if folder else []
    stages = _stages(folder, config, history) if folder else []
    return Run(name, folder, results, config, history, stages, table, facts, seen[0] if seen else None)


def find_runs(paths, file=None):
    """`paths`: run folders, folders of results, folders of many of them, or per-image csvs -> list of `Run`, each once.
    `file`: name of the per-image csv to read, by default the first of CSVS."""
    pairs = {}
    for path in paths:
        if not os.path.exists(path):
            raise InputError(f'no such run or results: {path}')
        folder, name = (os.path.dirname(path) or '.', os.path.basename(path)) if os.path.isfile(path) else (path, file)
        below = [folder] if os.path.isfile(path) else _folders_below(path)
        if not below:
            raise InputError(f'{path} holds no run (config.cfg) and no results_*.csv')
        for found in below:
            folder, results = ((found, counterpart(found, 'experiments', 'results')) if is_run(found) else
                               (counterpart(found, 'results', 'experiments'), found))
            folder = folder if folder and is_run(folder) else None
            pairs.setdefault(os.path.abspath(results or folder), (folder, results, name))
    runs = []
    with progress(len(pairs), 'runs read', unit='run') as bar:
        for pair in pairs.values():
            runs.append(read_run(*pair))
            bar.update()
    return runs


def series(records, *keys):
    """`series(history, 'val', 'mcc')` -> float64 (epochs,), NaN where the log has null, or no such value: version 0.1 logged no 'acc'."""
    values = []
    for record in records:
        for key in keys:
            record = record.get(key)
        values.append(record)
    return np.array(values, dtype=float)
