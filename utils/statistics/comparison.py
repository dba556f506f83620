"""Comparison of methods over folds and seeds: means, standard deviations, intervals, ranks, and paired differences to a baseline."""
import glob
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from utils.common import InputError, file_sha256
from utils.prediction.predictions import PredictionTable, read_labelled
from utils.runs.provenance import replaced_network, results_of
from utils.statistics.bootstrap import bootstrap_figures, check_classes
from utils.statistics.folds import mean_of, mean_over_seeds, spread
from utils.statistics.settings import REPEAT, are_ordered, describe_settings, differing_settings
from utils.statistics.weighted_metrics import chance_levels

Csvs = Mapping[str, list[str]]  # name of a method -> its predictions csvs
Cells = dict[tuple[str, ...], dict[str, Any]]  # key of a score, such as ('metrics', 'mcc') -> value, interval, and what the interval covers
SHOWN = ('bacc', 'acc', 'mcc', 'kappa', 'f1', 'auc')  # columns of the table
RANKED = tuple(name for name in SHOWN if name != 'acc')  # accuracy is high even if a method ignores rare classes


class MethodRuns(NamedTuple):
    """The tested runs of one method."""
    name: str
    runs: list  # `BootstrapResult` of each csv
    image_sets: list[int]  # for each csv, a number that identifies its set of images
    n_images: int  # in all csvs
    sizes: list[int]  # number of images in each csv
    csvs: list[str]
    drawn: dict[str, Any]  # facts about the resampling: 'unit' ('images', 'patients', or both if only some csvs have patient ids),
    #                        'within_classes' and 'draws', as in `folds.evaluate_files`
    chance: dict[str, float]  # metric -> chance level, as the mean over its sets of images; see `chance_levels`


def find_csvs(folders: Sequence[str], file_name: str) -> dict[str, list[str]]:
    """Find every `file_name` below `folders` -> {method: csvs}, in the order in which they were written.

    The name of a method is its path relative to the common parent of `folders`, without folders seed* (repeats) and F1, fold1, ... (folds).
    """
    csvs = {csv for folder in folders for csv in glob.glob(os.path.join(glob.escape(folder), '**', file_name), recursive=True)}
    base = os.path.commonpath([os.path.abspath(folder) for folder in folders])
    methods: dict[str, list[str]] = {}
    for csv in sorted(csvs, key=lambda csv: (os.path.getmtime(csv), csv)):
        parts = os.path.relpath(os.path.dirname(os.path.abspath(csv)), base).split(os.sep)
        name = '/'.join(part for part in parts if part != '.' and not REPEAT.fullmatch(part))
        methods.setdefault(name or os.path.basename(base), []).append(csv)
    if not methods:
        raise InputError(f"no {file_name} below {', '.join(folders)}: run a test script on your runs first")
    return methods


def way_of_test(csv: str) -> str | None:
    """Return the TTA and corrections behind a predictions csv, such as '8 views, calibrated'; None if they are not known."""
    results = results_of(csv)
    return results.way if results else None


def ways_note(csvs: Csvs) -> list[str]:
    """{method: csvs} -> one note if runs were tested with different TTA or corrections, otherwise []"""
    how = {name: dict.fromkeys(filter(None, map(way_of_test, of_method))) for name, of_method in csvs.items()}
    if len(set().union(*how.values())) < 2:
        return []
    return ['runs were tested in different ways: ' + '; '.join(f"{name}: {' or '.join(ways)}" for name, ways in how.items() if ways)]


def copies_note(csvs: Csvs) -> list[str]:
    """{method: csvs} -> one note for each group of identical files of a method, which are not separate runs"""
    notes = []
    for name, of_method in csvs.items():
        same: dict[str, list[str]] = {}
        for csv in of_method:
            same.setdefault(file_sha256(csv), []).append(csv)
        notes += [f"{name}: {' and '.join(copies)} are identical, so they are not separate runs"
                  for copies in same.values() if len(copies) > 1]
    return notes


def load_methods(csvs: Csvs, draws: int = 1000, seed: int = 0, ordered: bool | None = None,
                 tables: Mapping[str, PredictionTable] | None = None, stratified: bool = False) -> list[MethodRuns]:
    """{method: csvs} -> list of `MethodRuns`

    Csvs of the same images share their bootstrap resamples; different sets of images (folds) are resampled independently. `ordered`: see
    `are_ordered`. `tables`: {csv: table} of csvs that have been read already. `stratified`: resample within each class. Raises `InputError`
    if the classes differ.
    """
    known = tables or {}
    paths = [csv for of_method in csvs.values() for csv in of_method]
    read = [known[csv] if csv in known else read_labelled(csv) for csv in paths]
    sets: dict[frozenset[str], list[int]] = {}
    for i, table in enumerate(read):
        check_classes(table, read[0].class_names, read[0].path)
        sets.setdefault(frozenset(table.image_ids), []).append(i)
    figures, number, unit, chance = {}, {}, {}, {}
    kappa = are_ordered(read, ordered)
    for k, members in enumerate(sets.values()):
        of_set = [read[i] for i in members]
        figures |= dict(zip(members, bootstrap_figures(of_set, draws, [seed, k], stratified=stratified, ordered=kappa),
                            strict=True))
        number |= dict.fromkeys(members, k)
        unit |= dict.fromkeys(members, 'patients' if any(table.patient_ids for table in of_set) else 'images')
        chance[k] = chance_levels(np.bincount(of_set[0].labels))  # type: ignore[arg-type]  # `read_labelled` ensures labels
    methods, first = [], 0
    for name, of_method in csvs.items():
        mine = range(first, first + len(of_method))
        first = mine.stop
        by_chance = [chance[k] for k in {number[i] for i in mine}]
        methods.append(MethodRuns(
            name=name, runs=[figures[i] for i in mine], image_sets=[number[i] for i in mine],
            n_images=len({image for i in mine for image in read[i].image_ids}), sizes=[len(read[i].image_ids) for i in mine],
            csvs=of_method,
            drawn={'unit': ' and '.join(sorted({unit[i] for i in mine})), 'within_classes': stratified, 'draws': draws},
            chance={metric: float(np.mean([c[metric] for c in by_chance])) for metric in by_chance[0]
                    if all(metric in c for c in by_chance)}))
    return methods


def settings_notes(methods: Sequence[MethodRuns], describe: Callable[[Mapping], str] = describe_settings) -> list[str]:
    """Notes on pooled runs with different settings, predictions of checkpoints that have been replaced, identical csvs, and differences in
    how the runs were tested. `describe` puts a dictionary of differing settings into words."""
    differing = {method.name: differing_settings(method.csvs, method.image_sets) for method in methods}
    pooled = [f'{name} pools runs whose settings differ: {describe(found)}' for name, found in differing.items() if found]
    replaced = filter(None, (replaced_network(csv) for method in methods for csv in method.csvs))
    csvs = {method.name: method.csvs for method in methods}
    return [*pooled, *replaced, *copies_note(csvs), *ways_note(csvs)]


def _on(method, image_set):
    """The runs of the method on one set of images."""
    return [run for run, s in zip(method.runs, method.image_sets, strict=True) if s == image_set]


def _cells(methods, image_sets, signs, *, n_images, with_seeds):
    """The sum of `signs` x the mean of each method over `image_sets`: {key: cell, with what its interval 'covers'}. A class has an interval
    only if every run has at least two images of it."""
    of_sets = [[_on(method, k) for k in image_sets] for method in methods]
    mean = mean_over_seeds(of_sets, signs, with_seeds)
    runs = [run for sets in of_sets for of_set in sets for run in of_set]
    covers = methods[0].drawn['unit'] + (' and seeds' if mean.with_seeds else '')
    return {key: mean.cell(key, n_images if key[0] == 'metrics' else min(run.counts[key] for run in runs)) | {'covers': covers}
            for key in mean.values}


def summary(method: MethodRuns, with_seeds: bool = True) -> Cells:
    """Summarise a method: {key: cell, with 'sd' and what its interval 'covers': 'images', 'images and seeds', 'patients', ...}.

    The value is the mean over the runs on each set of images (seeds), then over the sets (folds), so a `difference` equals the difference
    of the means. 'sd' is the standard deviation over all runs. See `folds.mean_over_seeds` for the interval of the mean and `with_seeds`.
    """
    cells = _cells([method], dict.fromkeys(method.image_sets), (1,), n_images=method.n_images, with_seeds=with_seeds)
    return {key: c | {'sd': spread([run.values[key] for run in method.runs])['sd']} for key, c in cells.items()}


def difference(method: MethodRuns, baseline: MethodRuns, with_seeds: bool = True) -> Cells | None:
    """Paired difference `method` - `baseline`: {key: cell, with what its interval 'covers'}; None if they have no set of images in common.

    It is the mean over the sets of images that both have. The interval covers seeds if both have at least two runs on a set. The difference
    of a method to itself is 0.
    """
    shared = [k for k in dict.fromkeys(method.image_sets) if k in baseline.image_sets]
    if not shared:
        return None
    return _cells([method, baseline], shared, (1, -1), n_images=min(method.n_images, baseline.n_images),
                  with_seeds=with_seeds and method is not baseline)


def mean_ranks(methods: Sequence[MethodRuns]) -> list[float | None]:
    """Mean rank of each method over the scores in RANKED and over the sets of images that all methods have: 1 is the best, and ties share
    their mean rank. None if there is nothing to rank."""
    ranks = []
    for k in set.intersection(*(set(method.image_sets) for method in methods)):
        means = [mean_of(_on(method, k)).values for method in methods]
        for name in RANKED:
            values = np.array([mean['metrics', name] for mean in means])
            if np.isfinite(values).all():
                ranks.append(pd.Series(values.round(12)).rank(ascending=False))
    return np.mean(ranks, axis=0).tolist() if ranks and len(methods) > 1 else [None] * len(methods)


def columns_of(summaries: Sequence[Cells], max_classes: int = 10) -> tuple[dict[str, tuple], dict[str, tuple]]:
    """{heading: key} of the table columns: scores in SHOWN that some method defines, and recalls (R) of up to `max_classes` classes."""
    overall = {name.upper(): ('metrics', name) for name in SHOWN if any(s['metrics', name]['value'] is not None for s in summaries)}
    recalls = {f'R {key[1]}': key for s in summaries for key in s if key[0] == 'classes' and key[2] == 'recall'}
    return overall, recalls if len(recalls) <= max_classes else {}


def tidy_rows(methods: Sequence[MethodRuns], summaries: Sequence[Cells], ranks: Sequence[float | None],
              differences: Sequence[Cells | None]) -> list[list]:
    """Rows of a tidy csv, one for each method and score, as fractions; None where undefined."""
    rows: list[list] = [['method', 'metric', 'runs', 'images', 'mean', 'sd', 'low', 'high', 'mean_rank',
                         'difference', 'difference_low', 'difference_high', 'covers', 'difference_covers', 'interval',
                         'difference_interval']]
    for method, figures, rank, diff in zip(methods, summaries, ranks, differences, strict=True):
        for key, c in figures.items():
            d = (diff or {}).get(key, {})
            rows.append([method.name, ' '.join(reversed(key[1:])), len(method.runs), method.n_images,
                         *(c[name] for name in ('value', 'sd', 'low', 'high')), rank, *(d.get(name) for name in ('value', 'low', 'high')),
                         c['covers'], d.get('covers'), c['interval'], d.get('interval')])
    return rows
