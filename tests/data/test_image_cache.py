"""The image cache returns the decoded pixels and is never stale, incomplete or damaged by runs at the same time."""
import multiprocessing
import os
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tests.factories import CACHE_SIZE, arrays, cache_datasets, cached, same_pixels
from utils.data import image_cache
from utils.data.image_cache import use_cache
from utils.get_loaders import ClassDataset, get_test_cls_loader, get_train_val_cls_loaders


def test_pixels_are_those_of_the_files(images, capsys):
    sets, plain = cached(images), cache_datasets(images)
    assert all(data.cache for data in sets) and same_pixels(sets, plain)
    image, label, image_id = sets[1][3]
    assert torch.equal(image, plain[1][3][0]) and (label, image_id) == plain[1][3][1:]
    images_, labels, ids = sets[0].__getitems__([5, 0, 5])  # in any order, with repetition
    assert torch.equal(images_, torch.stack([plain[0][i][0] for i in (5, 0, 5)]))
    assert labels.tolist() == plain[0].labels[[5, 0, 5]].tolist() and ids == [plain[0].image_ids[i] for i in (5, 0, 5)]
    images_ += 1  # images are copies: changes to a batch do not reach the file
    assert same_pixels(cached(images), plain)
    file, = arrays(images)
    assert file.stat().st_size == 128 + 31 * 3 * 12 * 20 + 128 + 31 * 8 + 128 + 31 * 4
    assert capsys.readouterr().out.count('* Decoding 31 images to 12x20 for the image cache: 0.0 MB') == 1


def test_shared_between_runs_and_places(images, tmp_path, monkeypatch):
    cached(images)
    monkeypatch.setattr(ClassDataset, 'decode_and_hash', None)  # nothing may be decoded from here on
    cached(images, 'val', 'train')  # the cache depends on the images, not on their order in csvs
    shutil.copytree(images / 'images', tmp_path / 'moved' / 'images', copy_function=shutil.copy2)
    for name in ('train', 'val'):
        shutil.copy(images / f'{name}.csv', tmp_path / 'moved')
    assert all(data.cache for data in cached(tmp_path / 'moved', to=images / 'cache'))
    assert len(arrays(images)) == 1


@pytest.mark.parametrize('n_workers', [0, 2])
def test_loaders_need_no_workers(images, n_workers):
    csvs, options = (images / 'train.csv', images / 'val.csv'), {'im_size': CACHE_SIZE, 'n_classes': 3, 'num_workers': n_workers}
    both = [get_train_val_cls_loaders(*csvs, images / 'images', cache_dir=cache, **options) for cache in (None, images / 'cache')]
    for plain, from_cache in zip(*both, strict=True):
        assert (plain.num_workers, from_cache.num_workers) == (n_workers, 0) and from_cache.dataset.cache
        for a, b in zip(plain, from_cache, strict=True):
            assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and a[2] == b[2]
    assert get_test_cls_loader(images / 'test.csv', images / 'images', 4, CACHE_SIZE, cache_dir=images / 'cache').dataset.cache
    assert len(arrays(images)) == 2


def test_a_worker_receives_the_path_and_no_pixels(images):
    data = cached(images)[0]
    data[0]
    assert len(pickle.dumps(data.cache)) < 2000
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        assert torch.equal(pool.apply(data.cache.read, ([3],))[0], cache_datasets(images)[0][3][0])


def test_a_changed_image_results_in_a_new_array(images, capsys):
    cached(images)
    before, = arrays(images)
    file = sorted((images / 'images').glob('train*'))[0]
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(file)
    assert same_pixels(cached(images), cache_datasets(images))
    after, = arrays(images)
    assert after != before and f'* Removed the outdated image cache {before}' in capsys.readouterr().out
    stat = file.stat()
    Image.fromarray(np.full((20, 20, 3), 255, np.uint8)).save(file)
    assert file.stat().st_size == stat.st_size  # only the time differs
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert same_pixels(cached(images), cache_datasets(images)) and arrays(images) != [after]


def test_arrays_of_other_sizes_and_decoders_are_kept(images, monkeypatch):
    cached(images)
    monkeypatch.setattr(image_cache, 'DECODER', 'another')
    cached(images)
    use_cache([ClassDataset(images / 'train.csv', str(images / 'images'), (8, 8))], str(images / 'cache'))
    assert len(arrays(images)) == 3


def _run(folder, barrier):
    barrier.wait()
    assert same_pixels(cached(folder), cache_datasets(folder))


def test_two_runs_at_once(images):
    context = multiprocessing.get_context('fork')
    barrier = context.Barrier(3)
    runs = [context.Process(target=_run, args=(images, barrier)) for _ in range(3)]
    [run.start() for run in runs]
    [run.join() for run in runs]
    assert [run.exitcode for run in runs] == [0] * 3
    assert [path.suffix for path in (images / 'cache').iterdir()] == ['.npy']


def test_ids_that_are_paths_and_repeated_rows(images):
    names = [str(images / 'images' / f'train_0_{i}') for i in (2, 0, 2)]
    pd.DataFrame({'image_id': names}).to_csv(images / 'paths.csv', index=False)
    data, plain = (ClassDataset(images / 'paths.csv', None, CACHE_SIZE) for _ in range(2))
    use_cache([data], str(images / 'cache'))
    assert data.cache.rows.tolist() == [1, 0, 1] and same_pixels([data], [plain])


def test_two_folders_with_equal_names_sizes_and_times(images, tmp_path):
    """Two sets of uncompressed pictures, unpacked from archives without times: only the contents differ."""
    table = pd.DataFrame({'image_id': ['a', 'b'], 'label': [0, 1]})
    for name, value in (('one', 0), ('two', 200)):
        (tmp_path / name / 'images').mkdir(parents=True)
        table.to_csv(tmp_path / name / 'train.csv', index=False)
        for image_id in table.image_id:
            Image.fromarray(np.full((20, 20, 3), value, np.uint8)).save(tmp_path / name / 'images' / f'{image_id}.bmp')
            os.utime(tmp_path / name / 'images' / f'{image_id}.bmp', (0, 0))
    cached(tmp_path / 'one', 'train', to=images / 'cache')
    assert same_pixels(cached(tmp_path / 'two', 'train', to=images / 'cache'), cache_datasets(tmp_path / 'two', 'train'))


def test_an_array_with_truncated_hashes_is_written_again(images):
    cached(images)
    os.truncate(arrays(images)[0], 128 + 31 * 720 + 128 + 30 * 8)
    assert len(cached(images)[0].hashes) == 22


def test_hashes_are_those_of_the_files(images):
    sets, plain = cached(images), cache_datasets(images)
    assert [data.hashes.tolist() for data in sets] == [data.content_hashes().tolist() for data in plain]
