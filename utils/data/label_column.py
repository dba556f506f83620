"""Find the column of a csv that holds the class."""
import re

import pandas as pd

from utils.common import InputError

LABEL_NAMES = ('label', 'level', 'grade', 'diagnosis', 'class', 'target', 'dx')  # usual names of the class column
# A column before the last one may be the class if its name contains one of these words.
LABEL_WORDS = {*LABEL_NAMES, 'labels', 'levels', 'grades', 'diagnoses', 'classes', 'targets', 'category', 'finding', 'severity'}
NAME_COLUMNS = ('name', 'finding_name')  # columns with class names
NOT_LABELS = ('image_id', 'patient_id', *NAME_COLUMNS)
NO_LABELS = 'none'  # value of --label_column
TRUTH = {'FALSE': '0', 'False': '0', 'false': '0', 'TRUE': '1', 'True': '1', 'true': '1'}  # in one-hot columns
HELP = 'column with the class (default: the last column)'


def drop_empty_columns(table: pd.DataFrame, wanted: str | None = None) -> pd.DataFrame:
    """Drop columns without any value, which spreadsheets often leave at the end.

    Empty columns with a known name are kept: an empty class column means a csv without labels.
    """
    if not len(table):
        return table
    return table[[column for column in table
                  if table[column].notna().any() or column in (wanted, *NOT_LABELS) or _is_label_name(column)]]


def find_label_column(table: pd.DataFrame, csv_path: str, wanted: str | None = None) -> str | None:
    """Return the name of the class column of `table` (from `drop_empty_columns`); None for a csv without labels.

    `wanted`: the name from --label_column or from training, or `NO_LABELS`. By default, the last column is the class.
    Raises `InputError` if that would be a guess: another column has a typical class name, two columns share such a name, or the
    classes are spread over several columns of 0 and 1.
    """
    wanted = wanted.strip() if wanted else None  # `read_csv` strips column names, too
    if wanted == NO_LABELS or not set(table) - set(NOT_LABELS):
        return None
    last = table.columns[-1]
    if wanted is not None and wanted not in table:
        raise InputError(f"{csv_path} has no class column '{wanted}' (columns: {', '.join(table)}): select another column with "
                         f'--label_column, or test without labels with --label_column {NO_LABELS}')
    if wanted is None:
        _refuse_guess(table, csv_path)
        if last in NOT_LABELS:
            return None
    column = wanted or last
    return None if len(table) and table[column].isna().all() else column


def describe_label_column(csv_path: str, column: str | None) -> str:
    """Return the console line that names the class column."""
    return f'* {csv_path}: ' + (f"class = column '{column}'" if column else 'no labels')


def _is_label_name(column):
    return column.casefold() in LABEL_NAMES


def words_of(column: str) -> set[str]:
    """'DR_grade', 'drGrade' and 'DRGrade' -> {'dr', 'grade'}"""
    return {word.lower() for word in re.findall('[A-Z]+(?![a-z])|[A-Z]?[a-z]+', column)}


def _refuse_guess(table, csv_path):
    """Raise `InputError` if a column other than the last one of `table` may be the class."""
    last, others = table.columns[-1], [column for column in table.columns[:-1] if column not in NOT_LABELS]
    way_out = 'select the class column with --label_column'
    if same := [column for column in others if _is_label_name(last) and column.casefold() == last.casefold()]:
        raise InputError(f"{csv_path} has two possible class columns, '{same[0]}' and '{last}': {way_out}")
    if _is_label_name(last):
        return
    if alike := [column for column in others if words_of(column) & LABEL_WORDS]:
        raise InputError(f"{csv_path}: the last column is '{last}', but '{alike[0]}' may be the class: {way_out}, "
                         f"for example --label_column '{alike[0]}'")
    if spread := find_binary_columns(table):
        raise InputError(f"{csv_path}: columns {', '.join(spread)} hold only 0 and 1, as if each class had its own column: add one column "
                         f'with the class as a number from 0, or {way_out}')


def find_binary_columns(table: pd.DataFrame) -> list:
    """Return adjacent columns of 0 and 1, or False and True, over which the classes may be spread; [] if there are none.

    These are two or more columns that add up to 1 in every row (one-hot), or three or more at the end of the table (multi-label).
    """
    if not len(table):
        return []
    values = table.replace(TRUTH).apply(pd.to_numeric, errors='coerce')
    binary = [column not in NOT_LABELS and bool(values[column].isin((0, 1)).all()) for column in values]
    for start in range(len(binary)):
        total, end_of_one_hot = 0, None
        for end in range(start, len(binary)):
            if not binary[end]:
                break
            total = total + values.iloc[:, end]
            if end > start and (total == 1).all():
                end_of_one_hot = end
        if end_of_one_hot:
            return list(values.columns[start:end_of_one_hot + 1])
    n_last = next((i for i, is_binary in enumerate(reversed(binary)) if not is_binary), len(binary))
    return list(values.columns[-n_last:]) if n_last > 2 else []
