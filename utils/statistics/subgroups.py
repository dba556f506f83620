"""Scores of subgroups of the test images, such as age and sex: each group with intervals, and its difference from the largest one."""
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from utils.common import InputError, counted, preview
from utils.evaluation import MOST_CLASSES
from utils.prediction.predictions import PredictionTable
from utils.statistics.bootstrap import BootstrapResult, align, bootstrap_figures, combine
from utils.statistics.folds import mean_over_seeds
from utils.statistics.tables import to_text
from utils.statistics.text import FEW, show
from utils.statistics.weighted_metrics import METRIC_NAMES, labels_of, mean_of_defined

UNKNOWN = 'unknown'  # group of images without a value, or outside the limits
MOST_GROUPS = 30
SHOWN = ('bacc', 'acc', 'mcc', 'auc', 'ece')
HELP = ('scores of subgroups: a column of the predictions csv, such as sex, or a column of numbers with limits, such as age:0,40,60,120 '
        '(from 0 to below 40, ...)')


class By(NamedTuple):
    """A column that divides the images. `limits`: of the groups of a column of numbers, ascending; () for a column of categories."""
    column: str
    limits: tuple[float, ...] = ()


class Subgroup(NamedTuple):
    """Scores of the images of one group. `cells`: {key: cell}, see `BootstrapResult.cell`. `absent`: classes without an image.

    `difference`: {'bacc', 'acc': cell} of the difference from the group `reference`, over the classes that both groups have; None for the
    reference itself, for fewer than FEW images (which may all be right, as if there were no sampling error), or if no class is in both.
    """
    column: str
    name: str
    n_images: int
    n_patients: int | None
    absent: list[str]
    cells: dict[tuple, dict[str, Any]]
    reference: str
    difference: dict[str, dict[str, Any]] | None


def parse_by(words: Sequence[str]) -> list[By]:
    """['sex', 'age:0,40,60,120'] -> [By('sex'), By('age', (0, 40, 60, 120))]. Raises `InputError` unless limits are ascending numbers."""
    found = []
    for word in words:
        column, colon, text = word.rpartition(':')
        if not colon or not re.fullmatch(r'[-+\d.,eE ]+', text):
            found.append(By(word))
            continue
        try:
            limits = tuple(map(float, text.split(',')))
        except ValueError:
            limits = ()
        if len(limits) < 2 or list(limits) != sorted(set(limits)):
            raise InputError(f'--by {word}: give two or more ascending limits, such as {column}:0,40,60,120')
        found.append(By(column, limits))
    return found


def groups_of(table: PredictionTable, by: By) -> dict[str, np.ndarray]:
    """-> {name of a group: mask of its images, bool (N,)}, in the order of the limits or of the names; UNKNOWN comes last.

    The last limit belongs to the last group. Raises `InputError` if the file has no such column, or too many groups.
    """
    if table.further is None or by.column not in table.further:
        columns = [] if table.further is None else list(table.further)
        raise InputError(f"--by: {table.path} has no column '{by.column}' (further columns: {', '.join(columns) or 'none'}): test again "
                         'with a csv that has it, and without --salt or with --keep')
    cells = table.further[by.column]
    if not by.limits:
        names = sorted(cells.dropna().unique())
        if len(names) > MOST_GROUPS:
            raise InputError(f"--by {by.column}: {table.path} has {len(names)} different values in this column: group numbers by limits, "
                             f'such as --by {by.column}:0,40,60,120')
        masks = {name: cells.eq(name).to_numpy() for name in names}
    else:
        numbers = pd.to_numeric(cells, errors='coerce').to_numpy()
        ends = [*by.limits[1:-1], np.nextafter(by.limits[-1], np.inf)]
        masks = {f'{low:.12g} to {"below " if high is not ends[-1] else ""}{shown:.12g}': (numbers >= low) & (numbers < high)
                 for low, high, shown in zip(by.limits[:-1], ends, by.limits[1:], strict=True)}
    masks.pop(UNKNOWN, None)
    masks[UNKNOWN] = ~np.any(list(masks.values()), axis=0) if masks else np.ones(len(cells), bool)
    return {name: mask for name, mask in masks.items() if mask.any()}


def rows_of(table: PredictionTable, mask: np.ndarray) -> PredictionTable:
    """-> the rows of `table` where `mask`, bool (N,), is True"""
    rows = np.flatnonzero(mask)
    return table._replace(image_ids=[table.image_ids[i] for i in rows], labels=None if table.labels is None else table.labels[rows],
                          preds=table.preds[rows], probs=table.probs[rows],
                          patient_ids=table.patient_ids and [table.patient_ids[i] for i in rows],
                          further=None if table.further is None else table.further.iloc[rows].reset_index(drop=True))


def subgroups(tables: Sequence[PredictionTable], by: By, draws: int = 1000, seed: int = 0, **options: Any) -> list[Subgroup]:
    """Score each group of `by` on the labelled `tables` of the same images, which differ only in the seed of the network.

    Each group is resampled on its own, by patient if there are patient ids. Its difference from the largest group is unpaired: the groups
    have different images. It is computed for each network, then averaged. If patients are in both groups, its interval is too wide.
    `options`: of `bootstrap_figures`.
    """
    tables = align(tables)
    masks = groups_of(tables[0], by)
    figures = {name: bootstrap_figures([rows_of(table, mask) for table in tables], draws, [seed, i], **options)
               for i, (name, mask) in enumerate(masks.items())}
    reference = max(masks, key=lambda name: masks[name].sum())
    return [_subgroup(tables[0], by.column, name, mask, figures=figures, reference=reference) for name, mask in masks.items()]


def _subgroup(table, column, name, mask, *, figures, reference):
    counts = np.bincount(labels_of(table)[mask], minlength=len(table.class_names))
    mean = mean_over_seeds([[figures[name]]])
    patients = None if table.patient_ids is None else len({table.patient_ids[i] for i in np.flatnonzero(mask)})
    return Subgroup(column, name, int(mask.sum()), n_patients=patients,
                    absent=[of for of, n in zip(table.class_names, counts, strict=True) if not n],
                    cells={key: mean.cell(key) for key in mean.values}, reference=reference,
                    difference=None if name == reference or mask.sum() < FEW else _difference(figures[name], figures[reference]))


def _difference(group, reference):
    """-> cells of group - reference, as the mean over the networks; None if no class is in both"""
    names = [key[1] for key in group[0].values if key[0] == 'classes' and key[2] == 'recall']
    shared = [name for name in names if all(of.counts['classes', name, 'recall'] for of in (group[0], reference[0]))]
    if not shared:
        return None
    pairs = [combine([_over(shared, run) for run in both], (1, -1)) for both in zip(group, reference, strict=True)]
    mean = mean_over_seeds([[pairs]])
    return {metric: mean.cell(('metrics', metric)) for metric in ('bacc', 'acc')}


def _over(classes, run: BootstrapResult) -> BootstrapResult:
    """Replace balanced accuracy by that over `classes`, and keep only it and accuracy."""
    keys = [('classes', name, 'recall') for name in classes]
    bacc, acc = ('metrics', 'bacc'), ('metrics', 'acc')
    return run._replace(values={bacc: float(np.mean([run.values[key] for key in keys])), acc: run.values[acc]},
                        draws={bacc: mean_of_defined(np.stack([run.draws[key] for key in keys])), acc: run.draws[acc]},
                        counts={key: run.counts[key] for key in (bacc, acc)}, shrunk={}, units={})


def subgroup_rows(groups: Sequence[Subgroup]) -> list[list[str]]:
    """-> rows of text, the first is the header. Groups with fewer than FEW images are marked with (few)."""
    shown = [name for name in SHOWN if any(group.cells['metrics', name]['value'] is not None for group in groups)]
    rows = [[groups[0].column, 'n', *(METRIC_NAMES[name] for name in shown), f'difference from {groups[0].reference}']]
    for group in groups:
        few = ' (few)' if group.n_images < FEW else ''
        difference = '-' if group.difference is None else show(group.difference['bacc'], sign='+')
        rows.append([f'{group.name}{few}', f'{group.n_images:,}', *(show(group.cells['metrics', name]) for name in shown), difference])
    return rows


def recall_rows(groups: Sequence[Subgroup]) -> list[list[str]]:
    """-> rows of text: recall of each class in each group, with the number of images; only the header for more than MOST_CLASSES"""
    classes = [key[1] for key in groups[0].cells if key[0] == 'classes' and key[2] == 'recall']
    if len(classes) > MOST_CLASSES:
        return [[]]
    rows = [[f'recall by {groups[0].column}', *classes]]
    for group in groups:
        cells = [group.cells['classes', name, 'recall'] for name in classes]
        rows.append([group.name, *('-' if not cell['n'] else f"{show(cell)} of {cell['n']:,}" for cell in cells)])
    return rows


def subgroup_notes(groups: Sequence[Subgroup]) -> list[str]:
    """-> sentences on groups with few images and with absent classes"""
    few = [group.name for group in groups if group.n_images < FEW]
    notes = [f'fewer than {FEW} images: {preview(few)}. These scores say little'] if few else []
    lacking = [f"{group.name} has no image of {', '.join(group.absent)}" for group in groups if group.absent]
    return notes + ([f"{'; '.join(lacking)}. Means are over the other classes"] if lacking else [])


def subgroups_text(groups: Sequence[Subgroup]) -> str:
    """-> table and notes for the console"""
    head = (f'By {groups[0].column}: {counted(sum(group.n_images for group in groups), "image")}. Last column: difference in balanced '
            'accuracy, unpaired, over the classes that both groups have.')
    recalls = recall_rows(groups)
    tables = [to_text(subgroup_rows(groups)), *([to_text(recalls)] if len(recalls) > 1 else [])]
    return '\n'.join([head, *tables, *(f'Note: {note}.' for note in subgroup_notes(groups))])


def as_json(groups: Sequence[Subgroup]) -> dict[str, Any]:
    """-> plain values: {group: n, patients, absent classes, scores, difference}"""
    def scores(cells: Mapping[tuple, dict]) -> dict:
        return {name: cells['metrics', name] for name in METRIC_NAMES}
    return {group.name: {'n': group.n_images, 'patients': group.n_patients, 'absent': group.absent, 'metrics': scores(group.cells),
                         'recall': {key[1]: cell for key, cell in group.cells.items() if key[0] == 'classes' and key[2] == 'recall'},
                         'reference': group.reference, 'difference': group.difference} for group in groups}
