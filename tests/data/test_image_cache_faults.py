"""Image cache with a broken image, a broken file, a full disk or no permission: a clear error, or decoding on the fly."""
import os
import shutil
from collections import namedtuple

import pytest

from tests.factories import arrays, cache_datasets, cached, same_pixels
from utils.common import InputError
from utils.data import image_cache


@pytest.fixture
def images(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / 'set', ignore=shutil.ignore_patterns('cache'))
    return tmp_path / 'set'


def test_broken_image_and_broken_array(images):
    file = images / 'images' / 'val_2_1.jpg'
    whole = file.read_bytes()
    file.write_bytes(whole[:300])
    with pytest.raises(InputError, match=r'images/val_2_1\.jpg \(from .*val\.csv\) cannot be read as an image: '):
        cached(images)
    assert list((images / 'cache').iterdir()) == []
    file.write_bytes(whole)
    cached(images)
    os.truncate(arrays(images)[0], 5000)
    assert same_pixels(cached(images), cache_datasets(images))


def test_no_room_and_no_permission(images, monkeypatch, capsys):
    usage = namedtuple('usage', 'free')
    with monkeypatch.context() as m:
        m.setattr(shutil, 'disk_usage', lambda folder: usage(image_cache.SPARE + 31 * 720 - 1))
        assert not any(data.cache for data in cached(images))
        out = capsys.readouterr().out
        assert '* No image cache: it needs 0.0 MB' in out and 'images are decoded on the fly' in out
        m.setattr(shutil, 'disk_usage', lambda folder: usage(image_cache.SPARE + 31 * 720))
        assert all(data.cache for data in cached(images))
    (images / 'file').write_text('')
    sets = cached(images, to=images / 'file' / 'cache')
    assert not any(data.cache for data in sets) and same_pixels(sets, cache_datasets(images))
    assert '* No image cache (' in capsys.readouterr().out
