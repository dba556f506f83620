"""Finding and identifying image files on disk."""
import itertools
import os
import threading
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest

from utils.common import InputError
from utils.data import files
from utils.data.files import find_images, first_spellings, list_images, stat_images
from utils.get_loaders import ClassDataset


@pytest.fixture
def folder(tmp_path):
    for n_bytes, name in enumerate(('rgb.jpg', 'grey.png', 'alpha.png', 'cmyk.jpeg', 'palette.png', 'UPPER.JPG')):
        (tmp_path / name).write_bytes(b'x' * n_bytes)
    return tmp_path


def test_find_images(folder):
    ids = ['rgb', 'rgb.jpg', 'grey', 'cmyk', 'UPPER', 'absent', 'rgb.png']
    names = [path and os.path.basename(path) for path in find_images(ids, str(folder))]
    assert names == ['rgb.jpg', 'rgb.jpg', 'grey.png', 'cmyk.jpeg', 'UPPER.JPG', None, None]
    assert find_images([str(folder / 'rgb')]) == [str(folder / 'rgb.jpg')]
    assert find_images(['x'], str(folder / 'nowhere')) == [None]


@pytest.mark.parametrize('name', ['a.Jpg', 'a.JFIF', 'a.webp', 'a.Ppm', 'a.gif', 'a.TiF', 'a.pgm'])
def test_an_extension_is_found_in_any_case(tmp_path, name):
    (tmp_path / name).touch()
    assert find_images(['a'], str(tmp_path)) == [str(tmp_path / name)]


@pytest.mark.parametrize('name', ['a.Jpg', 'a.JFIF', 'a.webp', 'a.ppm', 'a.gif'])
def test_a_folder_lists_each_kind_of_image(tmp_path, name):
    (tmp_path / name).touch()
    assert list_images(str(tmp_path)).images == [name]


def test_an_id_that_matches_several_files(tmp_path):
    for name in ('a.jpg', 'a.PNG', 'b.jpg', 'a.txt'):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r'^1 ambiguous image id \(add the extension\): a \(row 3\) may be a\.PNG or a\.jpg$'):
        find_images(['b', 'a', 'a.jpg'], str(tmp_path), rows=[2, 3, 4])


def test_the_csv_of_an_id_that_matches_several_files_is_named(tmp_path):
    for name in ('a.jpg', 'a.png'):
        (tmp_path / name).touch()
    (tmp_path / 'a.csv').write_text('image_id,label\na,0\n')
    with pytest.raises(InputError, match=r'a\.csv: 1 ambiguous image id .*: a \(row 2\) may be a\.jpg or a\.png'):
        ClassDataset(tmp_path / 'a.csv', str(tmp_path))


@pytest.mark.parametrize('image_id', ['a.jpg', 'a.png', 'a'])
def test_a_full_name_matches_only_its_file(tmp_path, image_id):
    for name in ('a.jpg', 'a.png', 'a'):
        (tmp_path / name).touch()
    assert find_images([image_id], str(tmp_path)) == [str(tmp_path / image_id)]


def test_both_unicode_forms_of_a_name_match_the_file(tmp_path):
    name = unicodedata.normalize('NFD', 'größe')
    (tmp_path / f'{name}.jpg').touch()
    assert find_images(['größe', name], str(tmp_path)) == [str(tmp_path / f'{name}.jpg')] * 2


@pytest.mark.parametrize('seconds', [1e-5, 1e-3])  # that the first four files take
def test_stat_images(folder, monkeypatch, seconds):
    """Slow files are read in threads, with the same result in the same order."""
    paths = [*(str(path) for path in sorted(folder.iterdir())), None] * 9
    stat, helpers, clock = os.stat, set(), iter([0, seconds, 0, seconds])
    arrivals, three = itertools.count(), threading.Barrier(3)

    def waiting(path, **options):
        thread = threading.current_thread()
        if thread is not threading.main_thread() and thread not in helpers:
            helpers.add(thread)
            if next(arrivals) < 3:  # three at once, however fast the files are
                three.wait(600)
        return stat(path, **options)
    expected = [[-1] * 4 if path is None else [stat(path).st_size, stat(path).st_mtime_ns, stat(path).st_dev, stat(path).st_ino]
                for path in paths]
    monkeypatch.setattr(files, 'time', SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(os, 'stat', waiting)
    assert stat_images(paths, chunk=4).tolist() == expected and stat_images([]).shape == (0, 4)
    assert (len(helpers) > 2) == (seconds > 2e-4)


def test_files_with_equal_inodes_and_other_sizes_differ(tmp_path):
    """Some network drives repeat inodes."""
    paths, stats = [str(tmp_path / 'a.jpg'), str(tmp_path / 'b.jpg')], np.array([[1, 0, 1, 7], [2, 0, 1, 7]])
    assert first_spellings(paths, stats, {}) == paths


def test_files_without_inodes_differ(tmp_path):
    paths, stats = [str(tmp_path / 'a.jpg'), str(tmp_path / 'b.jpg')], np.array([[1, 0, 1, 0], [1, 0, 1, 0]])
    assert first_spellings(paths, stats, {}) == paths


def test_paths_that_differ_in_case_on_a_case_insensitive_disk(tmp_path):
    """Such a disk reports one inode for both spellings."""
    paths, stats = [str(tmp_path / 'x/a.jpg'), str(tmp_path / 'X/a.jpg')], np.array([[1, 0, 1, 7]] * 2)
    assert first_spellings(paths, stats, {}) == paths[:1] * 2
