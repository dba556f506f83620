"""Hyper-Kvasir's preparation on a zip of the real form."""
import io
import os
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tools import endo_folds, prepare_endo_data
from utils.common import InputError

from .next_steps import next_words, parse

PER_FINDING, N_FINDINGS = 10, 23


def write_zip(path, damage=None):
    """labeled-images/<tract>/<class>/<finding>/*.jpg and image-labels.csv, whose 'Video file' has no extension."""
    rng, rows = np.random.default_rng(0), []
    with zipfile.ZipFile(path, 'w') as archive:
        for f in range(N_FINDINGS):
            for i in range(PER_FINDING):
                buffer, name = io.BytesIO(), f'{f:02d}-{i:02d}-abc'
                Image.fromarray(rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)).save(buffer, 'JPEG')
                archive.writestr(f'labeled-images/lower-gi-tract/x/finding-{f:02d}/{name}.jpg', buffer.getvalue())
                rows.append((name, 'Lower GI', f'finding-{f:02d}', 'x'))
        rows = [rows[i] for i in rng.permutation(len(rows))]
        table = pd.DataFrame(rows, columns=['Video file', 'Organ', 'Finding', 'Classification'])
        archive.writestr('labeled-images/image-labels.csv', table.to_csv(index=False))
    if damage:
        content = bytearray(path.read_bytes())
        content[damage:damage + 40] = b'\0' * 40
        path.write_bytes(content)
    return path


def prepare(monkeypatch, flags):
    monkeypatch.setattr(sys, 'argv', ['prepare', *flags.split(), '--n_images', str(PER_FINDING * N_FINDINGS), '--num_workers', '1'])
    prepare_endo_data.main()


def test_folds_of_the_original(tmp_path, monkeypatch, capsys):
    prepare(monkeypatch, f'--zip {write_zip(tmp_path / "a.zip")} --out {tmp_path}/data')
    assert parse(next_words(capsys.readouterr().out))[1].data_path == f'{tmp_path}/data/images'
    with Image.open(tmp_path / 'data/images/00-00-abc.jpg') as image:
        assert image.size == (640, 512)
    tables = {(s, i): pd.read_csv(tmp_path / f'data/{s}_endo{i}.csv') for s in ('train', 'val') for i in range(1, 6)}
    assert list(tables['val', 1].columns) == ['image_id', 'finding_name', 'finding']
    everything = pd.concat([tables['val', i] for i in range(1, 6)])
    assert everything.image_id.is_unique and len(everything) == 230
    for i in range(1, 6):
        assert set(tables['train', i].image_id) == set(everything.image_id) - set(tables['val', i].image_id)
        assert tables['val', i].finding.value_counts().eq(2).all()
        assert (tables['val', i].finding_name == tables['val', i].finding.map('finding-{:02d}'.format)).all()


def test_official_folds_and_selection_split(tmp_path, monkeypatch):
    names = [(f'{f:02d}-{i:02d}-abc.jpg', f'finding-{f:02d}', (f + i) % 5) for f in range(N_FINDINGS) for i in range(PER_FINDING)]
    pd.DataFrame(names, columns=['file-name', 'class-name', 'split-index']).to_csv(tmp_path / 'official.csv', sep=';', index=False)
    prepare(monkeypatch, f'--zip {write_zip(tmp_path / "a.zip")} --out {tmp_path}/data --splits official {tmp_path}/official.csv '
                         '--select_fraction 0.25')
    for i in range(1, 6):
        train, val, select = (pd.read_csv(tmp_path / f'data/{s}_endo{i}.csv') for s in ('train', 'val', 'select'))
        assert sorted(val.image_id) == sorted(name[:-4] for name, _, fold in names if fold == i - 1)
        assert len(select) == 46 and select.finding.value_counts().eq(2).all()
        assert len(set(train.image_id) | set(val.image_id) | set(select.image_id)) == 230 == len(train) + len(val) + len(select)


def test_damaged_zip_leaves_nothing(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r'1 damaged images: .*Bad CRC'):
        prepare(monkeypatch, f'--zip {write_zip(tmp_path / "a.zip", damage=3000)} --out {tmp_path}/data')
    assert list((tmp_path / 'data').iterdir()) == []
    half = tmp_path / 'half.zip'
    half.write_bytes((tmp_path / 'a.zip').read_bytes()[:9000])
    with pytest.raises(InputError, match=r'half\.zip cannot be read'):
        prepare(monkeypatch, f'--zip {half} --out {tmp_path}/data')
    monkeypatch.setattr(sys, 'argv', ['prepare', '--zip', str(write_zip(tmp_path / 'b.zip')), '--out', f'{tmp_path}/data'])
    with pytest.raises(InputError, match='has 230 images, 10662 expected'):
        prepare_endo_data.main()


def test_real_official_folds(real_data):
    """The authors' csv: 10,662 images in five folds, each finding in every training set."""
    official = pd.read_csv(os.path.join(real_data, 'labels', 'hyper_kvasir_5_fold_split.csv'), sep=';')
    table = pd.DataFrame({'image_id': official['file-name'].str.removesuffix('.jpg'),
                          'finding': official['class-name'].astype('category').cat.codes}).sample(frac=1, random_state=1)
    folds = endo_folds.official_folds(table, os.path.join(real_data, 'labels', 'hyper_kvasir_5_fold_split.csv'))
    assert sum(map(len, folds)) == 10662 and all(table.drop(fold.index).finding.nunique() == 23 for fold in folds)
    assert [len(fold) for fold in endo_folds.original_folds(table)] == [2132] * 4 + [2134]


def test_official_folds_of_any_dialect(tmp_path):
    rows = ''.join(f' {i}.jpg,x,{i % 5}.0\n' for i in range(10))
    (tmp_path / 'official.csv').write_text('\ufefffile-name, class-name, split-index\n' + rows)
    folds = endo_folds.official_folds(pd.DataFrame({'image_id': [str(i) for i in range(10)]}), tmp_path / 'official.csv')
    assert [fold.image_id.tolist() for fold in folds] == [[str(i), str(i + 5)] for i in range(5)]


def test_no_official_folds(tmp_path):
    with pytest.raises(InputError, match=r'no such csv of folds \(--splits official\): absent\.csv'):
        endo_folds.official_folds(pd.DataFrame({'image_id': ['a']}), 'absent.csv')
