"""Fingerprint of a data set: counts, shares, patients, image sizes, shared images."""
import pandas as pd
import pytest
from PIL import Image

from tests.factories import write_distinct_images
from utils.common import InputError
from utils.data.fingerprint import fingerprint, image_sides, read_sets


@pytest.fixture
def csvs(tmp_path):
    """Three csvs of 12, 6 and 4 images of classes a (0) and b (1), with patients in the training csv."""
    for split, n in (('train', 12), ('val', 6), ('test', 4)):
        write_distinct_images(tmp_path / 'images', *(f'{split}{i}.png' for i in range(n)))
        table = pd.DataFrame({'image_id': [f'{split}{i}' for i in range(n)], 'name': ['a', 'a', 'b'] * (n // 3) + ['a'] * (n % 3)})
        if split == 'train':
            table.insert(1, 'patient_id', [f'P{i // 3}' for i in range(9)] + [''] * 3)
        table.assign(label=(table.name == 'b').astype(int)).to_csv(tmp_path / f'{split}.csv', index=False)
    return {split: str(tmp_path / f'{split}.csv') for split in ('train', 'val', 'test')}


def test_the_fingerprint(csvs, tmp_path):
    found = fingerprint(read_sets(csvs, str(tmp_path / 'images')))
    assert found['classes'] == ['a', 'b'] and found['imbalance'] == 2
    assert found['splits']['train']['class_count'] == [8, 4] and found['splits']['val']['share'] == [.6667, .3333]
    assert [found['splits'][split]['patients'] for split in csvs] == [6, None, None]
    assert found['shared']['train and test'] == {'image': 0} and found['copies'] == 0
    assert found['sides'] == {'read': 22, 'shorter': [8, 8, 8], 'longer': [8, 8, 8]}


def test_images_in_two_splits_are_counted(csvs, tmp_path):
    with open(csvs['test'], 'a') as f:
        f.write('train3.png,a,0\n')
    assert fingerprint(read_sets(csvs, str(tmp_path / 'images')))['shared']['train and test'] == {'image': 1}


def test_equal_files_are_counted(csvs, tmp_path):
    (tmp_path / 'images/train1.png').write_bytes((tmp_path / 'images/test0.png').read_bytes())
    (tmp_path / 'images/val1.png').write_bytes((tmp_path / 'images/test0.png').read_bytes())
    assert fingerprint(read_sets(csvs, str(tmp_path / 'images')))['copies'] == 2


def test_sides_are_those_of_a_sample(tmp_path):
    for i, size in enumerate([(40, 20), (30, 50), (10, 90)]):
        Image.new('RGB', size).save(tmp_path / f'{i}.png')
    (tmp_path / 'damaged.png').write_text('x')
    paths = [str(tmp_path / f'{name}.png') for name in (0, 1, 'damaged', 2)]
    assert image_sides(paths) == {'read': 3, 'shorter': [10, 20, 30], 'longer': [40, 50, 90]}


def test_without_a_readable_image(tmp_path):
    with pytest.raises(InputError, match='no image can be read: check --data_path'):
        image_sides([str(tmp_path / 'absent.png')])


@pytest.mark.parametrize(('text', 'message'), [
    ('image_id,label\n', r'train\.csv has no rows: train images need them'),
    ('image_id\ntrain0\n', r'train\.csv has no labels: train images need them'),
    ('image_id,label\ntrain0,0\ntrain1,mel\n', r"train\.csv, row 3: 'mel' in column 'label' is not a class number")])
def test_csvs_that_cannot_be_used(csvs, tmp_path, text, message):
    (tmp_path / 'train.csv').write_text(text)
    with pytest.raises(InputError, match=message):
        read_sets(csvs, str(tmp_path / 'images'))
