"""Read csvs from users, and write csvs whose cells no spreadsheet takes for formulas. All csvs from users are read here."""
import io
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import pandas as pd

from utils.common import CONTROL, InputError, check_name, printable, read_limited

FORMULA = r"^('*[=+\-@\t\r])"  # makes Excel and other spreadsheets evaluate a cell
SEPARATORS = (',', ';', '\t')
MAX_BYTES, MAX_CELLS, MAX_COLUMNS = 1 << 30, 2 * 10**8, 10**5  # per table
MAX_ROW = 10**5  # bytes, plus 100 per column
CONTROL_BYTES = bytes(set(range(32)) - set(b'\t\r\n')) + b'\x7f'  # ASCII
SHOWN = ['image_id', 'patient_id', 'name', 'finding_name']  # columns whose cells appear in messages and reports
# Spellings of an unknown patient, in lower case.
UNKNOWN = {'', '-', '--', '---', '.', '?', '??', '???', '#n/a', '<na>', 'n/a', 'n.a.', 'na', 'nan', 'none', 'nil', 'null', 'unk', 'unknown',
           'unknown patient', 'undefined', 'missing', 'not available', 'not known', 'anonymous', 'anonymized', 'anonymised'}


def read_csv(path: str, what: str = 'csv') -> tuple[pd.DataFrame, np.ndarray]:
    """Read a csv. Returns (table, row numbers as in a spreadsheet: int64 (N,); the header is row 1).

    The table holds str, so that ids such as 007 and NA are kept, and NaN for empty cells. The file is UTF-8 with or without byte order
    mark, with any line ending; columns are separated by comma, semicolon or tab. Empty lines are skipped, and blanks around cells are
    stripped. `patient_id` is normalised (`clean_patients`).

    Raises `InputError`, with the row where it is known, for:
    - a file that is missing, not such a table, or too large for memory
    - a cell with a line break
    - control characters in column names or in the columns SHOWN
    - two columns with the same name
    """
    check_csv_exists(path, what)
    return parse_csv(read_limited(path, MAX_BYTES), path)


def parse_csv(content: bytes, path: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Like `read_csv`, for the bytes `content`; `path` is the file name in errors."""
    if b'\0' in content:
        raise InputError(f"{path} is not a csv table: it contains zero bytes (unpack a zip file; save a spreadsheet as 'CSV UTF-8')")
    header = re.split(rb'[\r\n]', content, maxsplit=1)[0].decode('utf-8-sig', 'replace')
    separator = max(SEPARATORS, key=header.count)
    _check_size(path, content, header.count(separator) + 1)
    lines = content.splitlines() if b'"' in content else []  # without quotation marks, no cell contains a line break
    try:
        # The header is read as a row. Otherwise pandas renames columns with equal names, and takes an extra column for an index.
        table = pd.read_csv(io.BytesIO(content), header=None, sep=separator, dtype=str, encoding='utf-8-sig', keep_default_na=False,
                            na_values=[''], skip_blank_lines=False, skipinitialspace=True, low_memory=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as err:
        _refuse_open_quotes(path, lines, separator)
        raise InputError(_parser_error(path, str(err))) from err
    except UnicodeDecodeError as err:
        raise InputError(f"{path} is not a csv table: row {_row_without_utf8(content)} is not UTF-8 text (save it as 'CSV UTF-8')") from err
    if len(table) < len(lines):
        _refuse_open_quotes(path, lines, separator)
    if re.search(rb'[^!-~\r\n]', content):  # stripping a million cells takes a second
        for column in table.columns:
            cells = table[column].str.strip()
            table[column] = cells.mask(cells == '')
    table.columns = _column_names(path, table.iloc[0])
    filled = table.notna().any(axis=1).to_numpy() & (np.arange(len(table)) > 0)  # without the header
    table = table[filled].reset_index(drop=True)
    rows = np.flatnonzero(filled) + 1
    if not content.isascii() or len(content.translate(None, CONTROL_BYTES)) < len(content):
        _refuse_control(path, table, rows)
    for column in table.columns if b"'" in content else ():
        table[column] = without_apostrophe(table[column])
    if 'patient_id' in table:
        table['patient_id'] = clean_patients(table.patient_id)
    return table, rows


def _check_size(path, content, n_columns):
    """Raise `InputError` if the table would need much more memory than its file, or has a row that is too long to be real."""
    n_rows = max(content.count(b'\n'), content.count(b'\r')) + 1
    if n_columns > MAX_COLUMNS or n_columns * n_rows > MAX_CELLS:
        raise InputError(f'{path} is too large: {n_rows:,} rows of {n_columns:,} columns (at most {MAX_COLUMNS:,} columns and '
                         f'{MAX_CELLS:,} cells)')
    characters = np.frombuffer(content, np.uint8)
    ends = np.flatnonzero((characters == 10) | (characters == 13))
    lengths = np.diff(ends, prepend=-1, append=len(content)) - 1
    longest = int(lengths.argmax())
    if lengths[longest] > MAX_ROW + 100 * n_columns:
        row = _row_at(content[:ends[longest - 1] + 1] if longest else b'')
        raise InputError(f'{path} is not a csv table: row {row} is too long, {lengths[longest]:,} bytes in {n_columns:,} columns')


def _refuse_control(path, table, rows):
    """Raise `InputError` for the first control character in the header or in the columns SHOWN, such as one that moves the cursor.

    `rows`: row numbers for the message.
    """
    for column in table.columns:
        if CONTROL.search(column):
            raise InputError(f'{path}, row 1: column name {printable(column)} contains control characters: rename the column')
    for column in table.columns.intersection(SHOWN):
        bad = np.flatnonzero(table[column].str.contains(CONTROL).eq(True))
        if len(bad):
            raise InputError(f"{path}, row {rows[bad[0]]}: '{column}' contains control characters: {printable(table[column][bad[0]])}")


def _row_at(before):
    """Return the row number, as in a spreadsheet, of the text after the bytes `before`."""
    return len((before + b'.').splitlines())


def _column_names(path, header):
    names, positions = header.fillna('').tolist(), defaultdict(list)
    for i, name in enumerate(names, start=1):
        if name:
            positions[name].append(str(i))
    for name, of in positions.items():
        if len(of) > 1:
            raise InputError(f"{path}, row 1: columns {' and '.join(of)} have the same name '{name}': rename or delete one of them")
    return [name or f'Unnamed: {i}' for i, name in enumerate(names)]  # the names that pandas gives them


def _parser_error(path, text):
    if ragged := re.search(r'Expected (\d+) fields in line (\d+), saw (\d+)', text):
        expected, row, found = ragged.groups()
        return f'{path} is not a csv table: row {row} has {found} cells, but the header (row 1) has {expected}'
    return f'{path} is not a csv table: {printable(text.strip())}'


def _refuse_open_quotes(path, lines, separator):
    """Raise `InputError` for the first of the `lines` (bytes) with a quotation mark that is not closed."""
    for row, line in enumerate(lines, start=1):
        if cell := _open_cell(line.decode('utf-8-sig', 'replace'), separator):
            raise InputError(f"{path}, row {row}: unclosed quotation mark: {cell if len(cell) <= 40 else cell[:40] + '...'} "
                             '(close or delete it; a cell must not contain a line break)')


def _open_cell(line, separator):
    """Return the cell of `line` with an unclosed quotation mark, or None. Two marks in a row are one mark within the cell."""
    start = 0
    while True:
        end = start
        if line[start:].lstrip(' ').startswith('"'):
            end = line.index('"', start)
            while True:
                end = line.find('"', end + 1)
                if end < 0:
                    return line[start:].strip()
                if not line.startswith('""', end):
                    break
                end += 1
        start = line.find(separator, end) + 1
        if not start:
            return None


def clean_patients(ids: pd.Series) -> pd.Series:
    """Normalise a Series of patient ids for comparison.

    Blanks around an id are stripped, `12.0`, as written by spreadsheets, becomes `12`, and unknown patients (`UNKNOWN`) become NaN.
    """
    cleaned = {}
    for patient in ids.dropna().unique():
        text = patient.strip()
        number = re.fullmatch(r'([0-9]+)\.0+', text)
        cleaned[patient] = np.nan if text.lower() in UNKNOWN else number[1] if number else text
    return ids.map(cleaned).astype(ids.dtype)


def patient_key(patient_id: str) -> str:
    """Return a key that ignores case, blanks, leading zeros, Unicode form and the kind of hyphen of a patient id."""
    text = re.sub(r'[\s\u200b-\u200f\u2060\ufeff]', '', unicodedata.normalize('NFKC', patient_id).casefold())  # also zero-width blanks
    return re.sub(r'(?<![0-9])0+(?=[0-9])', '', re.sub(r'[\u2010-\u2015\u2212]', '-', text))


def check_csv_exists(path: str, what: str = 'csv') -> None:
    check_name(path)
    if os.path.isdir(path):
        raise InputError(f'{path} is a folder, not a {what}: name the file')
    if not os.path.isfile(path):
        raise InputError(f'no such {what}: {path}')


def _row_without_utf8(content):
    for row, line in enumerate(content.splitlines(), start=1):
        try:
            line.decode()
        except UnicodeDecodeError:
            return row


def with_apostrophe(values: Iterable) -> pd.Series:
    """Add a leading apostrophe to values that a spreadsheet would evaluate as formulas; other values are unchanged."""
    return pd.Series(values, dtype=object).replace(FORMULA, r"'\1", regex=True)


def csv_text(table: pd.DataFrame) -> str:
    """Return `table` as csv text whose cells no spreadsheet evaluates (`with_apostrophe`); numeric columns are unchanged."""
    table = table.copy()
    for name in table.columns:
        if not pd.api.types.is_numeric_dtype(table[name]):
            table[name] = with_apostrophe(table[name])
    return table.to_csv(index=False)


def without_apostrophe(values: pd.Series) -> pd.Series:
    """Undo `with_apostrophe`."""
    quoted = values.str.startswith("'").eq(True)  # quick check first: matching a million patterns takes a second
    return values.where(~quoted, values[quoted].str.replace("^'" + FORMULA[1:], r'\1', regex=True)) if quoted.any() else values
