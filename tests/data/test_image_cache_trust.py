"""Cached pixels that were changed, by accident or by another user, are detected."""
import os
import shutil
import stat
import sys
from functools import partial

import pytest
from torch.utils.data import DataLoader

from tests.factories import arrays, cache_datasets, cached, same_pixels
from utils.common import InputError, run_script
from utils.data import permissions
from utils.data.bad_images import find_bad_images
from utils.data.image_cache import open_array
from utils.get_loaders import ClassDataset

OTHER = 54321  # id of another user
posix = pytest.mark.skipif(sys.platform == 'win32', reason='owners and modes of POSIX')


def change_stat(monkeypatch, change):
    """Let `os.fstat` and `os.lstat` return `change(real result)`."""
    for name in ('fstat', 'lstat'):
        def look(target, plain, **options):
            found = plain(target, **options)
            changed = change(found)
            return found if changed is found else os.stat_result(changed)
        monkeypatch.setattr(os, name, partial(look, plain=getattr(os, name)))


@pytest.fixture
def give_to(monkeypatch):
    """Make a file look as if it belonged to another user."""
    def give(path, user):
        inode = os.stat(path).st_ino
        change_stat(monkeypatch, lambda found: [*found[:4], user, *found[5:]] if found.st_ino == inode else found)
    return give


@pytest.fixture
def array(images, capsys):
    """The cache file of `images`."""
    cached(images)
    capsys.readouterr()
    return arrays(images)[0]


def change(path, place, value=b'\xff\x00\xff'):
    with open(path, 'r+b') as f:
        f.seek(place, os.SEEK_SET if place >= 0 else os.SEEK_END)
        f.write(value)


def read_all(folder):
    for data in cached(folder):
        data.__getitems__(range(len(data)))


IMAGE_5 = 128 + 5 * 720  # position in the file
HASHES, CHECKSUMS = 128 + 31 * 720 + 128, 128 + 31 * 720 + 128 + 31 * 8 + 128


@pytest.mark.parametrize('place', [IMAGE_5 + 100, HASHES + 5 * 8, CHECKSUMS + 5 * 4], ids=['pixel', 'hash', 'checksum'])
def test_damage_is_detected(images, array, place):
    change(array, place)
    with pytest.raises(InputError, match=rf'{array.name} is damaged: image 5 does not match its checksum\. Delete the file'):
        read_all(images)


def test_an_array_of_other_images_under_its_name_is_detected(images, array):
    """Whoever may write to the folder can rename our files, and they still belong to us."""
    shutil.copytree(images / 'images', images / 'other' / 'images', copy_function=shutil.copy)
    for name in ('train.csv', 'val.csv'):
        shutil.copy(images / name, images / 'other')
    cached(images / 'other')  # copies with later modification times
    arrays(images / 'other')[0].replace(array)
    with pytest.raises(InputError, match=r'is damaged: image \d+ does not match'):
        read_all(images)


def test_an_image_is_compared_once(images, array):
    data, _ = cached(images)
    data[3]
    change(array, 128 + int(data.cache.rows[3]) * 720)
    data[3]


def test_damage_found_by_a_worker_is_a_one_line_error(images, array):
    change(array, IMAGE_5)
    loader = DataLoader(cached(images)[0], batch_size=4, num_workers=1, collate_fn=tuple)
    with pytest.raises(SystemExit) as end:
        run_script(lambda: list(loader))
    assert end.value.code == (f'error: {array} is damaged: image 5 does not match its checksum. Delete the file and run the command again '
                              '(training: with --resume)')


def test_an_array_without_checksums_is_used(images, array, capsys):
    os.truncate(array, CHECKSUMS - 128)  # as version 0.1 wrote it
    assert open_array(array).checksums is None and same_pixels(cached(images), cache_datasets(images)) and not capsys.readouterr().out


@posix
@pytest.mark.parametrize('mode', [0o664, 0o646])
def test_an_array_that_others_can_change_is_written_again(images, array, capsys, mode):
    change(array, IMAGE_5)
    array.chmod(mode)
    assert same_pixels(cached(images), cache_datasets(images))
    assert f'{array} is writable by other users (mode {mode:o}): cache ignored, images are decoded again' in (
        capsys.readouterr().out)
    assert arrays(images) == [array] and not array.stat().st_mode & 0o022


@posix
def test_the_array_of_another_user_is_ignored_and_kept(images, array, give_to, capsys):
    change(array, IMAGE_5)
    before = array.read_bytes()
    give_to(array, OTHER)
    assert same_pixels(cached(images), cache_datasets(images)) and array.read_bytes() == before
    assert f'{array} belongs to another user (user id {OTHER}): cache ignored, images are decoded again' in capsys.readouterr().out
    assert len(arrays(images)) == 2


@posix
def test_an_array_beside_that_of_another_user_is_used(images, array, give_to, capsys):
    give_to(array, OTHER)
    cached(images)
    capsys.readouterr()
    assert all(data.cache for data in cached(images)) and not capsys.readouterr().out


@posix
def test_the_array_of_root_is_used(images, array, give_to, capsys):
    give_to(array, 0)
    assert all(data.cache for data in cached(images)) and not capsys.readouterr().out


@posix
def test_an_array_is_used_on_file_systems_without_owners(images, array, monkeypatch, capsys):
    """As on a network share or a Windows disk, where chmod has no effect."""
    change_stat(monkeypatch, lambda found: [found[0] | 0o777, *found[1:4], OTHER, *found[5:]])
    assert all(data.cache for data in cached(images)) and not capsys.readouterr().out


def test_an_array_is_used_on_windows(images, array, monkeypatch, capsys):
    monkeypatch.setattr(permissions, 'HAS_MODES', False)
    array.chmod(0o666)
    assert all(data.cache for data in cached(images)) and not capsys.readouterr().out


@posix
def test_others_cannot_change_an_array_whatever_the_umask(images):
    before = os.umask(0)
    try:
        cached(images)
    finally:
        os.umask(before)
    assert stat.S_IMODE(arrays(images)[0].stat().st_mode) == 0o644


@posix
def test_an_outdated_array_of_another_user_is_kept(images, array, give_to):
    give_to(array, OTHER)
    os.utime(next((images / 'images').iterdir()), (0, 0))
    cached(images)
    assert array.exists() and len(arrays(images)) == 2


@posix
def test_a_pipe_with_the_name_of_an_array_does_not_block(images, array):
    array.unlink()
    os.mkfifo(array)
    assert same_pixels(cached(images), cache_datasets(images))


@pytest.fixture
def remembered(images):
    """A csv with an image that cannot be read, and the file that lists it."""
    (images / 'images' / 'train_0_0.jpg').write_text('no image')
    data = ClassDataset(images / 'train.csv', str(images / 'images'), (12, 20))
    assert len(find_bad_images(data, 1, str(images / 'cache'))) == 1
    return data, next((images / 'cache').glob('bad_images_*.json'))


@posix
def test_a_list_of_bad_images_that_others_can_change_is_ignored(remembered, capsys):
    data, file = remembered
    file.write_text('{}')
    file.chmod(0o666)
    assert len(find_bad_images(data, 1, str(file.parent))) == 1
    assert f'{file} is writable by other users (mode 666): file ignored' in capsys.readouterr().out


@posix
def test_the_list_of_another_user_is_ignored_and_kept(remembered, give_to, capsys):
    data, file = remembered
    file.write_text('{}')
    give_to(file, OTHER)
    for said in (True, False):  # the second time, its own list is used
        assert len(find_bad_images(data, 1, str(file.parent))) == 1
        assert ('belongs to another user' in capsys.readouterr().out) == said
    assert file.read_text() == '{}'


def test_a_damaged_list_of_bad_images_is_written_again(remembered):
    data, file = remembered
    file.write_text('{"a')
    assert len(find_bad_images(data, 1, str(file.parent))) == 1 and file.read_text() != '{"a'
