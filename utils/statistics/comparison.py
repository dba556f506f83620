"""Methods x folds x seeds -> means, deviations, intervals, ranks, and paired differences to a baseline."""
import glob
import os
import re
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from utils.common import InputError, file_sha256
from utils.prediction.predictions import read_labelled
from utils.runs.provenance import replaced_network, text_report
from utils.statistics.bootstrap import bootstrap_figures, check_classes
from utils.statistics.folds import mean_of, mean_over_seeds, spread
from utils.statistics.settings import REPEAT, are_ordered, describe_settings, differing_settings
from utils.statistics.weighted_metrics import chance_levels

CORRECTIONS = {'Calibrated with': 'calibrated', 'Logit adjustment': 'logit adjustment', 'Tau-normalisation': 'tau-normalisation',
               'Class prior changed': 'another prior'}  # start of a line in the report of a test -> what it was
SHOWN = ('bacc', 'acc', 'mcc', 'kappa', 'f1', 'auc')  # in the table
RANKED = tuple(name for name in SHOWN if name != 'acc')  # a method that ignores the rare classes has a high accuracy


class Method(NamedTuple):
    name: str
    runs: list  # Figures of each csv
    image_sets: list  # of each csv: which images it holds, as a number
    n_images: int  # over all its csvs
    sizes: list  # images of each csv
    csvs: list
    drawn: dict  # what its intervals come from: 'unit' ('images', 'patients', or both where not all csvs name patients), 'within_classes'
    #              and 'draws', as in `pooling.evaluate_files`
    chance: dict  # metric -> what answers by chance reach, the mean over its sets of images; see `statistics.chance_levels`


def find_csvs(folders, file_name):
    """{method: csvs}: below `folders` every `file_name`; the method is the path from what the folders have in common,
    without folders seed* (repeats) and F1, fold1, ... (folds). In the order in which they were written."""
    csvs = {csv for folder in folders for csv in glob.glob(os.path.join(glob.escape(folder), '**', file_name), recursive=True)}
    base, methods = os.path.commonpath([os.path.abspath(folder) for folder in folders]), {}
    for csv in sorted(csvs, key=lambda csv: (os.path.getmtime(csv), csv)):
        parts = os.path.relpath(os.path.dirname(os.path.abspath(csv)), base).split(os.sep)
        name = '/'.join(part for part in parts if part != '.' and not REPEAT.fullmatch(part))
        methods.setdefault(name or os.path.basename(base), []).append(csv)
    if not methods:
        raise InputError(f"no {file_name} below {', '.join(folders)}: test some runs first")
    return methods


def way_of_test(csv):
    """What the report of the test script beside `csv` names beyond a plain forward pass: '8 views, calibrated', or 'nothing more';
    None where there is no such report of these predictions."""
    text = text_report(csv)
    if text is None:
        return None
    found = re.findall(r', mean over (\d+ views?.*)$', text, re.M)
    found += [name for start, name in CORRECTIONS.items() if re.search(f'^{start}', text, re.M)]
    return ', '.join(found) or 'nothing more'


def ways_note(csvs):
    """{method: csvs} -> a line, [] where all were tested in one way, as far as their text reports are here."""
    how = {name: dict.fromkeys(filter(None, map(way_of_test, of_method))) for name, of_method in csvs.items()}
    if len(set().union(*how.values())) < 2:
        return []
    return ['not all runs were tested alike: ' + '; '.join(f"{name}: {' or '.join(ways)}" for name, ways in how.items() if ways)]


def copies_note(csvs):
    """{method: csvs} -> a line for each method of which several files are the same, so that they are no repeats."""
    notes = []
    for name, of_method in csvs.items():
        same: dict = {}
        for csv in of_method:
            same.setdefault(file_sha256(csv), []).append(csv)
        notes += [f"{name}: {' and '.join(copies)} are the same file, no separate trainings" for copies in same.values() if len(copies) > 1]
    return notes


def load_methods(csvs, draws=1000, seed=0, ordered=None, tables=None, stratified=False):
    """{method: csvs} -> list of `Method`. Csvs of the same images share their bootstrap draws; different sets of images
    (folds) are drawn independently. `ordered` None: see `are_ordered`. `tables`: {csv: its table} of those already read.
    `stratified`: draw within the classes.
    Raises `InputError` where the classes differ."""
    known, sets = tables or {}, {}
    tables = [(name, known[csv] if csv in known else read_labelled(csv)) for name, of_method in csvs.items() for csv in of_method]
    first = tables[0][1]
    for i, (_, table) in enumerate(tables):
        check_classes(table, first.class_names, first.path)
        sets.setdefault(frozenset(table.image_ids), []).append(i)
    figures, number, unit, chance, kappa = {}, {}, {}, {}, are_ordered([table for _, table in tables], ordered)
    for k, members in enumerate(sets.values()):
        of_set = [tables[i][1] for i in members]
        figures |= dict(zip(members, bootstrap_figures(of_set, draws, [seed, k], stratified=stratified, ordered=kappa),
                            strict=True))
        number |= dict.fromkeys(members, k)
        unit |= dict.fromkeys(members, 'patients' if any(table.patient_ids for table in of_set) else 'images')
        chance[k] = chance_levels(np.bincount(of_set[0].labels))
    methods = []
    for name in csvs:
        mine = [i for i, (of, _) in enumerate(tables) if of == name]
        images = {image for i in mine for image in tables[i][1].image_ids}
        by_chance = [chance[k] for k in {number[i] for i in mine}]
        methods.append(Method(name, [figures[i] for i in mine], [number[i] for i in mine], len(images),
                              [len(tables[i][1].image_ids) for i in mine], csvs[name],
                              {'unit': ' and '.join(sorted({unit[i] for i in mine})), 'within_classes': stratified, 'draws': draws},
                              {name: float(np.mean([c[name] for c in by_chance])) for name in by_chance[0]
                               if all(name in c for c in by_chance)}))
    return methods


def settings_notes(methods):
    """One line for each of the methods whose runs differ in more than they may, for each csv of a network that its run has replaced, for
    copies of one file, and for differences in how the runs were tested."""
    differing = {method.name: differing_settings(method.csvs, method.image_sets) for method in methods}
    pooled = [f'{name} pools runs whose settings differ: {describe_settings(found)}' for name, found in differing.items() if found]
    replaced = filter(None, (replaced_network(csv) for method in methods for csv in method.csvs))
    csvs = {method.name: method.csvs for method in methods}
    return [*pooled, *replaced, *copies_note(csvs), *ways_note(csvs)]


def _on(method, image_set):
    """The runs of the method on one set of images."""
    return [run for run, s in zip(method.runs, method.image_sets, strict=True) if s == image_set]


def _cells(methods, image_sets, signs, n_images, with_seeds):
    """The sum of `signs` x the mean of each method over `image_sets` -> {key: cell with what its interval 'covers'}; a class has an
    interval only where every run has two images of it."""
    of_sets = [[_on(method, k) for k in image_sets] for method in methods]
    mean = mean_over_seeds(of_sets, signs, with_seeds)
    runs = [run for sets in of_sets for of_set in sets for run in of_set]
    covers = methods[0].drawn['unit'] + (' and seeds' if mean.with_seeds else '')
    return {key: mean.cell(key, n_images if key[0] == 'metrics' else min(run.counts[key] for run in runs)) | {'covers': covers}
            for key in mean.values}


def summary(method, with_seeds=True):
    """-> {key: cell, with the 'sd' over the runs and what its interval 'covers': 'images', 'images and seeds', 'patients', ...}.

    The value is the mean over the runs of each set of images (seeds), then over the sets (folds), so that differences are those of the
    means. The standard deviation is that over all runs. See `pooling.mean_over_seeds` for the interval of the mean and `with_seeds`.
    """
    cells = _cells([method], dict.fromkeys(method.image_sets), (1,), method.n_images, with_seeds)
    return {key: c | {'sd': spread([run.values[key] for run in method.runs])['sd']} for key, c in cells.items()}


def difference(method, baseline, with_seeds=True):
    """-> {key: cell, with what its interval 'covers'} of `method` less `baseline`, paired: on each set of images that both have, then the
    mean over the sets; None when they have none in common. Seeds are covered where both have two runs or more on a set; a method less
    itself is 0."""
    shared = [k for k in dict.fromkeys(method.image_sets) if k in baseline.image_sets]
    if not shared:
        return None
    return _cells([method, baseline], shared, (1, -1), min(method.n_images, baseline.n_images), with_seeds and method is not baseline)


def mean_ranks(methods):
    """The rank of each method (1 is the best, equals share theirs) in each of RANKED on each set of images that all methods
    have, as the mean over both; None where there is nothing to rank."""
    ranks = []
    for k in set.intersection(*(set(method.image_sets) for method in methods)):
        means = [mean_of(_on(method, k)).values for method in methods]
        for name in RANKED:
            values = np.array([mean['metrics', name] for mean in means])
            if np.isfinite(values).all():
                ranks.append(rankdata(-values.round(12)))
    return np.mean(ranks, axis=0).tolist() if ranks and len(methods) > 1 else [None] * len(methods)


def columns_of(summaries, max_classes=10):
    """{heading: key} of the table: SHOWN where some method defines it, and the recalls (R) of up to `max_classes` classes."""
    overall = {name.upper(): ('metrics', name) for name in SHOWN if any(s['metrics', name]['value'] is not None for s in summaries)}
    recalls = {f'R {key[1]}': key for s in summaries for key in s if key[0] == 'classes' and key[2] == 'recall'}
    return overall, recalls if len(recalls) <= max_classes else {}


def tidy_rows(methods, summaries, ranks, differences):
    """For a csv: one row for each method and figure, fractions; None where undefined."""
    rows = [['method', 'metric', 'runs', 'images', 'mean', 'sd', 'low', 'high', 'mean_rank',
             'difference', 'difference_low', 'difference_high', 'covers', 'difference_covers', 'interval', 'difference_interval']]
    for method, figures, rank, diff in zip(methods, summaries, ranks, differences, strict=True):
        for key, c in figures.items():
            d = (diff or {}).get(key, {})
            rows.append([method.name, ' '.join(reversed(key[1:])), len(method.runs), method.n_images,
                         *(c[name] for name in ('value', 'sd', 'low', 'high')), rank, *(d.get(name) for name in ('value', 'low', 'high')),
                         c['covers'], d.get('covers'), c['interval'], d.get('interval')])
    return rows
