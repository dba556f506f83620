"""Tables of labels as data sets and hospitals write them: find the columns of the image, the class and the patient."""
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from utils.common import InputError, counted, preview
from utils.data.check_data import PATIENT_COLUMNS
from utils.data.label_column import LABEL_NAMES, LABEL_WORDS, TRUTH, drop_empty_columns, find_binary_columns, words_of
from utils.data.read_csv import read_csv
from utils.datasets.image_index import ImageIndex, without_extension
from utils.datasets.known_tables import KnownTable, find_known_table

IMAGE_WORDS = {'image', 'images', 'img', 'file', 'filename', 'path', 'picture', 'photo', 'photograph', 'scan', 'id'}
SAMPLE = 200  # rows in which columns of image ids are searched
NO_COLUMN = 'none'  # value of --group_column


class LabelTable(NamedTuple):
    """A table from a user and the columns that matter in it. `rows`: row numbers as in a spreadsheet, int64 (N,).

    `labels`: the class column, or a column of 0 and 1 for each class. `patient`: '' if there is no such column.
    """
    path: str
    table: pd.DataFrame
    rows: np.ndarray
    known: KnownTable | None
    image: str
    labels: list[str]
    patient: str

    def where(self, row: int) -> str:
        """-> file and row in the spreadsheet, for an error about row `row` of `table`"""
        return f'{self.path}, row {self.rows[row]}'


def read_label_table(path: str, images: ImageIndex, wanted: dict[str, list[str]], *, joined: Sequence[str] = (),
                     is_test: bool = False) -> LabelTable:
    """Read the table at `path`, and choose its columns: those that the user wants, those of a known table, or by their name and content.

    `wanted`: {'image', 'label', 'group': columns of the flags --image_column, --label_column and --group_column, or []}. `joined`: paths
    of tables with further columns for the same images. `is_test`: the table may lack the patient, and images in `joined`. Raises
    `InputError` if another column is missing or cannot be told.
    """
    table, rows = read_csv(path, 'table')
    table = drop_empty_columns(table)
    if not len(table):
        raise InputError(f'{path} has no rows')
    known = find_known_table(table)
    image = next(iter(wanted['image']), '') or _find_image_column(table, path, known, images)
    _refuse_missing_column(table, path, 'image', [image])
    for other in joined:
        table = join_table(table, image, other, images, may_lack_all=is_test)
    patient = next(iter(wanted['group']), '') or _find_patient_column(table, known, image)
    patient = '' if patient == NO_COLUMN or (is_test and patient not in table) else patient
    _refuse_missing_column(table, path, 'group', [patient] if patient else [])
    _refuse_missing_column(table, path, 'label', wanted['label'])
    labels = wanted['label'] or _find_label_columns(table, path, known, [image, patient])
    return LabelTable(path, table, rows, known, image=image, labels=labels, patient=patient)


def _refuse_missing_column(table, path, flag, columns):
    if missing := [column for column in columns if column not in table]:
        raise InputError(f"--{flag}_column: {path} has no column '{missing[0]}' (its columns: {', '.join(table)})")


def join_table(table: pd.DataFrame, image: str, path: str, images: ImageIndex, *, may_lack_all: bool = False) -> pd.DataFrame:
    """Add the columns of the table at `path` that `table` lacks, by the image. Images that it does not have get empty cells.

    If all columns of `path` name images, as in a list of left and right eyes, each of its rows is a patient, and `patient_id` is added.
    `image`: column of image ids in `table`. Raises `InputError` for an image in two rows of `path`, and unless `may_lack_all`, if no
    image is in both.
    """
    other, rows = read_csv(path, 'table (--join)')
    other = drop_empty_columns(other)
    if len(other.columns) > 1 and set(_columns_of_images(other, images)) == set(other):
        patients, n_columns = [f'{os.path.basename(path)} row {row}' for row in rows], len(other.columns)
        other = pd.concat([pd.DataFrame({image: other[column], 'patient_id': patients}) for column in other], ignore_index=True)
        rows = np.tile(rows, n_columns)
    column = image if image in other else _find_image_column(other, path, find_known_table(other), images)
    other, rows = other[other[column].notna()].reset_index(drop=True), rows[other[column].notna().to_numpy()]
    keys = other[column].map(without_extension)
    if keys.duplicated().any():
        row = int(np.argmax(keys.duplicated()))
        raise InputError(f"{path}, row {rows[row]}: image '{other[column][row]}' repeats an earlier row: delete one of them")
    places = pd.Series(range(len(keys)), keys).reindex(table[image].fillna('').map(without_extension))
    found = places.notna().to_numpy()
    if not found.any() and not may_lack_all:
        raise InputError(f"--join: {path} has none of the images of column '{image}': {preview(keys.tolist(), 3)}")
    if not found.all():
        print(f"* Warning: {counted(int((~found).sum()), 'image')} not in {path} (--join)")
    added = other.drop(columns=[name for name in other if name in table or name == column])
    added = added.iloc[places.fillna(0).astype(int)].set_index(table.index)
    return pd.concat([table, added.where(pd.Series(found, table.index), np.nan)], axis=1)


def _find_image_column(table, path, known, images):
    """-> the column of image ids. Raises `InputError` unless there is one, or one with a telling name."""
    if known:
        return known.image
    matches = _columns_of_images(table, images)
    named = [column for column in matches if words_of(column) & IMAGE_WORDS]
    for columns in (matches, named):
        if len(columns) == 1:
            return columns[0]
    if matches:
        raise InputError(f"{path}: columns {', '.join(matches)} all name images: select one with --image_column")
    if not images.paths:
        raise InputError(f"{' and '.join(images.folders)}: no image is in this folder (unpack archives first)")
    raise InputError(f"{path}: no column names the images below {' and '.join(images.folders)}, such as {min(images.paths)} (row 2 has "
                     f"{', '.join(table.iloc[0].dropna())}): check --images, or select the column with --image_column")


def _columns_of_images(table, images):
    """-> the columns whose cells name images, in at least half of a sample of the rows"""
    sample = table.iloc[np.unique(np.linspace(0, len(table) - 1, SAMPLE).astype(int))]
    found = {column: images.find(ids, [''] * len(ids)) for column in table if (ids := sample[column].dropna().tolist())}
    return [column for column, paths in found.items() if 2 * sum(map(bool, paths)) >= len(sample)]


def _find_patient_column(table, known, image):
    if known and known.patient in table:
        return known.patient
    likely = [column for column in table if column != image and re.sub('[^a-z]', '', column.lower()) in PATIENT_COLUMNS]
    return min(likely, key=lambda column: PATIENT_COLUMNS.index(re.sub('[^a-z]', '', column.lower())), default='')


def zeros_and_ones(columns: pd.DataFrame) -> pd.DataFrame:
    """-> one-hot columns as numbers, NaN for other values"""
    return columns.replace(TRUTH).apply(pd.to_numeric, errors='coerce')


def _find_label_columns(table, path, known, taken):
    """-> the class column, or the columns of 0 and 1"""
    if known:
        return list(known.labels)
    others = table[[column for column in table if column not in taken]]
    binary = find_binary_columns(others)
    one_hot = bool(binary) and (zeros_and_ones(others[binary]).sum(axis=1) == 1).all()
    named = [column for column in others if column.casefold() in LABEL_NAMES]
    alike = [column for column in others if words_of(column) & LABEL_WORDS and not (one_hot and column in binary)]
    if one_hot and not named and not alike:
        return binary
    for columns in (named, *(() if one_hot else (alike, list(others)))):
        if len(columns) == 1:
            return columns
    if not len(others.columns):
        raise InputError(f"{path} has no column with the class, only {', '.join(table)} (tools.predict predicts images without labels)")
    few = [f'{column} ({n} values)' for column in others if 2 <= (n := others[column].nunique()) <= 100]
    raise InputError(f"{path}: which column is the class? Select it with --label_column: {preview(few, 10) or ', '.join(others)}")
