"""EyePACS's preparation on labels of Kaggle's form."""
import os
import sys

import numpy as np
import pandas as pd
import pytest

from tools import prepare_eyepacs_data
from utils.common import InputError

from .next_steps import next_words, parse


def eyepacs(tmp_path, monkeypatch, labels, flags=''):
    monkeypatch.setattr(sys, 'argv', ['prepare', '--labels', str(labels), '--out', str(tmp_path / 'data'), *flags.split()])
    prepare_eyepacs_data.main()
    return [pd.read_csv(tmp_path / f'data/{split}_eyepacs.csv', dtype={'patient_id': str}) for split in ('train', 'val', 'test')]


def test_eyepacs_split_by_patient(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    levels = rng.choice(5, 2000, p=[.735, .07, .151, .025, .019])
    names = [f'{i // 2 + 10}_{("left", "right")[i % 2]}' for i in range(2000)]
    pd.DataFrame({'image': names, 'level': levels}).to_csv(tmp_path / 'labels.csv', index=False)
    parts = eyepacs(tmp_path, monkeypatch, tmp_path / 'labels.csv')
    assert parse(next_words(capsys.readouterr().out))[1].csv_train == f'{tmp_path}/data/train_eyepacs.csv'
    assert [len(part) for part in parts] == pytest.approx([1400, 200, 400], abs=12)
    assert sorted(pd.concat(parts).image_id) == sorted(names)
    patients = [set(part.patient_id) for part in parts]
    assert not patients[0] & patients[1] and not patients[0] & patients[2] and not patients[1] & patients[2]
    for part in parts:
        np.testing.assert_allclose(np.bincount(part.level, minlength=5) / len(part), np.bincount(levels) / 2000, atol=.025)
    pd.DataFrame({'image': ['x_left'], 'level': [1], 'Usage': ['Public']}).to_csv(tmp_path / 'solution.csv', index=False)
    train, val, test = eyepacs(tmp_path, monkeypatch, tmp_path / 'labels.csv', f'--test_labels {tmp_path}/solution.csv')
    assert len(train) + len(val) == 2000 and test.image_id.tolist() == ['x_left']


def test_real_eyepacs_labels(real_data, tmp_path, monkeypatch):
    parts = eyepacs(tmp_path, monkeypatch, os.path.join(real_data, 'labels', 'eyepacs_trainLabels.csv'), '--test_fraction 0')
    assert sum(map(len, parts)) == 35126 and len(parts[1]) == pytest.approx(3513, abs=10) and len(parts[2]) == 0


@pytest.mark.parametrize(('text', 'message'), [
    ('a,b\n1,2\n', "no columns 'image' and 'level'"), ('image,level\nx,7\n', r'levels must be 0\.\.4'), (None, 'cannot be read')])
def test_eyepacs_errors(tmp_path, monkeypatch, text, message):
    if text:
        (tmp_path / 'labels.csv').write_text(text)
    with pytest.raises(InputError, match=message):
        eyepacs(tmp_path, monkeypatch, tmp_path / 'labels.csv')
