"""Folders in which other users can write: planted links do not redirect our writes, and files of others are not emptied."""
import os
import re
import secrets
import stat
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tests.factories import ROOT
from utils import common
from utils.common import InputError, no_link, remove, whole_file, write_text
from utils.data.image_cache import _locked
from utils.training import run_folder
from utils.training.tensorboard import TensorBoard

pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='links and modes of POSIX')


@pytest.fixture
def victim(tmp_path):
    """The target of links that other users planted; it must not change."""
    path = tmp_path / 'victim'
    path.write_text('precious')
    yield path
    assert path.read_text() == 'precious'


@pytest.fixture
def umask():
    """Function that sets the umask of this process; the old umask is restored afterwards."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def test_a_temporary_name_cannot_be_guessed(tmp_path):
    names = set()
    for _ in range(2):
        with whole_file(tmp_path / 'a') as f:
            names.add(f.name)
    assert len(names) == 2


@pytest.mark.parametrize('plant', ['symlink', 'link'])
def test_a_planted_temporary_file_is_not_written_through(victim, tmp_path, monkeypatch, plant):
    monkeypatch.setattr(secrets, 'token_hex', lambda n: 'guessed')
    planted = tmp_path / f'a.txt.{os.getpid()}-guessed.tmp'
    getattr(os, plant)(victim, planted)
    with pytest.raises(FileExistsError):
        write_text(tmp_path / 'a.txt', 'ours')
    assert os.path.lexists(planted)  # a file of others must not be removed


def test_a_link_in_place_of_the_final_file_is_replaced(victim, tmp_path):
    (tmp_path / 'a.txt').symlink_to(victim)
    write_text(tmp_path / 'a.txt', 'ours')
    assert not (tmp_path / 'a.txt').is_symlink() and (tmp_path / 'a.txt').read_text() == 'ours'


@pytest.mark.parametrize('mask', [0o022, 0o002, 0o077])
def test_a_file_has_the_mode_of_the_umask(tmp_path, umask, mask):
    umask(mask)
    write_text(tmp_path / 'a', 'text')
    assert mode(tmp_path / 'a') == 0o666 & ~mask


def test_a_private_file_stays_private_when_it_is_replaced(tmp_path, umask):
    write_text(tmp_path / 'a', 'text')
    (tmp_path / 'a').chmod(0o600)
    write_text(tmp_path / 'a', 'other')
    assert mode(tmp_path / 'a') == 0o600


def test_only_mine_removes_write_permission_for_others(tmp_path, umask):
    umask(0)
    write_text(tmp_path / 'a', 'text', only_mine=True)
    assert mode(tmp_path / 'a') == 0o644


def test_nothing_is_appended_through_a_link(victim, tmp_path):
    (tmp_path / 'log').symlink_to(victim)
    with pytest.raises(OSError), open(tmp_path / 'log', 'a', opener=no_link) as f:
        f.write('ours')


def test_nothing_is_appended_through_a_link_without_o_nofollow(victim, tmp_path, monkeypatch):
    monkeypatch.delattr(common.os, 'O_NOFOLLOW')
    test_nothing_is_appended_through_a_link(victim, tmp_path)


@pytest.mark.parametrize('plant', ['symlink', 'link'])
def test_a_planted_lock_of_the_cache_empties_nothing(victim, tmp_path, plant):
    getattr(os, plant)(victim, tmp_path / 'a.lock')
    with _locked(str(tmp_path / 'a.lock')) as alone:
        assert alone == (plant == 'link')


def test_a_run_folder_whose_lock_is_a_link_is_refused(victim, train, tmp_path):
    (tmp_path / 'experiments' / 'run').mkdir(parents=True)
    (tmp_path / 'experiments' / 'run' / '.lock').symlink_to(victim)
    with pytest.raises(InputError, match=r'experiments/run/\.lock is a link or the file of another user'):
        train()


def test_a_run_folder_whose_lock_cannot_be_opened_is_refused(train, tmp_path, monkeypatch):
    def acquire(self, **options):
        raise PermissionError(13, 'lock file belongs to another user')
    (tmp_path / 'experiments' / 'run').mkdir(parents=True)
    monkeypatch.setattr(run_folder.FileLock, 'acquire', acquire)
    with pytest.raises(InputError, match=r'experiments/run/\.lock is a link or the file of another user'):
        train()


def test_the_target_of_a_link_is_not_removed(victim, tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'a').symlink_to(victim)
    (tmp_path / 'link').symlink_to(tmp_path / 'folder')
    remove(tmp_path / 'link')
    assert (tmp_path / 'folder' / 'a').exists()
    remove(tmp_path / 'folder')
    assert not (tmp_path / 'folder').exists()


def test_leftovers_are_not_removed_through_a_link(train, tmp_path):
    run = train()
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'a.1.tmp').touch()
    (run / 'linked').symlink_to(tmp_path / 'other')
    train('--overwrite')
    assert (tmp_path / 'other' / 'a.1.tmp').exists()


def test_a_checkpoint_folder_that_is_a_link_is_replaced_by_overwrite(train, tmp_path):
    run = train()
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'a').touch()
    (run / 'epoch_99_link').symlink_to(tmp_path / 'other')
    train('--overwrite')
    assert not os.path.lexists(run / 'epoch_99_link') and (tmp_path / 'other' / 'a').exists()


def test_tensorboard_does_not_write_through_a_link(tmp_path):
    pytest.importorskip('torch.utils.tensorboard')
    (tmp_path / 'run').mkdir()
    (tmp_path / 'other').mkdir()
    (tmp_path / 'run' / 'tensorboard').symlink_to(tmp_path / 'other')
    run = SimpleNamespace(file=lambda name: str(tmp_path / 'run' / name), history=[], metric='mcc')
    TensorBoard(run, ['a', 'b'], np.array([2, 1])).update()
    assert list((tmp_path / 'run' / 'tensorboard').iterdir()) and not list((tmp_path / 'other').iterdir())


def test_experiments_may_be_a_link(train, tmp_path):
    (tmp_path / 'big_disk').mkdir()
    (tmp_path / 'experiments').symlink_to(tmp_path / 'big_disk')
    train()
    assert (tmp_path / 'big_disk' / 'run' / 'val_metrics.txt').exists()


def test_files_are_opened_for_writing_only_by_safe_functions():
    """Code that does not use `whole_file` must refuse links. Image sets are exempt: they are written into new folders."""
    files = [path for part in ('utils', 'models', 'tools') for path in (ROOT / part).rglob('*.py')]
    files += ROOT.glob('*.py')
    writes = re.compile(r"""(?<![.\w])open\(.*['"][wa]\+?b?\+?['"]|\.write_(text|bytes)\(""")
    lines = [f'{path.name}: {line}' for path in files for line in path.read_text(encoding='utf-8').splitlines() if writes.search(line)]
    assert [line for line in lines if 'no_link' not in line and 'os.devnull' not in line] == []
