"""One prediction for several images, such as those of a patient or a lesion."""
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from utils.common import InputError
from utils.data.read_csv import patient_key
from utils.prediction.predictions import PredictionTable

RULES = {'mean': 'mean of the probabilities', 'worst': 'worst grade'}
HELP = ('also score groups of images, with one prediction per value of COLUMN, such as patient_id: the mean of the probabilities, or with '
        ':worst the worst grade')


class Per(NamedTuple):
    """A column of groups, and the rule that combines their images, a key of RULES."""
    column: str
    rule: str

    @property
    def text(self) -> str:
        return f'{self.column} ({RULES[self.rule]})'


def parse_per(word: str | None) -> Per | None:
    """'patient_id' -> Per('patient_id', 'mean'), 'patient_id:worst' -> Per('patient_id', 'worst')"""
    if word is None:
        return None
    column, _, rule = word.rpartition(':') if re.search(rf":({'|'.join(RULES)})$", word) else (word, '', 'mean')
    return Per(column, rule)


def group_ids(table: PredictionTable, column: str) -> list[str]:
    """-> group of each image; an image without a value is a group of its own. Raises `InputError` if the file has no such column."""
    if column == 'patient_id' and table.patient_ids is not None:
        return table.patient_ids
    if table.further is None or column not in table.further:
        columns = [*(['patient_id'] if table.patient_ids else []), *(() if table.further is None else table.further)]
        raise InputError(f"--per: {table.path} has no column '{column}' (it has {', '.join(columns) or 'none of this kind'}): test again "
                         'with a csv that has it')
    return table.further[column].fillna('image ' + pd.Series(table.image_ids, table.further.index)).tolist()


def check_rule(per: Per, ordered: bool) -> None:
    """Raise `InputError` if the worst grade is wanted of classes that are not grades."""
    if per.rule == 'worst' and not ordered:
        raise InputError(f'--per {per.column}:worst: the classes are not grades, so none of them is the worst: use --per {per.column}')


def refuse_mixed_labels(ids: Sequence[str], labels: np.ndarray, class_names: Sequence[str], per: Per) -> None:
    """Raise `InputError` if images of a group have different labels, for which only the rule 'worst' gives one answer."""
    first: dict[str, int] = {}
    for each, label in zip(ids, labels.tolist(), strict=True):
        before = first.setdefault(patient_key(each), label)
        if per.rule == 'mean' and before != label:
            raise InputError(f'--per {per.column}: the images of {each} have different labels, {class_names[before]} and '
                             f'{class_names[label]}: group by another column, or for grades use --per {per.column}:worst')


def refuse_unfit(per: Per, table: pd.DataFrame, labels: np.ndarray, class_names: Sequence[str], *, ordered: bool) -> None:
    """Raise `InputError` if `per` does not suit the classes, or the `labels` (N,) of the rows of a csv, `table`, which has its column."""
    check_rule(per, ordered)
    refuse_mixed_labels(table[per.column].fillna('image ' + table.image_id).tolist(), labels, class_names, per)


def per_group(table: PredictionTable, per: Per) -> PredictionTable:
    """Combine the images of each group: a table with one row per group, whose id is its `image_id`.

    'mean': probabilities are the mean over the images, the prediction is the most probable class, and all images must have the same label.
    'worst': label and prediction are the highest class of the images, and the probabilities are those of the highest class if the images
    were independent: P(worst <= c) is the product of P_i(class <= c). Classes must be grades, from best to worst.

    Raises `InputError` if the images of a group have different labels with 'mean'.
    """
    ids = group_ids(table, per.column)
    keys, place = np.unique([patient_key(each) for each in ids], return_inverse=True)
    first = np.full(len(keys), len(ids))
    np.minimum.at(first, place, np.arange(len(ids)))
    if per.rule == 'mean':
        probs = np.zeros((len(keys), table.probs.shape[1]))
        np.add.at(probs, place, table.probs)
        probs /= np.bincount(place)[:, None]
        preds = probs.argmax(axis=1)
        labels = None
        if table.labels is not None:
            refuse_mixed_labels(ids, table.labels, table.class_names, per)
            labels = table.labels[first]
    else:
        below = np.ones((len(keys), table.probs.shape[1]))
        np.multiply.at(below, place, np.minimum(table.probs.cumsum(axis=1), 1))
        below[:, -1] = 1
        probs = np.diff(below, axis=1, prepend=0)
        preds = _highest(table.preds, place, len(keys))
        labels = None if table.labels is None else _highest(table.labels, place, len(keys))
    patients = table.patient_ids and [table.patient_ids[i] for i in first]
    order = np.argsort(first)  # as in the file
    return PredictionTable([ids[i] for i in first[order]], None if labels is None else labels[order], preds[order], probs[order],
                           class_names=table.class_names, patient_ids=patients and [patients[i] for i in order],
                           path=f'{table.path}, per {per.text}')


def _highest(classes, place, n):
    highest = np.zeros(n, np.int64)
    np.maximum.at(highest, place, classes)
    return highest
