"""The only reader of csv tables from users, and cells that a spreadsheet does not take for formulas."""
import os

import numpy as np
import pandas as pd

from .common import InputError

FORMULA = r"^('*[=+\-@\t\r])"  # what makes Excel and its like compute a cell
SEPARATORS = (',', ';', '\t')
UNKNOWN = ('', 'NA', 'N/A', 'NaN', 'nan', 'None', 'null', 'NULL')  # ways to write that a patient is not known


def read_csv(path, what='csv'):
    """-> DataFrame of str (NaN for an empty cell, so that ids such as 007 and NA keep their form), and the row of each line
    in the file as a spreadsheet counts (the header is row 1), int64 (N,).

    UTF-8 with or without byte order mark, any end of line, columns separated by comma, semicolon or tab; empty lines do not
    count. Raises `InputError` for a file that is missing or no such table, naming the row where it is known.
    """
    check_csv_exists(path, what)
    with open(path, 'rb') as f:
        content = f.read(1 << 16)
    if b'\0' in content:
        raise InputError(f"{path} is no csv table: it holds zero bytes (a spreadsheet file? save it as 'CSV UTF-8')")
    header = content.splitlines()[0].decode('utf-8-sig', 'replace') if content else ''
    separator = max(SEPARATORS, key=header.count)
    try:
        table = pd.read_csv(path, sep=separator, dtype=str, encoding='utf-8-sig', keep_default_na=False, na_values=[''],
                            skip_blank_lines=False, low_memory=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as err:
        raise InputError(f'{path} is no csv table: {str(err).strip()}') from err
    except UnicodeDecodeError as err:
        raise InputError(f"{path} is no csv table: row {_row_without_utf8(path)} is not UTF-8 text (save it as 'CSV UTF-8')") from err
    if not isinstance(table.index, pd.RangeIndex):
        raise InputError(f'{path} is no csv table: its rows have more columns than its header, row 1')
    table.columns = table.columns.str.strip()
    filled = table.notna().any(axis=1).to_numpy()
    table = table[filled].reset_index(drop=True)
    for column in table.columns.intersection(['image_id', 'patient_id', 'name', 'finding_name']):
        table[column] = without_apostrophe(table[column])
    if 'patient_id' in table:
        table['patient_id'] = table.patient_id.mask(table.patient_id.isin(UNKNOWN))
    return table, np.flatnonzero(filled) + 2


def check_csv_exists(path: str, what: str = 'csv') -> None:
    if os.path.isdir(path):
        raise InputError(f'{path} is a folder, not a {what}: name the file')
    if not os.path.isfile(path):
        raise InputError(f'no such {what}: {path}')


def _row_without_utf8(path):
    with open(path, 'rb') as f:
        for row, line in enumerate(f, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return row


def with_apostrophe(values):
    """Text as spreadsheets show it: what they would take for a formula gets a leading apostrophe, the rest stays as it is."""
    return pd.Series(values, dtype=object).replace(FORMULA, r"'\1", regex=True)


def csv_text(table):
    """The csv of `table`, of whose cells a spreadsheet computes none (`with_apostrophe`); numbers stay as they are."""
    table = table.copy()
    for name in table.columns:
        if not pd.api.types.is_numeric_dtype(table[name]):
            table[name] = with_apostrophe(table[name])
    return table.to_csv(index=False)


def without_apostrophe(values):
    """Undoes `with_apostrophe`."""
    quoted = values.str.startswith("'").eq(True)  # first of all: a million patterns take a second
    return values.where(~quoted, values[quoted].str.replace("^'" + FORMULA[1:], r'\1', regex=True)) if quoted.any() else values
