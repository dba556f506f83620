"""Features that other systems lack or implement differently, simulated here."""
import errno
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from tests.factories import ROOT
from tools import predict, prepare_folder_data
from utils import get_loaders
from utils.common import InputError, write_text
from utils.data import image_cache
from utils.data.files import find_images, list_images
from utils.data.new_images import find_new_images
from utils.get_loaders import fitting_workers
from utils.training.run_folder import RunFolder

LATIN1 = os.fsdecode(b'caf\xe9.png')  # not UTF-8
FULL_WIDTH = '\uff11\uff12'  # the digits 1 and 2 as typed on a Japanese keyboard

WITHOUT_FCNTL = '''
import sys
sys.modules['fcntl'] = None
import importlib, pathlib
for pattern in ('*.py', 'utils/**/*.py', 'models/*.py', 'tools/*.py'):
    for path in sorted(pathlib.Path().glob(pattern)):
        importlib.import_module('.'.join(path.with_suffix('').parts).removesuffix('.__init__'))
'''


def test_every_module_imports_without_fcntl():
    """Windows does not have fcntl."""
    done = subprocess.run([sys.executable, '-c', WITHOUT_FCNTL], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_file_is_synced_while_it_is_open_for_writing(tmp_path, monkeypatch):
    """Windows refuses to sync a file that is open for reading."""
    def sync(descriptor):
        os.write(descriptor, b'')  # fails if the file is not open for writing
    monkeypatch.setattr(os, 'fsync', sync)
    write_text(tmp_path / 'a.txt', 'text')
    assert (tmp_path / 'a.txt').read_text() == 'text'


class NoLocks:
    """File locks on a file system without locks."""

    def __init__(self, path):
        self.path = path

    def acquire(self, **options):
        raise OSError(errno.ENOTSUP, 'no locks')

    def release(self):
        pass


def test_a_run_folder_works_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr('utils.training.run_lock.FileLock', NoLocks)
    monkeypatch.chdir(tmp_path)
    none_skipped = SimpleNamespace(skipped=[])
    data = SimpleNamespace(train=none_skipped, val=none_skipped, image_hashes=None)
    run = RunFolder('experiments/run', {'metric': 'mcc', 'resume': False, 'overwrite': False})
    run.start({'csv_sha256': {}, 'parent': None, 'device_type': 'cpu'}, data)
    assert (tmp_path / 'experiments' / 'run' / 'config.cfg').exists()


def test_the_cache_works_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(image_cache, 'FileLock', NoLocks)
    with image_cache._locked(str(tmp_path / 'a.lock')) as alone:
        assert not alone


def test_the_cache_waits_for_the_process_that_writes_it(tmp_path, monkeypatch, capsys):
    with FileLock(tmp_path / 'a.lock') as held:
        monkeypatch.setattr('builtins.print', lambda *args, **kwargs: held.release(force=True))  # while the cache waits
        with image_cache._locked(str(tmp_path / 'a.lock')) as alone:
            assert alone


def test_ids_with_slashes_are_found_with_another_path_separator(tmp_path, monkeypatch):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'b.png').touch()
    monkeypatch.setattr(os, 'sep', '\\')
    assert find_images(['a/b'], str(tmp_path)) != [None]


def save(path):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path, 'png')


def test_names_that_are_not_utf8_are_left_out_of_a_listing(tmp_path):
    for name in ('a.png', LATIN1):
        save(tmp_path / name)
    listing = list_images(tmp_path)
    assert listing.images == ['a.png'] and listing.unnamable == [r"'caf\udce9.png'"]


def test_names_that_are_not_utf8_are_listed_before_the_prediction(tmp_path, capsys):
    for name in ('a.png', LATIN1):
        save(tmp_path / name)
    assert find_new_images([str(tmp_path)])[1] == ['a.png']
    assert capsys.readouterr().out == "* Skipped 1 file with invalid names (not UTF-8, or with control characters): 'caf\\udce9.png'\n"


@pytest.mark.parametrize('name', ['\n* Next: rm -rf ~.png', '\x1b[2J.png'])
def test_names_with_control_characters_are_listed_on_one_line(tmp_path, capsys, name):
    (tmp_path / name).touch()
    (tmp_path / 'a.png').touch()
    find_new_images([str(tmp_path)])
    assert capsys.readouterr().out == f'* Skipped 1 file with invalid names (not UTF-8, or with control characters): {name!a}\n'


def test_only_names_that_are_not_utf8_are_an_error(tmp_path):
    save(tmp_path / LATIN1)
    with pytest.raises(InputError, match='no file has a valid name'):
        find_new_images([str(tmp_path / LATIN1)])


def test_names_that_are_not_utf8_are_left_out_of_a_data_set(tmp_path, capsys):
    for name in ('a', 'b'):
        for image in ('1.png', '2.png', LATIN1):
            save(tmp_path / name / image)
    table = prepare_folder_data.read_folder(str(tmp_path))
    assert len(table) == 4 and '2 files with a name that is not UTF-8' in capsys.readouterr().out


def test_full_width_digits_may_name_a_class(tmp_path):
    for name in (FULL_WIDTH, 'b', '3', '\u00b2'):
        save(tmp_path / name / '1.png')
    assert sorted(prepare_folder_data.read_folder(str(tmp_path)).name) == sorted([FULL_WIDTH, 'b', '3', '\u00b2'])


@pytest.fixture
def shared_memory(monkeypatch, tmp_path):
    """64 MB of shared memory, as in a container."""
    monkeypatch.setattr(get_loaders, 'SHARED_MEMORY', str(tmp_path))
    monkeypatch.setattr(get_loaders.shutil, 'disk_usage', lambda path: SimpleNamespace(free=64 << 20))


def test_workers_that_do_not_fit_into_shared_memory_are_not_used(shared_memory, capsys):
    assert fitting_workers(8, 32, (512, 512)) == 0
    assert capsys.readouterr().out.startswith('* Loading images without worker processes: 8 workers need 453 MB of shared memory')


def test_workers_that_fit_into_shared_memory_are_used(shared_memory, capsys):
    assert fitting_workers(2, 32, (64, 64)) == 2 and not capsys.readouterr().out


def test_workers_are_used_if_shared_memory_is_unknown(monkeypatch):
    monkeypatch.setattr(get_loaders, 'SHARED_MEMORY', '/nowhere')
    assert fitting_workers(8, 32, (512, 512)) == 8


def test_training_works_without_workers(shared_memory, train, capsys):
    train('--no_cache --num_workers 2 --im_size 512 --do_not_save')
    assert 'Loading images without worker processes' in capsys.readouterr().out


def test_predictions_without_write_permission_are_refused_first(tmp_path, train, monkeypatch):
    run = train()
    (tmp_path / 'results').write_text('a file, not a folder')
    monkeypatch.setattr(predict, 'get_predictor', lambda *args: pytest.fail('the work began'))
    with pytest.raises(InputError, match=r'^cannot write to results/run: '):
        predict.main(['--load_path', str(run), str(run)])
