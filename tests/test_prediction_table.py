"""The per-image csv: what is read, and what is refused with one clear line."""
import numpy as np
import pytest

from utils.common import InputError
from utils.prediction_table import read_labelled, read_predictions

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
    ('image_id', 'file', r'x\.csv is no csv of predictions .* no column image_id'), ('p_ill', 'ill', 'no column p_<class>'),
    ('001,7,0,0', '001,7,2,0', r"1 values of 'label' are no class of 0\.\.1 .* first is 2 in row 2"),
    ('001,7,0,0', '001,7,,0', "1 values of 'label'"), ('001,7,0,0', '001,7,0,.5', "1 values of 'pred'"),
    ('0.8', '', r'missing or no number in 1 of 2 rows, the first is row 2 \(001'), ('0.8', 'many', 'no number'),
    ('0.8', '0.9', r'do not add up to 1 in 1 of 2 rows, the first is row 2 \(001, sum 1\.1\)'), ('0.8,0.2', '1.2,-0.2', 'negative'),
    ('002', '001', '1 image stands in more than one row, the first is 001'), ('002', '', 'without image_id'),
    (GOOD, GOOD.splitlines()[0], 'no rows'), (GOOD, '', 'is no csv table'),
])
def test_refuses(tmp_path, old, new, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, GOOD.replace(old, new))


def test_no_file():
    with pytest.raises(InputError, match=r'no such csv of predictions: absent\.csv'):
        read_predictions('absent.csv')
