"""A file of MedMNIST's form -> images and csvs."""
import shlex

import numpy as np
import pytest

import train_lt_mxp
from tools.prepare_medmnist_data import main
from utils.check_data import check_data
from utils.common import InputError
from utils.get_loaders import ClassDataset


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
    words = shlex.split(capsys.readouterr().out.splitlines()[-1].removeprefix('* Next: '))
    assert train_lt_mxp.get_parser().parse_args(words[2:]).n_classes == 3
    with pytest.raises(InputError, match='exists: remove it'):
        main([str(tmp_path / 'eyemnist.npz'), '--out', str(tmp_path / 'eye')])


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
