"""The predictions csv of the test scripts: writing, reading and checking."""
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from utils.common import InputError, counted, write_text
from utils.data.read_csv import csv_text, read_csv
from utils.runs.provenance import mark_outdated

PREDICTION_SET, NOT_SURE = 'prediction_set', 'not_sure'  # columns of decisions
OWN_COLUMNS = ('image_id', 'patient_id', 'label', 'pred', PREDICTION_SET, NOT_SURE)
TOLERANCE = 0.01  # of the sum of a row; other programs may round to three digits


class PredictionTable(NamedTuple):
    image_ids: list  # str, unique
    labels: np.ndarray | None  # int64 (N,) in 0..K-1
    preds: np.ndarray  # int64 (N,) in 0..K-1
    probs: np.ndarray  # float64 (N, K), as in the file
    class_names: list  # (K,)
    patient_ids: list | None  # str (N,); an image without patient id counts as a separate patient
    path: str
    further: pd.DataFrame | None = None  # str, N rows: the other columns of the file, such as age and sex


def _classes(table, column, k, path):
    """Integers in 0..k-1. Raises `InputError` with the first row that has another value."""
    values = pd.to_numeric(table[column], errors='coerce').to_numpy(np.float64)
    bad = np.flatnonzero(~(np.isin(values, np.arange(k))))
    if len(bad):
        more = f", and {counted(len(bad) - 1, 'more row')}" if len(bad) > 1 else ''
        raise InputError(f"{path}, row {bad[0] + 2}: {column} '{table[column].fillna('').iloc[bad[0]]}' is outside 0..{k - 1}{more}: "
                         f'a class is its position among the {k} columns p_<class>, counted from 0')
    return values.astype(np.int64)


def _probabilities(table, columns, path):
    probs = table[columns].apply(pd.to_numeric, errors='coerce').to_numpy(np.float64)
    total = probs.sum(axis=1)
    for what, advice, bad in (
            ('are missing or not numbers', '', ~np.isfinite(probs).all(axis=1)),
            ('are negative', ' (logits need a softmax)', (probs < 0).any(axis=1)),
            ('do not add up to 1', ' (divide percentages by 100; write enough digits)', ~(np.abs(total - 1) <= TOLERANCE))):
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(f'{path}, row {row + 2} ({table.image_id.iloc[row]}): probabilities p_<class> {what} (sum {total[row]:.4g}), '
                             f'in {bad.sum()} of {len(table)} rows{advice}')
    return probs


def read_predictions(path: str) -> PredictionTable:
    """Read a csv with columns `image_id`, `pred`, `p_<class>` for each class, and optionally `label`, `patient_id` and further ones.

    Raises `InputError` for values that are missing, repeated, out of range or not a number, and for probabilities that do not add up to 1.
    """
    table = read_csv(path, 'csv of predictions')[0]
    columns = [name for name in table.columns if name.startswith('p_')]
    missing = [name for name in ('image_id', 'pred') if name not in table.columns]
    if missing or len(columns) < 2:
        raise InputError(f'{path} is not a csv of predictions (docs/evaluation.md shows its columns): '
                         f"it has no column {', '.join([*missing, *(['p_<class> for each class'] if len(columns) < 2 else [])])}")
    if not len(table):
        raise InputError(f'{path} has no rows')
    twice = table.image_id[table.image_id.duplicated()]
    if len(twice):
        raise InputError(f"{path}: {counted(len(twice), 'image', 'appear')} in more than one row, first {twice.iloc[0]}")
    if table.image_id.isna().any():
        raise InputError(f'{path}, row {table.image_id.isna().argmax() + 2}: no image_id')
    k = len(columns)
    patients = None
    if 'patient_id' in table.columns and table.patient_id.notna().any():
        patients = table.patient_id.fillna('image ' + table.image_id).tolist()
    further = table.drop(columns=[*columns, *(name for name in OWN_COLUMNS if name in table)])
    return PredictionTable(table.image_id.tolist(), _classes(table, 'label', k, path) if 'label' in table.columns else None,
                           _classes(table, 'pred', k, path), _probabilities(table, columns, path),
                           class_names=[name[2:] for name in columns], patient_ids=patients, path=str(path), further=further)


def read_labelled(path: str) -> PredictionTable:
    """`read_predictions` for a file that must have labels, which all scores need."""
    table = read_predictions(path)
    if table.labels is None:
        raise InputError(f"{path} has no column 'label', which the scores need: run the test on a csv with labels, or add the column")
    return table


def anonymous(values: Iterable[Any], salt: str) -> list[Any]:
    """Replace ids by the first 16 hexadecimal digits of the SHA-256 of salt, zero byte, id. NaN (an unknown patient) is kept."""
    return [value if pd.isna(value) else hashlib.sha256(f'{salt}\0{value}'.encode()).hexdigest()[:16] for value in values]


def check_further_columns(columns: Sequence[str], available: Sequence[str], csv: str) -> None:
    """Raise `InputError` for a column of --keep that is not in the `csv`, or whose name a predictions csv uses for something else."""
    for name in columns:
        if name not in available:
            raise InputError(f"--keep: {csv} has no column '{name}' (its columns: {', '.join(available)})")
        if not is_further(name):
            raise InputError(f"--keep {name}: predictions csvs have other content in columns of this name: rename it in {csv}")


def is_further(column: str) -> bool:
    """Whether a predictions csv can have another column of this name."""
    return column not in OWN_COLUMNS and not column.startswith(('p_', 'Unnamed: '))


def write_predictions(path: str, predictions: Any, class_names: list[str], patient_ids: Iterable[Any] | None = None,
                      salt: str | None = None, further: pd.DataFrame | None = None, decided: pd.DataFrame | None = None) -> None:
    """Write one row for each image: image_id, patient_id (if known), the columns of `further`, label (if known), pred, the columns of
    `decided`, p_<class> for each class.

    Ids are hashed if `salt` is given. Cells are escaped for spreadsheets; `read_predictions` undoes this. Reports of earlier predictions in
    the same file are marked as outdated (`mark_outdated`).
    """
    def written(ids):
        return list(ids) if salt is None else anonymous(ids, salt)

    table = pd.DataFrame({'image_id': written(predictions.image_ids)})
    if patient_ids is not None:
        table['patient_id'] = written(patient_ids)
    if further is not None:
        table = pd.concat([table, further.reset_index(drop=True)], axis=1)
    if predictions.labels is not None:
        table['label'] = predictions.labels
    table['pred'] = predictions.preds
    columns = [f'p_{name}' for name in class_names]
    table = pd.concat([table, *([] if decided is None else [decided]), pd.DataFrame(predictions.probs, columns=columns)], axis=1)
    write_text(path, csv_text(table))
    mark_outdated(path)
