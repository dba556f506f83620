"""The files behind a report: a run folder below experiments/ and its folder below results/. Either of them leads to the other."""
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from utils.common import InputError, progress
from utils.prediction.predictions import PredictionTable, read_predictions
from utils.runs.formats import read_config, read_log
from utils.runs.paths import counterpart, is_run, name_below, split_path, without_checkpoint
from utils.runs.provenance import replaced_network, results_of
from utils.runs.text_reports import text_report_path
from utils.statistics.bootstrap import check_classes

CSVS = ('results_test.csv', 'results_val.csv')  # the first one that exists
MOST_DETAILS = 6  # a comparison of up to this many runs also has a section for each run


class Run(NamedTuple):
    name: str
    folder: str | None  # experiments/NAME
    results: str | None  # results/NAME
    config: dict | None
    history: list[dict]  # records of log.jsonl
    stages: list[tuple[str, list[dict]]]  # name and records up to the epoch that the next stage starts from; the last one is this run
    table: PredictionTable | None  # with labels
    facts: list[str]  # on the test: corrections, checkpoint and csv, as sentences
    seen_as: str | None  # 'train' or 'val' if the tested csv was the training or validation csv of the network


def _folders_below(path):
    """Run folders and results folders at or below `path`, sorted by name."""
    found = []
    for folder, below, files in os.walk(path):
        below[:] = [] if is_run(folder) else sorted(below)
        if is_run(folder) or any(re.fullmatch(r'results_.*\.csv', file) for file in files):
            found.append(folder)
    return found


def _stages(folder, config, history):
    """The records of the stages before this run, as far as their logs are found, followed by its own. Raises `InputError` if runs name
    each other as stage one."""
    stages, parent, here = [(name_below(folder, 'experiments'), history)], config['parent'], folder
    visited = [os.path.realpath(folder)]
    while parent:
        before = without_checkpoint(parent['path'])
        split = split_path(here, 'experiments')  # the working folder may have changed since the training
        beside = [os.path.join(split[0], 'experiments', name_below(before, 'experiments'))] if split else []
        found = next((run for run in (before, *beside) if is_run(run)), None)
        if found is None or (found != before and os.path.realpath(found) in visited):  # another run of the same name in another folder
            break
        if os.path.realpath(found) in visited:
            names = ' from '.join([*(name for name, _ in reversed(stages)), name_below(found, 'experiments')])
            raise InputError(f"{os.path.join(here, 'config.cfg')}: 'parent' leads in a circle ({names}): a run cannot start from itself")
        visited.append(os.path.realpath(found))
        stages.insert(0, (name_below(found, 'experiments'), read_log(found)[:parent['epoch']]))
        parent, here = read_config(found)['parent'], found
    return stages


def _facts(csv, results):
    """Sentences on the test that wrote the per-image `csv`."""
    if results is None:
        path = text_report_path(csv)
        return [f'{path} is about other predictions: checkpoint and csv of these are unknown'] if os.path.isfile(path) else []
    return [*results.lines, *filter(None, [replaced_network(csv)])]


def _seen_as(results, config):
    """'train' or 'val' if the tested csv is that of the training with this `config`, otherwise None."""
    if results is None or results.csv is None or config is None:
        return None
    return next((role for role, digest in config['csv_sha256'].items() if digest == results.csv.sha256), None)


def _table(csv, config):
    table = read_predictions(csv)
    if config:
        check_classes(table, config['class_names'], 'its run')
    return None if table.labels is None else table


def read_run(folder: str | None, results: str | None, file: str | None = None) -> Run:
    """Read the run `folder` and its folder of `results`; one of them may be None. `file`: see `find_runs`. Raises `InputError` for invalid
    files, and if there is neither a run nor a csv of labelled predictions."""
    config = read_config(folder) if folder else None
    csvs = [os.path.join(results, name) for name in ((file,) if file else CSVS)] if results else []
    csv = next((path for path in csvs if os.path.isfile(path)), None)
    tested = results_of(csv) if csv else None
    table = _table(csv, config) if csv else None
    if config is None and table is None:
        raise InputError(f'{results} has neither labelled predictions ({file or " or ".join(CSVS)}) nor a run folder with config.cfg')
    history = read_log(folder) if folder else []
    return Run(name=name_below(folder, 'experiments') if folder else name_below(str(results), 'results'), folder=folder, results=results,
               config=config, history=history, stages=_stages(folder, config, history) if folder and config else [], table=table,
               facts=_facts(csv, tested) if csv else [], seen_as=_seen_as(tested, config))


def _run_and_results(found):
    """The run folder and the results folder of which `found` is one; None for one that does not exist."""
    if is_run(found):
        return found, counterpart(found, 'experiments', 'results')
    folder = counterpart(found, 'results', 'experiments')
    return folder if folder and is_run(folder) else None, found


def find_runs(paths: Sequence[str], file: str | None = None) -> list[Run]:
    """-> list of `Run`, each run once. `paths`: run folders, results folders, folders that hold many of them, or predictions csvs. `file`:
    name of the predictions csv to read (default: the first of CSVS that exists)."""
    pairs: dict[str, tuple[str | None, str | None, str | None]] = {}
    for path in paths:
        if not os.path.exists(path):
            raise InputError(f'no such run or results: {path}')
        is_file = os.path.isfile(path)
        name = os.path.basename(path) if is_file else file
        below = [os.path.dirname(path) or '.'] if is_file else _folders_below(path)
        if not below:
            raise InputError(f'{path} holds no run (config.cfg) and no results_*.csv')
        for found in below:
            folder, results = _run_and_results(found)
            pairs.setdefault(os.path.abspath(results or found), (folder, results, name))
    runs = []
    with progress(len(pairs), 'runs read', unit='run') as bar:
        for pair in pairs.values():
            runs.append(read_run(*pair))
            bar.update()
    return runs


def series(records: Sequence[dict], *keys: str) -> np.ndarray:
    """`series(history, 'val', 'mcc')` -> float64 (epochs,). NaN for null and for a missing value: version 0.1 logged no 'acc'."""
    values = []
    for record in records:
        value: Any = record
        for key in keys:
            value = value.get(key)
        values.append(value)
    return np.array(values, dtype=float)
