"""From a table of labels and its image files to a table for `csv_splits`."""
import argparse
from collections.abc import Sequence

import numpy as np
import pandas as pd

from utils.common import InputError, counted, preview, printable
from utils.datasets.class_numbers import class_texts, label_numbers
from utils.datasets.csv_splits import SPLITS, add_patients, match_patients
from utils.datasets.image_index import ImageIndex
from utils.datasets.label_tables import NO_COLUMN, LabelTable

WRITTEN = ('image_id', 'patient_id', 'name', 'label', 'part')  # columns that --keep cannot have
SHOWN_ROWS = 3
Numbering = tuple[dict[str, int], list[str]]  # {text of the label: class}, class names; from `number_classes`


def check_kept_columns(keep: Sequence[str]) -> None:
    """Raise `InputError` if a column of --keep has the name of a column that the csvs have anyway."""
    if taken := [column for column in keep if column.casefold() in WRITTEN]:
        raise InputError(f'--keep {taken[0]}: the csvs have a column of this name already: rename it in the table')


def _parts_of(source, column, fixed):
    """-> 'train', 'val' or 'test' for each row, as --split_column says; `fixed` without that flag"""
    if not column:
        return [fixed] * len(source.table)
    if column not in source.table:
        raise InputError(f"--split_column: {source.path} has no column '{column}' (its columns: {', '.join(source.table)})")
    cells = source.table[column].fillna('')
    parts = [SPLITS.get(cell.lower(), '') for cell in cells]
    if '' in parts:
        row = parts.index('')
        raise InputError(f"{source.where(row)}: '{cells[row]}' in column '{column}' is not train, val or test: correct it, or delete the "
                         'row')
    return parts


def _find_files(source, images, parts, skip_missing):
    """-> path of each image below the data path, None for a missing one. Raises `InputError` if one is missing or ambiguous."""
    ids = source.table[source.image].fillna('').tolist()
    found = images.find(ids, parts)
    for row, paths in enumerate(found):
        if len(paths) > 1:
            raise InputError(f"{source.where(row)}: image '{ids[row]}' may be {' or '.join(paths[:3])}: give only the folder of this "
                             f"table's images with --images or --test_images, or write paths into column '{source.image}'")
    missing = [f"{ids[row] or 'an empty cell'} (row {source.rows[row]})" for row, paths in enumerate(found) if not paths]
    where = f"{source.path}: {len(missing)} of {counted(len(ids), 'image')} of column '{source.image}'"
    if missing and not skip_missing:
        raise InputError(f"{where} not found below {' and '.join(images.folders)}: {preview(missing)}; check --images, or leave these rows "
                         'out with --skip_missing')
    if missing:
        print(f'* Left out: {where} not found: {preview(missing)}')
    return [paths[0] if paths else None for paths in found]


def _leave_out_repeated(source, table):
    """Keep the first of several rows of an image, with index = row of `source`. Raises `InputError` if they differ in class or split."""
    repeated = table.image_id.duplicated()
    for column, what in (('label', 'class'), ('part', 'split')):
        first = table.drop_duplicates('image_id').set_index('image_id')[column]
        differs = repeated & (table.image_id.map(first) != table[column])
        if differs.any():
            row = table.index[int(np.argmax(differs))]
            before = table.index[int(np.argmax(table.image_id == table.image_id[row]))]
            raise InputError(f"{source.where(row)}: image {table.image_id[row]} has another {what} than in row {source.rows[before]}: "
                             'correct one of them')
    if repeated.any():
        print(f"* Left out: {counted(repeated.sum(), 'repeated row')} of {source.path}: "
              f"{preview([f'row {source.rows[row]}' for row in table.index[repeated]])}")
    return table[~repeated]


def labelled_images(source: LabelTable, images: ImageIndex, args: argparse.Namespace, *, numbering: Numbering,
                    fixed: str) -> pd.DataFrame:
    """-> table of `csv_splits` with the images of `source` that have a label. Its index is their row in `source`.

    `args`: see tools/prepare_csv_data.py. `fixed`: the part of all rows if there is no --split_column; may be ''.
    """
    numbers, class_names = numbering
    texts, parts = _texts_with_training(source, numbers), _parts_of(source, args.split_column, fixed)
    files = _find_files(source, images, parts, args.skip_missing)
    table = pd.DataFrame({'image_id': files, 'label': label_numbers(source, texts, numbers)})
    for column in args.keep:
        if column not in source.table:
            raise InputError(f"--keep: {source.path} has no column '{column}' (its columns: {', '.join(source.table)})")
        table[column] = source.table[column]
    table['part'] = parts
    usable = table.image_id.notna() & table.label.notna()
    if not usable.any():
        raise InputError(f'{source.path}: no row has both a label and an image file')
    table = _leave_out_repeated(source, table[usable])
    pattern = args.patient_pattern or (source.known.patient_pattern if source.known else '')
    if source.patient:
        add_patients(table, source.table[source.patient][table.index])
    elif pattern and args.group_column != NO_COLUMN:
        add_patients(table, match_patients(table.image_id, pattern))
    labels = table.pop('label').astype(np.int64)
    return table.assign(name=[class_names[c] for c in labels], label=labels, part=table.pop('part'))


def _texts_with_training(source, numbers):
    """-> `class_texts` without those of one-hot columns that have no training images. Prints the rows without a label."""
    texts = class_texts(source)
    if len(source.labels) > 1 and (untrained := texts.notna() & ~texts.isin(list(numbers))).any():
        print(f"* Left out: {counted(untrained.sum(), 'image')} of {source.path} of a class without training images: "
              f'{preview(sorted(texts[untrained].unique()))}')
        texts = texts.mask(untrained)
    elif texts.isna().any():
        unlabelled = [f'row {source.rows[row]}' for row in np.flatnonzero(texts.isna())]
        print(f"* Left out: {counted(len(unlabelled), 'row')} of {source.path} without a label: {preview(unlabelled)}")
    return texts


def describe(source: LabelTable, table: pd.DataFrame) -> None:
    """Print what was taken for image, class and patient, with the first rows."""
    columns = {'image': f"column '{source.image}'", 'class': f"column{'s' * (len(source.labels) > 1)} '{', '.join(source.labels)}'"}
    columns['patient'] = f"column '{source.patient}'" if source.patient else 'from the file name' if 'patient_id' in table else 'none'
    print(f"* {source.path}: {', '.join(f'{what} = {column}' for what, column in columns.items())}")
    for row in table.index[:SHOWN_ROWS]:
        shown = table.loc[row]
        patient = f', patient {shown.patient_id}' if 'patient_id' in table and pd.notna(shown.patient_id) else ''
        print(printable(f"  row {source.rows[row]}: {source.table[source.image][row]} -> {shown.image_id}, class {shown.label} "
                        f"({shown['name']}){patient}"))
