"""All csv dialects that spreadsheets write, and files that are not csv tables."""
import re

import numpy as np
import pandas as pd
import pytest

from utils.common import InputError
from utils.data.check_data import check_data
from utils.data.read_csv import csv_text, read_csv, with_apostrophe, without_apostrophe
from utils.get_loaders import ClassDataset

GOOD = 'image_id,name,label\na,x,0\nb,y,1\nNA,y,1\n'


@pytest.mark.parametrize('content', [
    GOOD.encode(), GOOD.encode('utf-8-sig'), GOOD.replace('\n', '\r\n').encode(), GOOD.replace('\n', '\r').encode(),
    GOOD.replace(',', ';').encode('utf-8-sig'), GOOD.replace(',', '\t').encode(), GOOD.replace(',', ', ', 2).encode(),
    GOOD.rstrip().encode(), (GOOD + '\n\n').encode(), GOOD.replace(',1', ',1.0').encode(), GOOD.replace('a,x', '"a","x"').encode(),
], ids=['utf8', 'bom', 'crlf', 'cr', 'semicolon', 'tab', 'spaces', 'no_end', 'blank_end', 'float_labels', 'quoted'])
def test_dialects(tmp_path, content):
    (tmp_path / 'a.csv').write_bytes(content)
    data = ClassDataset(tmp_path / 'a.csv')
    assert data.image_ids == ['a', 'b', 'NA'] and data.labels.tolist() == [0, 1, 1] and data.rows.tolist() == [2, 3, 4]
    assert data.class_names(2) == ['x', 'y']


def test_rows_count_empty_lines(tmp_path):
    (tmp_path / 'a.csv').write_text('image_id,patient_id,label\na,NA,0\n\nb,07,9\n')
    data = ClassDataset(tmp_path / 'a.csv')
    assert data.rows.tolist() == [2, 4] and data.table.patient_id.isna().tolist() == [True, False] and data.table.patient_id[1] == '07'
    assert ': 9 (row 4)' in '\n'.join(map(str, check_data({'test': data}, 2)))


@pytest.mark.parametrize(('content', 'message'), [
    (None, r'no such csv: .*a\.csv'), (b'', r'a\.csv is not a csv table: No columns'),
    (b'image_id,label\na,0\nb,1,2\n', r'is not a csv table: row 3 has 3 cells, but .* has 2$'),
    (b'image_id,label\na,0,1\nb,1,2\n', r'has 3 cells, but the header \(row 1\) has 2'),
    (b'PK\3\4\0\0', "zero bytes .*save a spreadsheet as 'CSV UTF-8'"),
    (GOOD.replace('b,', 'gr\xf6sse,').encode('latin-1'), r'row 3 is not UTF-8 text \(save it'), (GOOD.encode('utf-16'), 'zero bytes'),
    (b'file,label\na,0\n', r"a\.csv has no column 'image_id' \(its columns: file, label\)"),
], ids=['absent', 'empty', 'ragged', 'long_rows', 'zip', 'latin1', 'utf16', 'no_image_id'])
def test_no_table(tmp_path, content, message):
    if content is not None:
        (tmp_path / 'a.csv').write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        ClassDataset(tmp_path / 'a.csv')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(('labels', 'n_classes', 'message'), [
    (('0', '1', 'NaN'), 2, r': NaN \(row 4\)'), (('0', '1', ''), 2, r': nan \(row 4\)'),
    (('0', '1', '-1'), 2, r'check --n_classes, .*\): -1 \(row 4\)'),
    (('0', '1', '1.5'), 2, r': 1\.5 \(row 4\)'), (('0', '1', '1e300'), 2, r': 1e300 \(row 4\)'), (('0', '1', 'inf'), 2, r': inf \(row 4\)'),
    (('0', '1', '2'), 2, r'is not an integer in 0\.\.1 \(try --n_classes 3, .*\): 2 \(row 4\)'), 
    (('1', '2', '2'), 2, 'number the classes from 0'), (('0', '0', '0'), 2, 'only one class'),
    (('0', '0', '0'), 1, 'at least 2, in the csv and in --n_classes'), (('', '', ''), 2, 'no labels'), ((), 2, r'a\.csv: no rows'),
], ids=['nan', 'empty', 'negative', 'fraction', 'huge', 'infinite', 'too_many', 'from_one',
        'one_class', 'one_class_asked', 'no_labels', 'no_rows'])
def test_labels(tmp_path, labels, n_classes, message):
    for i in range(3):
        (tmp_path / f'{i}.jpg').write_bytes(b'x')
    (tmp_path / 'a.csv').write_text('image_id,label\n' + ''.join(f'{i},{label}\n' for i, label in enumerate(labels)))
    problems = check_data({'train': ClassDataset(tmp_path / 'a.csv', str(tmp_path))}, n_classes)
    assert any(re.search(message, str(problem)) for problem in problems)


def test_duplicate_rows(tmp_path):
    (tmp_path / 'x.jpg').write_bytes(b'x')
    (tmp_path / 'a.csv').write_text('image_id,label\nx,0\nx.jpg,0\n')
    problem, = check_data({'test': ClassDataset(tmp_path / 'a.csv', str(tmp_path))}, 2)
    assert re.search(r'1 image appears in more than one row \(delete the repeated rows\): .*x\.jpg \(rows 2 and 3\)', problem.text)


def test_no_cell_is_evaluated_as_a_formula(tmp_path):
    values = ['=1+1', '+a', '-1', '@x', '\tx', "'=x", "''-", "'plain", 'a=b', '007', 'x-y']
    safe = with_apostrophe(values)
    assert safe.tolist() == ["'=1+1", "'+a", "'-1", "'@x", "'\tx", "''=x", "'''-", "'plain", 'a=b', '007', 'x-y']
    assert without_apostrophe(safe).tolist() == values
    (tmp_path / 'a.csv').write_text(csv_text(pd.DataFrame({'image_id': values, 'name': None, 'change': -.5, 'label': -1})))
    assert (tmp_path / 'a.csv').read_text().splitlines()[1] == "'=1+1,,-0.5,-1"
    table, rows = read_csv(tmp_path / 'a.csv')
    assert table.image_id.tolist() == values and rows.tolist() == list(np.arange(len(values)) + 2)


def read_text(tmp_path, text):
    (tmp_path / 'a.csv').write_text(text, newline='')
    return read_csv(tmp_path / 'a.csv')[0]


@pytest.mark.parametrize(('text', 'message'), [
    ('image_id,note,label\na,n,0\nb,"5 mm,0\nc,n,1\nd,"6 mm,1\n', r'row 3: unclosed quotation mark: "5 mm,0 \(close or delete it'),
    ('image_id,note,label\na,n,0\n\nb,"5 mm,0\nc,n,1\n', 'row 4: unclosed quotation mark'),
    ('image_id,note,label\na,"two\nlines",0\nb,n,1\n', 'row 2: unclosed quotation mark.* must not contain a line break'),
    ('image_id,note,label\r\na,"two\r\nlines",0\r\nb,n,1\r\n', 'row 2: unclosed quotation mark'),
    ('image_id,note,label\ra,"two\rlines",0\rb,n,1\r', 'row 2: unclosed quotation mark'),
    ('image_id;note;label\n"a";"x ""y""";0\nb; "x;1\n', 'row 3: unclosed quotation mark'),
    ('image_id,label\n"a,0\nb,0\nc,"1\n', 'row 2: unclosed quotation mark: "a,0 '),
    ('image_id,"la\nbel"\na,0\n', 'row 1: unclosed quotation mark'),
    ('image_id,note,label\na,"' + 'long ' * 40 + ',0\n', r'row 2: unclosed quotation mark: "(long ){7}long\.\.\. \('),
], ids=['swallows_rows', 'never_closed', 'line_break', 'crlf', 'cr', 'semicolon', 'first_cell', 'header', 'long_cell'])
def test_open_quotes_are_refused_with_their_row(tmp_path, text, message):
    with pytest.raises(InputError, match=r'a\.csv, ' + message) as error:
        read_text(tmp_path, text)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('cell', ['"a, b"', '"5"" lens"', '5" lens', '"a" b', '""', ' "a, b"', '"a\u2028b"'])  # allowed in a note
def test_quotes_within_a_row_are_read(tmp_path, cell):
    table = read_text(tmp_path, f'image_id,note,label\n1,{cell},0\n2,"x\x0by",1\n')
    assert table.image_id.tolist() == ['1', '2'] and table.label.tolist() == ['0', '1']


@pytest.mark.parametrize(('header', 'message'), [
    ('image_id,label,label', "columns 2 and 3 have the same name 'label'"), ('image_id, image_id,x', "columns 1 and 2 .* 'image_id'"),
    ('label,x,label ', "columns 1 and 3 .* 'label'"), ('x,"x",x', "columns 1 and 2 and 3 .* 'x'"),
])
def test_columns_with_equal_names_are_refused(tmp_path, header, message):
    with pytest.raises(InputError, match=r'a\.csv, row 1: ' + message):
        read_text(tmp_path, f'{header}\na,0,1\n')


def test_column_names_may_differ_only_in_case(tmp_path):
    assert list(read_text(tmp_path, 'image_id,Label,label\na,0,1\n').columns) == ['image_id', 'Label', 'label']


def test_columns_without_a_name_are_read(tmp_path):
    assert list(read_text(tmp_path, 'image_id,label,,\na,0,,\n').columns) == ['image_id', 'label', 'Unnamed: 2', 'Unnamed: 3']


@pytest.mark.parametrize('blank', [' ', '\t', '\xa0', '  '])
def test_blanks_around_cells_are_stripped(tmp_path, blank):
    table = read_text(tmp_path, f'image_id,name,remark,label\n{blank}a{blank},b{blank}c{blank},{blank},{blank}1{blank}\n')
    assert table.iloc[0, [0, 1, 3]].tolist() == ['a', f'b{blank}c', '1'] and table.remark.isna().all()


@pytest.mark.parametrize('spellings', [('12', '12.0', ' 12', '12.00', '"12 "'), (' P1', 'P1', '"P1"'), ('007', '007.0')])
def test_spellings_of_one_patient(tmp_path, spellings):
    table = read_text(tmp_path, 'image_id,patient_id,label\n' + ''.join(f'{i},{cell},0\n' for i, cell in enumerate(spellings)))
    assert table.patient_id.nunique() == 1


def test_different_patients(tmp_path):
    ids = ['12', '012', '12.5', '1.2', 'P12', 'p12', '120', 'P12.0']
    table = read_text(tmp_path, 'image_id,patient_id,label\n' + ''.join(f'{i},{cell},0\n' for i, cell in enumerate(ids)))
    assert table.patient_id.tolist() == ids


@pytest.mark.parametrize('cell', ['', ' ', 'unknown', 'UNKNOWN', 'Unk', 'n/a', '-', "'-", '?', 'None', 'nan', 'NULL', 'Missing'])
def test_an_unknown_patient_has_no_id(tmp_path, cell):
    table = read_text(tmp_path, f'image_id,patient_id,label\na,{cell},0\nb,{cell},0\n')
    assert table.patient_id.isna().all()


def test_rows_are_counted_from_the_header(tmp_path):
    (tmp_path / 'a.csv').write_text('\ufeffimage_id,label\n\n"a",0\n,\nb,1\n', encoding='utf-8')
    assert read_csv(tmp_path / 'a.csv')[1].tolist() == [3, 5]
