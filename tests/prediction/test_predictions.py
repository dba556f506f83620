"""The predictions csv: reading, and error messages for invalid files."""
import os

import numpy as np
import pytest

from utils.common import InputError
from utils.prediction.predictions import read_labelled, read_predictions

GOOD = 'image_id,patient_id,label,pred,p_healthy,p_ill\n001,7,0,0,0.8,0.2\n002,,1,0,0.6,0.4\n'


def read(tmp_path, text):
    (tmp_path / 'x.csv').write_text(text)
    return read_predictions(tmp_path / 'x.csv')


def test_reads(tmp_path):
    table = read(tmp_path, GOOD)
    assert table.image_ids == ['001', '002'] and table.patient_ids == ['7', 'image 002'] and table.class_names == ['healthy', 'ill']
    assert table.labels.tolist() == [0, 1] and table.preds.tolist() == [0, 0] and table.preds.dtype == np.int64
    np.testing.assert_array_equal(table.probs, [[.8, .2], [.6, .4]])
    assert table.probs.dtype == np.float64 and table.path == str(tmp_path / 'x.csv')


def test_without_labels_and_patients(tmp_path):
    table = read(tmp_path, 'image_id,pred,p_a,p_b\nx,1,.4,.6\n')
    assert table.labels is None and table.patient_ids is None
    with pytest.raises(InputError, match=r"x\.csv has no column 'label'"):
        read_labelled(tmp_path / 'x.csv')


@pytest.mark.parametrize(('old', 'new', 'message'), [
    ('image_id', 'file', r'x\.csv is not a csv of predictions .* no column image_id'), ('p_ill', 'ill', 'no column p_<class>'),
    ('001,7,0,0', '001,7,2,0', r"x\.csv, row 2: label '2' is outside 0\.\.1: a class is its position among the 2 columns"),
    ('001,7,0,0', '001,7,,0', "row 2: label '' is outside"), ('001,7,0,0', '001,7,0,.5', r"row 2: pred '\.5' is outside"),
    ('0.8', '', r'row 2 \(001\): .* missing or not numbers \(sum nan\), in 1 of 2 rows'), ('0.8', 'many', 'not numbers'),
    ('0.8', '0.9', r'row 2 \(001\): .* do not add up to 1 \(sum 1\.1\), in 1 of 2 rows'), ('0.8,0.2', '1.2,-0.2', 'negative'),
    ('002', '001', '1 image appears in more than one row, first 001'), ('002', '', 'row 3: no image_id'),
    (GOOD, GOOD.splitlines()[0], 'no rows'), (GOOD, '', 'is not a csv table'),
])
def test_invalid_files(tmp_path, old, new, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, GOOD.replace(old, new))


@pytest.mark.parametrize('value', ['nan', 'NaN', 'inf', '-inf', '1e400', '0x1'])
def test_probabilities_that_are_no_numbers(tmp_path, value):
    with pytest.raises(InputError, match=r'row 2 .* missing or not numbers .*, in 1 of 2 rows'):
        read(tmp_path, GOOD.replace('0.8', value))


@pytest.mark.parametrize('name', ['\x1b[2J', 'a\x9bb', 'a\u202eb', 'a\u2066b', 'a\u200bb', 'a\u2028* Next: rm -rf ~'])
@pytest.mark.parametrize(('old', 'message'), [
    ('healthy', 'row 1: column name p_.* contains'), ('001', "row 2: 'image_id' contains"), (',7,', "row 2: 'patient_id' contains")])
def test_control_characters_in_names(tmp_path, old, message, name):
    with pytest.raises(InputError, match=message + ' control characters: [^\x00-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2066-\u2069]*$'):
        read(tmp_path, GOOD.replace(old, old.replace('7', name).replace('healthy', name).replace('001', name)))


def test_joiners_that_languages_need_are_kept(tmp_path):
    assert read(tmp_path, GOOD.replace('healthy', 'a\u200cb')).class_names[0] == 'a\u200cb'


def test_an_absurd_number_of_classes(tmp_path):
    names = ','.join(f'p_{i}' for i in range(10**5))
    with pytest.raises(InputError, match=r'x\.csv is too large: 2 rows of 100,002 columns \(at most 100,000'):
        read(tmp_path, f'image_id,pred,{names}\n1,0')


def test_short_rows_below_a_wide_header(tmp_path):
    with pytest.raises(InputError, match=r'is too large: 50,001 rows of 50,002 columns'):
        read(tmp_path, 'image_id,pred' + ',p_a' * 50_000 + '\n1' * 50_000)


def test_a_huge_cell_is_not_printed(tmp_path):
    with pytest.raises(InputError, match=r'is not a csv table: row 3 is too long, 1,000,013 bytes in 6 columns$'):
        read(tmp_path, GOOD.replace('002', 'x' * 10**6))


def test_a_giant_file_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / 'x.csv', 'wb') as f:
        f.truncate(10**12)  # a sparse file
    with pytest.raises(InputError, match=r'x\.csv has 1,000,000,000,000 bytes, more than'):
        read_predictions(tmp_path / 'x.csv')


@pytest.mark.parametrize('kind', ['fifo', 'device'])
def test_pipes_and_devices_are_refused_without_waiting(tmp_path, kind):
    path = tmp_path / 'x.csv'
    os.mkfifo(path) if kind == 'fifo' else path.symlink_to('/dev/zero')
    with pytest.raises(InputError, match=r'no such csv of predictions: .*x\.csv'):
        read_predictions(path)


def test_no_file():
    with pytest.raises(InputError, match=r'no such csv of predictions: absent\.csv'):
        read_predictions('absent.csv')
