"""The data sets of the study: what is written, skipped and left out."""
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks import study_sets
from benchmarks.study_sets import SOURCES, read_set, split_held_out, write_sets
from utils.common import InputError


def write_collection(folder, csvs, zipped, copies=()):
    """Write images/ or images.zip, and csvs {name: image ids}. `copies`: pairs (image id, image id with the same file)."""
    rng = np.random.default_rng(0)
    os.makedirs(folder / 'images')
    for image_id in sorted({image_id for ids in csvs.values() for image_id in ids}):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / 'images' / f'{image_id}.png')
    for image_id, same in copies:
        shutil.copyfile(folder / 'images' / f'{same}.png', folder / 'images' / f'{image_id}.png')
    for name, ids in csvs.items():
        pd.DataFrame({'image_id': ids, 'name': [f'class {i % 2}' for i in range(len(ids))], 'label': np.arange(len(ids)) % 2}).to_csv(
            folder / name, index=False)
    if zipped:
        shutil.make_archive(str(folder / 'images'), 'zip', folder, 'images')
        shutil.rmtree(folder / 'images')


@pytest.fixture
def source(tmp_path):
    """Collections of HAM10000 and IDRiD, the latter with copies in other splits; no ISIC images."""
    ham = {'train_ham.csv': ['a', 'b', 'c', 'd'], 'train_ham_small.csv': ['a', 'b'], 'val_ham.csv': ['e', 'f'], 'test_ham.csv': ['g', 'h']}
    write_collection(tmp_path / 'real' / 'ham10000', ham, zipped=True)
    idrid = {'train_idrid.csv': ['a', 'b'], 'val_idrid.csv': ['c', 'd', 'i'], 'test_idrid.csv': ['e', 'f', 'g', 'h']}
    write_collection(tmp_path / 'real' / 'idrid', idrid, zipped=False, copies=[('f', 'a'), ('g', 'd'), ('i', 'b')])
    return tmp_path / 'real'


@pytest.fixture
def target(source, tmp_path):
    """The folder of the written sets."""
    write_sets(str(source), str(tmp_path / 'sets'))
    return tmp_path / 'sets'


def ids(csv):
    return pd.read_csv(csv).image_id.tolist()


def test_a_set_is_a_folder_with_three_csvs_and_images(target):
    assert sorted(os.listdir(target)) == ['ham', 'ham_small', 'idrid']
    assert sorted(os.listdir(target / 'ham')) == ['images', 'test.csv', 'train.csv', 'val.csv']


def test_a_set_has_the_images_of_its_csvs(target):
    assert sorted(os.listdir(target / 'ham_small' / 'images')) == [f'{image}.png' for image in 'abefgh']


def test_sets_share_the_files_of_their_images(target):
    assert os.path.samefile(target / 'ham' / 'images' / 'a.png', target / 'ham_small' / 'images' / 'a.png')


def test_copies_of_images_in_an_earlier_split_are_left_out(target):
    assert ids(target / 'idrid' / 'test.csv') == ['e', 'h'] and ids(target / 'idrid' / 'val.csv') == ['c', 'd']


def test_no_training_image_is_left_out(target):
    assert ids(target / 'idrid' / 'train.csv') == ['a', 'b']


def test_copies_are_printed(source, tmp_path, capsys):
    write_sets(str(source), str(tmp_path / 'sets'), ['idrid'])
    assert '* idrid: f is left out, since its file is a copy of a\n' in capsys.readouterr().out


def test_a_set_without_its_files_is_skipped(source, tmp_path, capsys):
    os.remove(source / 'ham10000' / 'train_ham.csv')
    written = write_sets(str(source), str(tmp_path / 'sets'))
    assert [os.path.basename(folder) for folder in written] == ['idrid', 'ham_small']
    assert f"* ham is skipped: {source / 'ham10000'} has no train_ham.csv\n" in capsys.readouterr().out


def test_no_set_at_all_is_an_error(tmp_path):
    with pytest.raises(InputError, match='has none of the sets isic8_lt, idrid, ham_small, ham'):
        write_sets(str(tmp_path), str(tmp_path / 'sets'))


def test_a_set_that_exists_is_kept(source, target):
    (target / 'ham' / 'test.csv').write_text('mine')
    shutil.rmtree(target / 'ham_small')
    write_sets(str(source), str(target))
    assert (target / 'ham' / 'test.csv').read_text() == 'mine' and ids(target / 'ham_small' / 'train.csv') == ['a', 'b']


def test_a_set_that_is_kept_is_printed(source, target, capsys):
    shutil.rmtree(target / 'idrid')
    capsys.readouterr()
    write_sets(str(source), str(target), ['idrid', 'ham'])
    assert [line for line in capsys.readouterr().out.splitlines() if 'kept' in line] == ['* ham: kept, it exists']


def test_a_missing_image_leaves_no_set_behind(source, tmp_path):
    os.remove(source / 'idrid' / 'images' / 'c.png')
    with pytest.raises(InputError, match=r'idrid lacks images of its csvs: c$'):
        write_sets(str(source), str(tmp_path / 'sets'), ['idrid'])
    assert os.listdir(tmp_path / 'sets') == []


def table(ids, labels):
    return pd.DataFrame({'image_id': ids, 'label': labels})


def test_the_unused_images_of_the_pool_are_the_test_set():
    pool = table(list('abcdefgh'), [0, 1, 0, 1, 0, 1, 0, 1])
    val, test = split_held_out(pool[:2], pool[2:4], pool)
    assert val.image_id.tolist() == ['c', 'd'] and test.image_id.tolist() == ['e', 'f', 'g', 'h']


def test_every_second_validation_image_of_a_class_without_others_is_a_test_image():
    val = table(['z', 'y', 'x', 'w', 'v'], [1, 1, 1, 1, 0])
    val, test = split_held_out(table(['a'], [0]), val, pd.concat([val, table(['b'], [0])]))
    assert val.image_id.tolist() == ['z', 'x', 'v'] and sorted(test.image_id) == ['b', 'w', 'y']


def test_a_set_has_the_name_of_its_folder_and_counts_its_training_images(target):
    found = read_set(f'{target}/ham/')
    assert (found.name, found.class_count) == ('ham', [2, 2])


@pytest.mark.parametrize('split', study_sets.SPLITS)
def test_a_set_without_a_csv_is_an_error(target, split):
    os.remove(target / 'ham' / f'{split}.csv')
    with pytest.raises(InputError, match=rf'no such csv: .*{split}\.csv'):
        read_set(str(target / 'ham'))


def test_a_set_without_images_is_an_error(target):
    shutil.rmtree(target / 'ham' / 'images')
    with pytest.raises(InputError, match='ham has no folder images'):
        read_set(str(target / 'ham'))


def test_idrid_has_one_test_image_that_trains(real_data, tmp_path):
    write_sets(real_data, str(tmp_path), ['idrid'])
    original = ids(os.path.join(real_data, 'idrid', SOURCES['idrid'].test))
    assert set(original) - set(ids(tmp_path / 'idrid' / 'test.csv')) == {'test_IDRiD_064'}
