"""Every dialect of csv that spreadsheets write, and what is no csv."""
import numpy as np
import pandas as pd
import pytest

from utils.check_data import check_data
from utils.common import InputError
from utils.get_loaders import ClassDataset
from utils.read_csv import csv_text, read_csv, with_apostrophe, without_apostrophe

GOOD = 'image_id,name,label\na,x,0\nb,y,1\nNA,y,1\n'


@pytest.mark.parametrize('content', [
    GOOD.encode(), GOOD.encode('utf-8-sig'), GOOD.replace('\n', '\r\n').encode(), GOOD.replace('\n', '\r').encode(),
    GOOD.replace(',', ';').encode('utf-8-sig'), GOOD.replace(',', '\t').encode(), GOOD.replace(',', ', ', 2).encode(),
    GOOD.rstrip().encode(), (GOOD + '\n\n').encode(), GOOD.replace(',1', ',1.0').encode(), GOOD.replace('a,x', '"a","x"').encode(),
], ids=['utf8', 'bom', 'crlf', 'cr', 'semicolon', 'tab', 'spaces', 'no_end', 'blank_end', 'float_labels', 'quoted'])
def test_dialects(tmp_path, content):
    (tmp_path / 'a.csv').write_bytes(content)
    data = ClassDataset(tmp_path / 'a.csv')
    assert data.im_list == ['a', 'b', 'NA'] and data.dr.tolist() == [0, 1, 1] and data.rows.tolist() == [2, 3, 4]
    assert data.class_names(2) == ['x', 'y']


def test_rows_count_empty_lines(tmp_path):
    (tmp_path / 'a.csv').write_text('image_id,patient_id,label\na,NA,0\n\nb,07,9\n')
    data = ClassDataset(tmp_path / 'a.csv')
    assert data.rows.tolist() == [2, 4] and data.table.patient_id.isna().tolist() == [True, False] and data.table.patient_id[1] == '07'
    with pytest.raises(InputError, match=r': 9 \(row 4\)'):
        check_data({'test': data}, 2)


@pytest.mark.parametrize(('content', 'message'), [
    (None, r'no such csv: .*a\.csv'), (b'', r'a\.csv is no csv table: No columns'),
    (b'image_id,label\na,0\nb,1,2\n', r'is no csv table: .*line 3'),
    (b'image_id,label\na,0,1\nb,1,2\n', 'more columns than its header'), (b'PK\3\4\0\0', "zero bytes .*save it as 'CSV UTF-8'"),
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
    (('0', '1', '2'), 2, r'no integers of 0\.\.1 \(--n_classes 3\?, .*\): 2 \(row 4\)'), (('1', '2', '2'), 2, 'classes start at 0'),
    (('0', '0', '0'), 2, 'one class only'), (('0', '0', '0'), 1, '--n_classes must be at least 2'), (('', '', ''), 2, 'no labels'),
    ((), 2, r'a\.csv: no rows'),
], ids=['nan', 'empty', 'negative', 'fraction', 'huge', 'infinite', 'too_many', 'from_one',
        'one_class', 'one_class_asked', 'no_labels', 'no_rows'])
def test_labels(tmp_path, labels, n_classes, message):
    for i in range(3):
        (tmp_path / f'{i}.jpg').write_bytes(b'x')
    (tmp_path / 'a.csv').write_text('image_id,label\n' + ''.join(f'{i},{label}\n' for i, label in enumerate(labels)))
    with pytest.raises(InputError, match=message) as error:
        check_data({'train': ClassDataset(tmp_path / 'a.csv', str(tmp_path))}, n_classes)
    assert 'a.csv: ' in str(error.value)


def test_duplicate_rows(tmp_path):
    (tmp_path / 'x.jpg').write_bytes(b'x')
    (tmp_path / 'a.csv').write_text('image_id,label\nx,0\nx.jpg,0\n')
    with pytest.raises(InputError, match=r'1 images stand in more than one row \(delete the repeated rows\): .*x\.jpg \(rows 2 and 3\)'):
        check_data({'test': ClassDataset(tmp_path / 'a.csv', str(tmp_path))}, 2)


def test_cells_are_no_formulas(tmp_path):
    values = ['=1+1', '+a', '-1', '@x', '\tx', "'=x", "''-", "'plain", 'a=b', '007', 'x-y']
    safe = with_apostrophe(values)
    assert safe.tolist() == ["'=1+1", "'+a", "'-1", "'@x", "'\tx", "''=x", "'''-", "'plain", 'a=b', '007', 'x-y']
    assert without_apostrophe(safe).tolist() == values
    (tmp_path / 'a.csv').write_text(csv_text(pd.DataFrame({'image_id': values, 'name': None, 'change': -.5, 'label': -1})))
    assert (tmp_path / 'a.csv').read_text().splitlines()[1] == "'=1+1,,-0.5,-1"
    table, rows = read_csv(tmp_path / 'a.csv')
    assert table.image_id.tolist() == values and rows.tolist() == list(np.arange(len(values)) + 2)
