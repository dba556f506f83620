"""A file of MedMNIST's form -> images and csvs."""
import hashlib
import re

import numpy as np
import pytest

from tools import download_file
from tools.prepare_medmnist_data import known_set, main
from utils.check_data import check_data
from utils.common import InputError
from utils.get_loaders import ClassDataset
from utils.medmnist_sets import SETS

from .next_steps import next_words, parse


def arrays(shape=(28, 28, 3)):
    rng = np.random.default_rng(0)
    sizes = {'train': 12, 'val': 6, 'test': 7}
    return ({f'{split}_images': rng.integers(0, 256, (n, *shape), np.uint8) for split, n in sizes.items()}
            | {f'{split}_labels': (np.arange(n) % 3)[:, None].astype(np.uint8) for split, n in sizes.items()})


@pytest.mark.parametrize('shape', [(28, 28, 3), (28, 28)])
def test_contract(tmp_path, capsys, shape):
    data = arrays(shape)
    np.savez(tmp_path / 'eyemnist.npz', **data)
    main([str(tmp_path / 'eyemnist.npz'), '--class_names', 'None,mild,severe', '--out', str(tmp_path / 'eye')])
    sets = {split: ClassDataset(tmp_path / f'eye/{split}_eyemnist.csv', tmp_path / 'eye/images', (28, 28))
            for split in ('train', 'val', 'test')}
    check_data(sets, 3)
    assert sets['train'].class_names(3) == ['None', 'mild', 'severe']
    for split, part in sets.items():
        assert (part.dr == data[f'{split}_labels'][:, 0]).all()
        pixels = np.stack([part[i][0].permute(1, 2, 0).numpy() for i in range(len(part))])
        wanted = data[f'{split}_images']
        assert (pixels == (wanted if wanted.ndim == 4 else wanted[..., None])).all()
    assert parse(next_words(capsys.readouterr().out))[1].n_classes == 3
    with pytest.raises(InputError, match='exists: remove it'):
        main([str(tmp_path / 'eyemnist.npz'), '--out', str(tmp_path / 'eye')])


def test_by_name(tmp_path, monkeypatch, capsys):
    """Fetched from the published address, checked, and kept; the names of the classes are those of the set."""
    monkeypatch.chdir(tmp_path)
    data = arrays()
    np.savez(tmp_path / 'served.npz', **{name: value % 2 if 'labels' in name else value for name, value in data.items()})
    served, urls = (tmp_path / 'served.npz').read_bytes(), []

    def download(url, out):
        urls.append(url)
        (tmp_path / 'data').mkdir(exist_ok=True)
        (tmp_path / out).write_bytes(served)
    monkeypatch.setattr(download_file, 'download', download)
    with pytest.raises(InputError, match=r'data/breastmnist_64\.npz is not the file that .* delete it'):
        main(['breastmnist_64'])
    monkeypatch.setitem(SETS, 'breastmnist', SETS['breastmnist']._replace(md5=('', hashlib.md5(served).hexdigest(), '', '')))
    main(['breastmnist_64'])
    assert urls == ['https://zenodo.org/records/10519652/files/breastmnist_64.npz?download=1']
    part = ClassDataset('data/breastmnist_64/val_breastmnist_64.csv', 'data/breastmnist_64/images', (28, 28))
    check_data({'val': part}, 2)
    assert part.class_names(2) == ['malignant', 'normal, benign'] and 'Note' not in capsys.readouterr().out
    main(['data/breastmnist_64.npz', '--out', 'again'])
    (tmp_path / 'breastmnist.npz').write_bytes(served)
    main(['breastmnist.npz', '--out', 'other'])
    assert capsys.readouterr().out.count('is not the published file') == 1
    with pytest.raises(InputError, match='eyemnist is neither'):
        main(['eyemnist'])


def test_table_of_sets():
    digests = [md5 for one in SETS.values() for md5 in one.md5]
    assert len(set(digests)) == 4 * len(SETS) and all(re.fullmatch('[0-9a-f]{32}', md5) for md5 in digests)
    assert [len(SETS[name].class_names) for name in ('dermamnist', 'retinamnist', 'bloodmnist', 'organamnist')] == [7, 5, 8, 11]
    assert known_set('dermamnist') == (SETS['dermamnist'], SETS['dermamnist'].md5[0])
    assert known_set('dermamnist_224')[1] == SETS['dermamnist'].md5[3] and known_set('dermamnist_28') == (None, None)


@pytest.mark.parametrize(('changed', 'message'), [
    ({'train_labels': np.zeros((12, 14), np.uint8)}, 'one class per image'),
    ({'val_images': np.zeros((6, 28, 28, 28), np.uint8)}, 'volumes'),
    ({'test_images': np.zeros((7, 28, 28))}, 'must be uint8'), ({'test_labels': np.array([None] * 7)}, 'is no MedMNIST file')])
def test_errors(tmp_path, changed, message):
    np.savez(tmp_path / 'x.npz', **(arrays() | changed))
    with pytest.raises(InputError, match=message):
        main([str(tmp_path / 'x.npz'), '--out', str(tmp_path / 'out')])
    (tmp_path / 'y.npz').write_text('text')
    with pytest.raises(InputError, match='is no MedMNIST file'):
        main([str(tmp_path / 'y.npz')])
    assert not (tmp_path / 'out').exists()
