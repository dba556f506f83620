"""A folder per class: split, ids, names, and the printed command."""
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import train_lt_mxp
from tools.prepare_folder_data import main
from utils.check_data import check_data
from utils.common import InputError
from utils.get_loaders import ClassDataset
from utils.splitting import rarity, split_groups

from .next_steps import next_words, parse

CLASSES = {'grade10': 6, 'grade2': 60, 'None': 30, '007': 4}


@pytest.fixture
def folder(tmp_path):
    for name, n in CLASSES.items():
        for i in range(n):
            path = tmp_path / 'set' / name / 'deep' / f'p{i // 2}_{i}.{("JPG", "png", "tif")[i % 3]}'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (8, 8), (i, 0, 0)).save(path)
    (tmp_path / 'set' / 'loose.png').write_bytes(path.read_bytes())
    (tmp_path / 'set' / 'grade2' / 'broken.jpg').write_text('text')
    (tmp_path / 'set' / 'grade2' / 'notes.txt').touch()
    return tmp_path / 'set'


def prepare(folder, tmp_path, *flags):
    main([str(folder), '--out', str(tmp_path / 'data'), *flags])
    return {split: ClassDataset(tmp_path / f'data/{split}_set.csv', folder, (8, 8)) for split in ('train', 'val', 'test')}


def test_contract(folder, tmp_path, capsys, monkeypatch):
    data = prepare(folder, tmp_path)
    check_data(data, 4)
    assert data['train'].class_names(4) == ['007', 'grade2', 'grade10', 'None'] == data['test'].class_names(4)
    ids = [image_id for part in data.values() for image_id in part.im_list]
    assert len(ids) == len(set(ids)) == 100 and 'grade2/deep/p0_0.JPG' in ids and data['val'][0][0].shape == (3, 8, 8)
    counts = {split: np.bincount(part.dr, minlength=4).tolist() for split, part in data.items()}
    assert counts == {'val': [1, 6, 1, 3], 'test': [1, 12, 1, 6], 'train': [2, 42, 4, 21]}
    out = capsys.readouterr().out
    assert '1 images outside any class folder: loose.png' in out and 'broken.jpg' in out and 'notes.txt' in out
    _, args, _ = parse(next_words(out))
    train_lt_mxp.resolve(args)
    assert args.n_classes == 4
    check_data({'train': ClassDataset(args.csv_train, args.data_path), 'val': ClassDataset(args.csv_val, args.data_path)}, args.n_classes)


def test_by_patient_and_deterministic(folder, tmp_path):
    flags = ['--patient_pattern', r'/(p\d+)_']
    data = prepare(folder, tmp_path, *flags)
    check_data(data, 4)
    patients = {split: set(part.table.patient_id) for split, part in data.items()}
    assert patients['train'] | patients['val'] | patients['test'] == {f'p{i}' for i in range(30)}
    assert not patients['test'] & (patients['train'] | patients['val'])
    again = prepare(folder, tmp_path, *flags)
    other = prepare(folder, tmp_path, *flags, '--seed', '1')
    assert again['test'].im_list == data['test'].im_list != other['test'].im_list


def test_split_groups():
    rng = np.random.default_rng(0)
    groups, labels = rng.integers(0, 400, 1000), rng.choice(5, 1000, p=[.6, .2, .1, .07, .03])
    part = split_groups(groups, rarity(labels), (.1, .2), 0)
    assert (pd.Series(part).groupby(groups).nunique() == 1).all()
    assert np.bincount(part) / 1000 == pytest.approx([.1, .2, .7], abs=.03)
    for n, expected in ((1, [0, 0, 1]), (2, [0, 1, 1]), (3, [1, 1, 1]), (4, [1, 1, 2]), (100, [10, 20, 70])):
        assert np.bincount(split_groups(range(n), [0] * n, (.1, .2), 0), minlength=3).tolist() == expected
    assert np.bincount(split_groups(range(3), [0] * 3, (.1, 0.), 0), minlength=3).tolist() == [1, 0, 2]
    assert rarity([5, 5, 2, 9, 9, 9]).tolist() == [1, 1, 2, 0, 0, 0]


@pytest.mark.parametrize(('flags', 'message'), [
    (['--patient_pattern', 'p'], 'must have one group'), (['--patient_pattern', '('], 'is no regular expression'),
    (['--patient_pattern', '/(p[0-3])_'], 'finds no patient in 74 of 100 images'), (['--val_fraction', '.9'], '--val_fraction'),
    (['--val_fraction', '0'], 'must be positive')])
def test_errors(folder, tmp_path, flags, message):
    with pytest.raises(InputError, match=message):
        prepare(folder, tmp_path, *flags)
    assert not (tmp_path / 'data').exists()


def test_splits_are_no_classes(folder, tmp_path):
    for old, new in zip(sorted(CLASSES), ('train', 'val', 'test', 'valid'), strict=True):
        (folder / old).rename(folder / new)
    with pytest.raises(InputError, match='which are no classes'):
        main([str(folder)])
    with pytest.raises(InputError, match='no such folder'):
        main([str(tmp_path / 'absent')])
