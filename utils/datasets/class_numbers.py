"""From the labels of a table to classes 0 to K-1 with names.

Rows are named in errors as in a spreadsheet.
"""
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from utils.common import InputError, counted, preview
from utils.data.label_column import words_of
from utils.datasets.csv_splits import natural
from utils.datasets.label_tables import LabelTable, zeros_and_ones


def class_texts(source: LabelTable) -> pd.Series:
    """-> the class of each row as a text, (N,), NaN for a row without a label. Whole numbers lose a decimal zero: 2.0 becomes 2.

    Raises `InputError` for numbers with decimals, and for rows of one-hot columns that do not have a single 1.
    """
    if len(source.labels) > 1:
        values = zeros_and_ones(source.table[source.labels])
        empty = source.table[source.labels].isna().all(axis=1)
        wrong = ~(values.isin((0, 1)).all(axis=1) & (values.sum(axis=1) == 1)) & ~empty
        if wrong.any():
            row = int(np.argmax(wrong))
            ones = [column for column in source.labels if values[column][row] == 1]
            found = f"1 in {', '.join(ones)}" if (values.iloc[row].isin((0, 1))).all() and ones else 'no 1' if not ones else 'other values'
            raise InputError(f"{source.where(row)}: columns {', '.join(source.labels)} have {found}, but an image has one class: correct "
                             'the row, or select one column with --label_column')
        return pd.Series(np.array(source.labels)[values.fillna(0).to_numpy().argmax(axis=1)], source.table.index).where(~empty)
    texts = source.table[source.labels[0]]
    numbers = pd.to_numeric(texts, errors='coerce')
    if numbers.notna().sum() < texts.notna().sum():
        return texts
    whole = texts.str.replace(r'^([-+]?\d+)\.0*$', r'\1', regex=True)  # not by float, which cannot hold long codes
    if (other := whole.notna() & ~whole.str.fullmatch(r'[-+]?\d+').eq(True)).any():
        row = int(np.argmax(other))
        raise InputError(f"{source.where(row)}: '{texts[row]}' in column '{source.labels[0]}' is not a class: select another column with "
                         '--label_column')
    return whole


def number_classes(source: LabelTable, texts: pd.Series, wanted: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """-> ({text of the label: class}, class names), numbered in the order of `wanted`, of one-hot columns, or in natural order.

    `wanted`: the labels in the order of --classes, or names for the labels 0 to K-1. Raises `InputError` for labels that `wanted` lacks,
    that differ only in case, or that are different in most rows.
    """
    found = texts.dropna()
    numeric = bool(found.str.fullmatch('[-+]?[0-9]+').all())
    present = sorted(found.unique(), key=int if numeric else natural)
    counting = [str(c) for c in range(len(wanted or present))]
    known_names = list(source.known.class_names) if source.known and source.labels == list(source.known.labels) else []
    column = source.labels[0] if len(source.labels) == 1 else ''
    if wanted and set(present) == set(counting) and set(wanted) != set(counting):
        return {text: c for c, text in enumerate(counting)}, list(wanted)
    if wanted:
        order = list(wanted)
    elif known_names:
        known_names = known_names[:max(map(int, present)) + 1]
        return {str(c): c for c in range(len(known_names))}, known_names
    elif column:
        order = present
        _refuse_unlikely_classes(source, found, present)
    else:
        order = [text for text in source.labels if text in set(present)]
        if empty := [text for text in source.labels if text not in order]:
            print(f"* Left out: columns without images: {', '.join(empty)}")
    if unknown := [text for text in present if text not in order]:
        row = int(np.argmax(texts == unknown[0]))
        raise InputError(f"{source.where(row)}: label '{unknown[0]}' is not in --classes {','.join(order)}: add it, or delete these rows"
                         + (' (names can be given to the labels 0 to K-1 only)' if numeric else ''))
    if absent := [text for text in order if text not in present]:
        raise InputError(f"--classes: {source.path} has no image of {', '.join(absent)}: leave it out (labels: {preview(present, 10)})")
    if len(order) < 2:
        raise InputError(f"{source.path}: all images have the class '{order[0] if order else ''}': select another --label_column")
    word = 'grade' if 'grade' in words_of(column) else column
    return {text: c for c, text in enumerate(order)}, [f'{word} {text}' for text in order] if numeric else order


def _refuse_unlikely_classes(source, texts, present):
    """Raise `InputError` for labels that differ only in case, and for a column that is different in most rows"""
    column, spellings = source.labels[0], {}
    for text in present:
        other = spellings.setdefault(re.sub(r'[\s_-]+', ' ', text).casefold(), text)
        if other != text:
            row = int(np.argmax(source.table[column] == text))
            raise InputError(f"{source.where(row)}: label '{text}' is also written '{other}' in column '{column}': use one spelling")
    if len(present) > max(20, len(texts) / 4):
        raise InputError(f"{source.path}: column '{column}' has {len(present):,} different values in {counted(len(texts), 'row')}, too "
                         f'many for classes: select another column with --label_column ({preview(present, 3)})')


def label_numbers(source: LabelTable, texts: pd.Series, numbers: dict[str, int]) -> pd.Series:
    """-> class of each row, (N,), NaN for a row without a label. Raises `InputError` for a label that is not in `numbers`."""
    unknown = texts.notna() & ~texts.isin(list(numbers))
    if unknown.any():
        row = int(np.argmax(unknown))
        raise InputError(f"{source.where(row)}: label '{texts[row]}' is not a class of the training table ({', '.join(numbers)}): correct "
                         'it, or delete the row')
    return texts.map(numbers)
