"""On generated archives of the published form."""
import io
import os
import pickle
import tarfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tools.prepare_cifar_lt_data import SETS, choose, long_tailed_counts, main, read_archive
from utils.common import InputError

from .next_steps import next_words, parse


def archive(path, classes, per_class=40, replace=None):
    """The official layout; `replace`: name of a file -> its bytes."""
    _, folder, train, test, meta, labels_key, names_key = SETS[classes]
    rng, files = np.random.default_rng(0), {}
    for name in (*train, test):
        labels = rng.permutation(np.repeat(np.arange(classes), per_class))
        data = np.repeat(labels[:, None], 3072, axis=1).astype(np.uint8)
        data[:, :1024] += 100  # red
        files[name] = pickle.dumps({'data': data, labels_key: labels.tolist(), 'batch_label': name}, protocol=2)
    files[meta] = pickle.dumps({names_key: [f'thing {c}' for c in range(classes)]}, protocol=2)
    with tarfile.open(path, 'w:gz') as tar:
        for name, content in (files | (replace or {})).items():
            entry = tarfile.TarInfo(f'{folder}/{name}')
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return str(path)


@pytest.mark.parametrize('classes', SETS)
def test_sets(tmp_path, monkeypatch, capsys, classes):
    monkeypatch.chdir(tmp_path)
    main(['--classes', str(classes), '--imbalance', '10', '--val_per_class', '4', '--archive', archive('x.tar.gz', classes, per_class=20)])
    tables = {split: pd.read_csv(f'data/cifar{classes}_lt/{split}_cifar{classes}_lt.csv') for split in ('train', 'val', 'test')}
    n_max = 20 * len(SETS[classes][2]) - 4
    expected = [int(n_max * 10 ** (-c / (classes - 1))) for c in range(classes)]
    assert tables['train'].label.value_counts().sort_index().tolist() == expected
    assert set(tables['val'].label.value_counts()) == {4} and len(tables['test']) == 20 * classes
    rows = {split: set(table.image_id.str.split('_').str[1]) for split, table in tables.items()}
    assert not rows['train'] & rows['val']
    for row in (tables['train'].iloc[0], tables['test'].iloc[-1]):
        pixels = np.asarray(Image.open(f'data/cifar{classes}_lt/images/{row.image_id}.png'))
        assert pixels.shape == (32, 32, 3) and (pixels == [100 + row.label, row.label, row.label]).all()
        assert row['name'] == f'thing {row.label}'
    out = capsys.readouterr().out
    assert 'is not the published archive' in out and parse(next_words(out))[1].n_classes == classes


@pytest.mark.parametrize(('classes', 'n_max', 'imbalance', 'total'), [
    (10, 5000, 100, 12406), (10, 5000, 50, 13996), (10, 5000, 10, 20431), (10, 5000, 1, 50000), (100, 500, 100, 10847),
    (100, 500, 50, 12608), (100, 500, 10, 19573)])
def test_published_counts(classes, n_max, imbalance, total):
    """The sizes that publications give for CIFAR-10-LT and CIFAR-100-LT."""
    counts = long_tailed_counts(n_max, classes, imbalance)
    assert counts.sum() == total and counts[0] == n_max and counts[-1] == n_max // imbalance


def test_choice_depends_on_the_seed():
    labels = np.repeat(np.arange(10), 50)
    first, again, other = (choose(labels, 10, 10, 5, seed) for seed in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(first, again, strict=True)) and not (first[1] == other[1]).all()
    with pytest.raises(InputError, match='leaves no training image of class 7'):
        choose(labels, 10, 200, 5, 0)


@pytest.mark.parametrize(('key', 'value'), [('data', np.zeros((40, 784), np.uint8)), ('data', np.zeros((40, 3072))),
                                            ('labels', [10] * 40), ('labels', [0] * 39)])
def test_content_is_checked(tmp_path, key, value):
    content = {'data': np.zeros((40, 3072), np.uint8), 'labels': [0] * 40} | {key: value}
    path = archive(tmp_path / 'x.tar.gz', 10, replace={'test_batch': pickle.dumps(content, protocol=2)})
    with pytest.raises(InputError, match='test must hold'):
        read_archive(path, 10)


class Evil:
    def __reduce__(self):
        return os.mkdir, ('hacked',)


def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = archive('x.tar.gz', 10, replace={'data_batch_2': pickle.dumps({'data': Evil()}, protocol=2)})
    with pytest.raises(InputError, match=r'no CIFAR-10 archive .*it asks for (posix|nt)\.mkdir'):
        main(['--archive', path])
    assert not os.path.exists('hacked') and not os.path.exists('data')


@pytest.mark.parametrize(('flags', 'message'), [
    (['--archive', 'absent.tar.gz'], 'absent.tar.gz is no CIFAR-10 archive'), (['--imbalance', '0.5'], '--imbalance .* must be 1 or more'),
    (['--archive', 'text'], 'is no CIFAR-10 archive'),
])
def test_errors(tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'text').write_text('no archive')
    with pytest.raises(InputError, match=message):
        main(flags)
