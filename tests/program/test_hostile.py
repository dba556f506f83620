"""Untrusted files cannot run code or reach outside of their folder."""
import os
import re
import stat
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import torch

from models.weights_file import read_weights_file
from tests.factories import ROOT
from tools import download_file, prepare_endo_data
from utils.common import InputError
from utils.get_loaders import get_train_val_cls_loaders
from utils.model_saving_loading import FILE_NAME, load_model, read_checkpoint
from utils.prediction.inference import Predictions
from utils.prediction.predictions import read_predictions, write_predictions


@pytest.fixture
def evil(tmp_path):
    """A checkpoint whose pickle creates a file when an ordinary unpickler loads it."""
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / 'ran',)
    path = tmp_path / 'evil' / 'epoch_01_x' / FILE_NAME
    path.parent.mkdir(parents=True)
    torch.save({'state_dict': {'a': torch.zeros(1)}, 'config': Evil()}, path)
    return path


def test_a_pickle_is_refused_everywhere(evil, train, tmp_path):
    for path in (evil, evil.parent, evil.parent.parent):
        for load in (read_checkpoint, load_model):
            with pytest.raises(InputError, match='cannot be read as a checkpoint'):
                load(str(path))
        with pytest.raises(InputError, match='cannot be read as a checkpoint'):
            train(f'--pretrained_weights {path}')
    with pytest.raises(InputError, match='cannot be read as a state dict'):
        read_weights_file(str(evil))
    with pytest.raises(InputError, match='cannot be read as a state dict'):
        train(f'--init {evil}')
    assert not (tmp_path / 'ran').exists()
    torch.load(evil, weights_only=False)
    assert (tmp_path / 'ran').exists()  # the pickle does run code if it is loaded


def member(name, kind=stat.S_IFREG, size=None):
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o644) << 16
    return info, b'0' * (size or 9)


@pytest.mark.parametrize(('hostile', 'what'), [
    (member('../../evil.jpg'), 'leads out'), (member('/tmp/evil.jpg'), 'leads out'), (member('a\\..\\..\\evil.jpg'), 'leads out'),
    (member('C:/evil.jpg'), 'leads out'), (member('a/link.jpg', stat.S_IFLNK), 'is a link'),
    (member('bomb.jpg', size=(64 << 20) + 1), 'has 67,108,865 bytes when unpacked'),
], ids=['slip', 'absolute', 'backslash', 'drive', 'link', 'bomb'])
def test_hostile_zip(tmp_path, monkeypatch, hostile, what):
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(*hostile)
    monkeypatch.setattr(sys, 'argv', ['prepare', '--zip', str(tmp_path / 'a.zip'), '--out', str(tmp_path / 'out')])
    with pytest.raises(InputError, match=rf'a\.zip is refused: .* {what}'):
        prepare_endo_data.main()
    assert os.listdir(tmp_path) == ['a.zip']


def test_csv_stays_inside_the_data_folder(tiny, tmp_path):
    def load(image_id, folder='images', **kwargs):
        table = pd.read_csv(tiny / 'train.csv')
        table.loc[0, 'image_id'] = image_id
        table.to_csv(tmp_path / 'train.csv', index=False)
        return get_train_val_cls_loaders(tmp_path / 'train.csv', tiny / 'val.csv', tmp_path / folder, 4, im_size=(8, 8), n_classes=3,
                                         **kwargs)

    first = pd.read_csv(tiny / 'train.csv').image_id[0]
    (tmp_path / 'images' / 'sub').mkdir(parents=True)
    for name in os.listdir(tiny / 'images'):
        os.link(tiny / 'images' / name, tmp_path / 'images' / name)
    os.link(tiny / 'images' / f'{first}.jpg', tmp_path / 'outside.jpg')
    (tmp_path / 'images' / 'link.jpg').symlink_to(tmp_path / 'outside.jpg')
    (tmp_path / 'images' / 'inner.jpg').symlink_to(f'{first}.jpg')
    (tmp_path / 'images' / 'folder').symlink_to(tmp_path)
    (tmp_path / 'images' / 'broken.jpg').symlink_to('nowhere')
    for image_id in ('../outside', str(tmp_path / 'outside.jpg'), 'link', 'folder/outside', 'sub/../../outside'):
        for skip in (False, True):
            with pytest.raises(InputError, match=r'1 image lies outside of --data_path .*--allow_outside_data_path.* \(row 2\)'):
                load(image_id, skip_bad_images=skip)
        load(image_id, allow_outside=True)
    for image_id in ('inner', f'sub/../{first}'):
        load(image_id)
    with pytest.raises(InputError, match=r'1 of 22 images not found .*: broken \(row 2\)'):
        load('broken')
    (tmp_path / 'linked').symlink_to(tmp_path / 'images')
    load(first, folder='linked')  # the data folder itself may be a link


@pytest.mark.parametrize('salt', [None, 'secret'])
def test_predictions_are_safe_in_spreadsheets_and_can_be_anonymous(tmp_path, salt):
    ids = ['=HYPERLINK("x")', '-1', '@a', "'+b", 'plain']
    predictions = Predictions(torch.tensor([0, 1, 0, 1, 0]).numpy(), torch.full((5, 2), .5).numpy(), None, float('nan'), ids)
    write_predictions(tmp_path / 'a.csv', predictions, ['=1', 'b'], ['+7', None, 'p', 'p', '=8'], salt)
    assert not re.search(r'(^|,)"?[=+\-@\t]', (tmp_path / 'a.csv').read_text(), re.M)
    table = read_predictions(tmp_path / 'a.csv')
    assert table.class_names == ['=1', 'b'] and table.patient_ids[2] == table.patient_ids[3]
    if salt:
        assert table.image_ids[4] == '7c48395f6b241863' and all(re.fullmatch('[0-9a-f]{16}', i) for i in table.image_ids)
        assert len(set(table.image_ids)) == 5 and not {'p', 'plain'} & set((tmp_path / 'a.csv').read_text().replace('\n', ',').split(','))
    else:
        assert table.image_ids == ids and table.patient_ids[0] == '+7'


@pytest.mark.parametrize('url', ['http://example.org/a', 'ftp://example.org/a', 'file:///etc/passwd', 'http://localhost.example.org/a',
                                 'http://127.0.0.1.example.org/a', 'http://localhost@example.org/a'])
def test_only_https(tmp_path, url):
    with pytest.raises(InputError, match='is not an https address'):
        download_file.download(url, str(tmp_path / 'a'))


def test_no_code_from_data():
    """No code of the project executes text or pickles, or starts a shell."""
    banned = re.compile(r'shell=True|os\.system|os\.popen|(?<![.\w])(eval|exec)\(|pickle\.load|weights_only=False|allow_pickle=True')
    files = [path for part in ('utils', 'models', 'tools', 'benchmarks') for path in (ROOT / part).rglob('*.py')]
    files += ROOT.glob('*.py')
    assert len(files) > 40
    assert [f'{path.name}: {found.group()}' for path in files if (found := banned.search(path.read_text()))] == []


def test_pickles_are_read_in_one_place():
    files = [path for part in ('utils', 'models', 'tools', 'benchmarks') for path in (ROOT / part).rglob('*.py')]
    files += ROOT.glob('*.py')
    imports = re.compile(r'^\s*(import|from) (pickle|dill|joblib|cloudpickle|marshal)\b', re.M)
    assert [path.name for path in files if imports.search(path.read_text())] == ['cifar_pickle.py']


def test_every_csv_is_written_for_spreadsheets():
    """All csvs are written with `csv_text`, except the demo set, which holds no foreign text."""
    files = [path for part in ('utils', 'tools') for path in (ROOT / part).rglob('*.py')]
    writers = [path.name for path in files if re.search(r'\.to_csv\(|csv\.writer', path.read_text())]
    assert sorted(writers) == ['demo.py', 'read_csv.py']
