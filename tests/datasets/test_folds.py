"""Folds of a table: patients stay together, classes are even, and the csvs are complete."""
import numpy as np
import pandas as pd
import pytest

from utils.common import InputError
from utils.datasets.csv_splits import fold_paths, write_folds
from utils.datasets.splitting import fold_groups, rarity


def test_folds_keep_groups_together_and_classes_even():
    rng = np.random.default_rng(0)
    groups, labels = rng.integers(0, 300, 1000), rng.choice(4, 1000, p=[.7, .2, .07, .03])
    fold = fold_groups(groups, rarity(labels), 5, 0)
    assert (pd.Series(fold).groupby(groups).nunique() == 1).all() and set(fold) == set(range(5))
    n_groups = pd.Series(groups).groupby(fold).nunique()
    assert n_groups.max() - n_groups.min() <= 1
    strata = pd.Series(rarity(labels)).groupby(groups).max()
    of_fold = pd.Series(fold).groupby(groups).first()
    assert all(np.ptp(np.bincount(of_fold[strata == c], minlength=5)) <= 1 for c in range(4))


def test_the_csvs_of_folds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame({'image_id': [f'i{i}' for i in range(30)], 'patient_id': [f'P{i // 2}' for i in range(30)],
                          'label': [i // 2 % 3 for i in range(30)]})
    table[:20].to_csv('train.csv', index=False)
    table[20:].to_csv('val.csv', index=False)
    paths = fold_paths('folds', 5)
    write_folds(['train.csv', 'val.csv'], 'label', paths, seed=0)
    read = [[pd.read_csv(path) for path in pair] for pair in paths]
    assert sorted(pd.concat([val for _, val in read]).image_id) == sorted(table.image_id)
    assert all(not set(train.patient_id) & set(val.patient_id) and len(train) + len(val) == 30 for train, val in read)
    assert all(set(val.label) == {0, 1, 2} for _, val in read)


@pytest.mark.parametrize(('train', 'val', 'message'), [
    ('image_id,patient_id,label\na,P,0\n', 'image_id,patient_id,label\nb,P,0\nc,Q,1\nd,R,1\n', 'class 0 has a single patient or image'),
    ('image_id,label\na,0\n', 'image_id,label,age\nb,1,3\n', r'train\.csv and val\.csv have different columns')])
def test_csvs_that_cannot_be_folded(tmp_path, monkeypatch, train, val, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'train.csv').write_text(train)
    (tmp_path / 'val.csv').write_text(val)
    with pytest.raises(InputError, match=message):
        write_folds(['train.csv', 'val.csv'], 'label', fold_paths('folds', 2), seed=0)
    assert not (tmp_path / 'folds').exists()
