"""Preparation of a folder with one subfolder per class: split, ids, class names and the printed command."""
import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.factories import write_distinct_images
from tests.next_steps import next_words, parse
from tools.prepare_folder_data import main
from utils.common import InputError
from utils.data.check_data import check_data
from utils.data.images import open_rgb
from utils.datasets.splitting import rarity, split_groups
from utils.get_loaders import ClassDataset

CLASSES = {'grade10': 6, 'grade2': 60, 'None': 30, '007': 4}


@pytest.fixture
def folder(tmp_path):
    for name, n in CLASSES.items():
        for i in range(n):
            write_distinct_images(tmp_path / 'set', f'{name}/deep/p{i // 2}_{i}.{("JPG", "png", "tif")[i % 3]}')
    write_distinct_images(tmp_path / 'set', 'loose.png')
    (tmp_path / 'set' / 'grade2' / 'broken.jpg').write_text('text')
    (tmp_path / 'set' / 'grade2' / 'notes.txt').touch()
    return tmp_path / 'set'


def prepare(folder, tmp_path, *flags):
    main([str(folder), '--out', str(tmp_path / 'data'), *flags])
    return {split: ClassDataset(tmp_path / f'data/{split}_set.csv', folder, (8, 8)) for split in ('train', 'val', 'test')}


def test_contract(folder, tmp_path, capsys, monkeypatch):
    data = prepare(folder, tmp_path)
    assert check_data(data, 4) == []
    assert data['train'].class_names(4) == ['007', 'grade2', 'grade10', 'None'] == data['test'].class_names(4)
    ids = [image_id for part in data.values() for image_id in part.image_ids]
    assert len(ids) == len(set(ids)) == 100 and 'grade2/deep/p0_0.JPG' in ids and data['val'][0][0].shape == (3, 8, 8)
    counts = {split: np.bincount(part.labels, minlength=4).tolist() for split, part in data.items()}
    assert counts == {'val': [1, 6, 1, 3], 'test': [1, 12, 1, 6], 'train': [2, 42, 4, 21]}
    out = capsys.readouterr().out
    assert '* Left out: 1 image outside any class folder: loose.png\n' in out and 'broken.jpg' in out and 'notes.txt' in out
    _, args, _ = parse(next_words(out))
    sets = {split: ClassDataset(csv, args.data_path) for split, csv in zip(('train', 'val', 'test'), args.csv, strict=True)}
    assert check_data(sets, 4) == []


def test_by_patient_and_deterministic(folder, tmp_path):
    flags = ['--patient_pattern', r'/(p\d+)_']
    data = prepare(folder, tmp_path, *flags)
    assert check_data(data, 4) == []
    patients = {split: set(part.table.patient_id) for split, part in data.items()}
    assert patients['train'] | patients['val'] | patients['test'] == {f'p{i}' for i in range(30)}
    assert not patients['test'] & (patients['train'] | patients['val'])
    again = prepare(folder, tmp_path, *flags)
    other = prepare(folder, tmp_path, *flags, '--seed', '1')
    assert again['test'].image_ids == data['test'].image_ids != other['test'].image_ids


def test_split_groups():
    rng = np.random.default_rng(0)
    groups, labels = rng.integers(0, 400, 1000), rng.choice(5, 1000, p=[.6, .2, .1, .07, .03])
    part = split_groups(groups, rarity(labels), (.1, .2), 0)
    assert (pd.Series(part).groupby(groups).nunique() == 1).all()
    assert np.bincount(part) / 1000 == pytest.approx([.1, .2, .7], abs=.03)
    for n, expected in ((1, [0, 0, 1]), (2, [0, 1, 1]), (3, [1, 1, 1]), (4, [1, 1, 2]), (100, [10, 20, 70])):
        assert np.bincount(split_groups(range(n), [0] * n, (.1, .2), 0), minlength=3).tolist() == expected
    assert np.bincount(split_groups(range(3), [0] * 3, (.1, 0.), 0), minlength=3).tolist() == [1, 0, 2]
    assert rarity([5, 5, 2, 9, 9, 9]).tolist() == [1, 1, 2, 0, 0, 0]


@pytest.mark.parametrize(('flags', 'message'), [
    (['--patient_pattern', 'p'], 'must have one group'), (['--patient_pattern', '('], 'is not a valid regular expression'),
    (['--patient_pattern', '/(p[0-3])_'], 'finds no patient in 74 of 100 images'), (['--val_fraction', '.9'], '--val_fraction'),
    (['--val_fraction', '0'], '--val_fraction must be above 0')])
def test_errors(folder, tmp_path, flags, message):
    with pytest.raises(InputError, match=message):
        prepare(folder, tmp_path, *flags)
    assert not (tmp_path / 'data').exists()


def test_splits_are_not_classes(folder, tmp_path):
    for old, new in zip(sorted(CLASSES), ('train', 'val', 'test', 'valid'), strict=True):
        (folder / old).rename(folder / new)
    with pytest.raises(InputError, match=r'which are not classes.* training csv with --classes_from'):
        main([str(folder)])
    with pytest.raises(InputError, match='no such folder'):
        main([str(tmp_path / 'absent')])


def pictures(folder, *names, n=6):
    """Write `n` images to each of the folders `names` below `folder`."""
    for name in names:
        (folder / name).mkdir(parents=True)
        write_distinct_images(folder, *(f'{name}/{i}.png' for i in range(n)))
    return folder


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """data/train_pictures.csv with the classes benign 0, malignant 1, naevus 2, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    main([str(pictures(tmp_path / 'pictures', 'benign', 'malignant', 'naevus'))])
    return 'data/train_pictures.csv'


def test_classes_from_a_csv_keep_their_numbers_if_one_is_missing(tmp_path, trained, capsys):
    main([str(pictures(tmp_path / 'clinic', 'malignant', 'naevus')), '--classes_from', trained])
    test = ClassDataset('data/test_clinic.csv', 'clinic', (8, 8))
    assert test.named_classes() == [(1, 'malignant'), (2, 'naevus')] and len(test) == 12
    assert all(image_id.startswith(name + '/') for image_id, name in zip(test.image_ids, test.table.name, strict=True))
    out = capsys.readouterr().out
    assert 'class 0 (benign): 0\n  class 1 (malignant): 6\n' in out
    assert parse(next_words(out))[1].csv == ['data/test_clinic.csv'] and parse(next_words(out))[1].n_classes == 3
    assert not (tmp_path / 'data/train_clinic.csv').exists()


def test_one_folder_is_enough_for_classes_from_a_csv(tmp_path, trained):
    main([str(pictures(tmp_path / 'clinic', 'naevus')), '--classes_from', trained])
    assert ClassDataset('data/test_clinic.csv').named_classes() == [(2, 'naevus')]


def test_a_folder_that_is_not_a_class_of_the_csv_is_refused(tmp_path, trained):
    message = r'clinic: Benign, other are not classes of data/train_pictures\.csv \(benign, malignant, naevus\)'
    with pytest.raises(InputError, match=message):
        main([str(pictures(tmp_path / 'clinic', 'Benign', 'naevus', 'other')), '--classes_from', trained])


def test_classes_from_another_column_keep_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.csv').write_text('image_id,name,diagnosis,fold\nx,benign,0,0\ny,naevus,1,0\n')
    main([str(pictures(tmp_path / 'clinic', 'naevus')), '--classes_from', str(tmp_path / 'a.csv'), '--label_column', 'diagnosis'])
    test = ClassDataset('data/test_clinic.csv')
    assert (test.label_column, test.named_classes()) == ('diagnosis', [(1, 'naevus')])


@pytest.mark.parametrize(('rows', 'message'), [
    ('a,x,0\nb,y,0\n', 'class 0 has the names x and y'), ('a,x,0\nb,x,1\n', 'name x has the classes 0 and 1'),
    ('a,x,mel\n', "must have the class names in a column 'name'")])
def test_classes_from_a_csv_that_conflicts_with_itself(tmp_path, rows, message):
    (tmp_path / 'a.csv').write_text('image_id,name,label\n' + rows)
    with pytest.raises(InputError, match=message):
        main([str(pictures(tmp_path / 'clinic', 'x')), '--classes_from', str(tmp_path / 'a.csv')])


def test_classes_from_a_csv_without_names(tmp_path):
    (tmp_path / 'a.csv').write_text('image_id,label\na,0\nb,1\n')
    with pytest.raises(InputError, match="must have the class names in a column 'name'"):
        main([str(pictures(tmp_path / 'clinic', 'x')), '--classes_from', str(tmp_path / 'a.csv')])


def test_classes_from_a_csv_and_no_images(tmp_path, trained):
    (tmp_path / 'clinic').mkdir()
    with pytest.raises(InputError, match='clinic has no images in class folders: it needs at least one class'):
        main([str(tmp_path / 'clinic'), '--classes_from', trained])


def test_classes_from_a_csv_and_splits_as_folders(tmp_path, trained):
    with pytest.raises(InputError, match='holds the splits test, train: with --classes_from, give the folder of one of them'):
        main([str(pictures(tmp_path / 'clinic', 'train/benign', 'train/naevus', 'test/naevus')), '--classes_from', trained])


def test_decomposed_accents_are_the_same_class(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.csv').write_text('image_id,name,label\na,b\u00e9nin,1\nb,x,0\n', encoding='utf-8')
    main([str(pictures(tmp_path / 'clinic', 'be\u0301nin')), '--classes_from', 'a.csv'])
    assert ClassDataset('data/test_clinic.csv').named_classes() == [(1, 'b\u00e9nin')]


def test_splits_as_folders_are_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([str(pictures(tmp_path / 'set', 'train/a', 'train/b', 'Validation/b', 'test/a', 'test/b'))])
    data = {name: ClassDataset(f'data/{name}_set.csv', 'set') for name in ('train', 'val', 'test')}
    assert {name: part.image_ids[0].split('/')[0] for name, part in data.items()} == {'train': 'train', 'val': 'Validation', 'test': 'test'}
    assert data['val'].named_classes() == [(1, 'b')] and [len(part) for part in data.values()] == [12, 6, 12]
    assert check_data(data, 2) == []


def test_a_split_without_a_folder_is_drawn_from_train(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([str(pictures(tmp_path / 'set', 'train/a', 'train/b', 'test/a', 'test/b', n=10))])
    data = {name: ClassDataset(f'data/{name}_set.csv', 'set') for name in ('train', 'val', 'test')}
    assert [len(part) for part in data.values()] == [18, 2, 20] and data['val'].image_ids[0].startswith('train/')


@pytest.mark.parametrize('names', [('training_set', 'test_set'), ('a. Training Set', 'b. Testing Set'), ('trainset', 'Testset')])
def test_split_folders_with_longer_names_are_kept(tmp_path, monkeypatch, names):
    monkeypatch.chdir(tmp_path)
    main([str(pictures(tmp_path / 'set', *(f'{part}/{name}' for part in names for name in 'ab'), n=10))])
    data = {name: ClassDataset(f'data/{name}_set.csv', 'set') for name in ('train', 'val', 'test')}
    assert data['test'].image_ids[0].startswith(names[1]) and data['train'].named_classes() == [(0, 'a'), (1, 'b')]


@pytest.mark.parametrize('other', ['unlabelled/x', 'eval/a', 'dev/b'])
def test_another_folder_beside_the_splits_is_refused(tmp_path, other):
    with pytest.raises(InputError, match=rf"class folders are in test and train, but {other.split('/')[0]} is not train, val or test: "):
        main([str(pictures(tmp_path / 'set', 'train/a', 'train/b', 'test/a', other))])


@pytest.mark.parametrize('names', [('fold1/a', 'fold1/b', 'fold2/a', 'fold2/b'), ('images/a', 'images/b', 'masks/a', 'masks/b')])
def test_folds_and_masks_are_not_classes(tmp_path, names):
    with pytest.raises(InputError, match='which are not classes'):
        main([str(pictures(tmp_path / 'set', *names))])


def test_class_names_may_contain_the_name_of_a_split(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([str(pictures(tmp_path / 'set', 'stress test', 'test positive', 'label 2', n=10))])
    assert ClassDataset('data/train_set.csv').class_names(3) == ['label 2', 'stress test', 'test positive']


def test_files_of_other_formats_are_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = pictures(tmp_path / 'set', 'a', 'b', n=10)
    Image.new('RGB', (8, 8)).save(folder / 'a' / '3.png', 'EPS')
    main([str(folder)])
    assert '* Left out: 1 image that cannot be opened: a/3.png' in capsys.readouterr().out


def test_masks_of_images_are_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = pictures(tmp_path / 'set', 'benign', 'malignant', n=10)
    for name in ('benign/0_mask', 'benign/0_mask_1', 'malignant/3_segmentation', 'malignant/x_mask'):
        Image.new('RGB', (8, 8)).save(folder / f'{name}.png')
    main([str(folder)])
    ids = [image_id for name in ('train', 'val', 'test') for image_id in ClassDataset(f'data/{name}_set.csv').image_ids]
    assert len(ids) == 21 and 'malignant/x_mask.png' in ids  # there is no image x
    assert '* Left out: 3 masks of another image: benign/0_mask.png, ' in capsys.readouterr().out


def test_a_class_folder_that_ends_in_a_blank(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([str(pictures(tmp_path / 'set', 'benign ', 'malignant', n=10))])
    assert len(ClassDataset('data/train_set.csv', 'set')) == 14


def test_a_name_with_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match='--name x/y must not contain a folder'):
        main([str(pictures(tmp_path / 'set', 'a', 'b')), '--name', 'x/y'])


def test_a_fraction_for_a_split_with_a_folder_gives_a_warning(tmp_path, capsys):
    main([str(pictures(tmp_path / 'set', 'train/a', 'train/b', 'test/a', 'test/b', n=10)), '--out', str(tmp_path / 'data'),
          '--val_fraction', '0.2', '--test_fraction', '0.3'])
    assert [line for line in capsys.readouterr().out.splitlines() if 'Warning' in line] == [
        '* Warning: --test_fraction 0.3 has no effect if the test images have a folder']


def test_a_test_folder_that_is_not_a_training_class_is_refused(tmp_path):
    with pytest.raises(InputError, match=r'set: c is not a class of the training images \(a, b\)'):
        main([str(pictures(tmp_path / 'set', 'train/a', 'train/b', 'test/a', 'test/c')), '--out', str(tmp_path / 'data')])


def test_patients_in_two_split_folders_give_a_warning(tmp_path, capsys):
    main([str(pictures(tmp_path / 'set', 'train/a', 'train/b', 'test/a', 'val/b')), '--out', str(tmp_path / 'data'),
          '--patient_pattern', '([0-9]+)'])
    assert '* Warning: 6 patients in more than one of the folders train, val and test: 0, 1, 2, 3' in capsys.readouterr().out


@pytest.mark.parametrize('name', ['train', 'training', 'my_train_2', 'Train', 'val', 'test'])
def test_the_printed_command_finds_its_csvs_for_any_folder_name(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    main([str(pictures(tmp_path / name, 'a', 'b', n=10))])
    _, args, _ = parse(next_words(capsys.readouterr().out))
    assert args.csv == [f'data/{split}_{name}.csv' for split in ('train', 'val', 'test')]


def test_patients_in_two_spellings_stay_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = pictures(tmp_path / 'set', 'a', 'b', n=0)
    for i in range(1, 41):
        for name in (f'p{i}_1', f'P0{i}_2'):
            write_distinct_images(folder, f"{'ab'[i % 2]}/{name}.png")
    main(['set', '--patient_pattern', '/([^_]+)_'])
    tables = [ClassDataset(f'data/{part}_set.csv').table for part in ('train', 'val', 'test')]
    assert sum(table.patient_id.str.lower().str.replace('p0', 'p').nunique() for table in tables) == 40


def test_unknown_patients_are_split_image_by_image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = pictures(tmp_path / 'set', 'a/unknown', 'b/unknown', n=20)
    main([str(folder), '--patient_pattern', '/([^/]+)/'])
    tables = [ClassDataset(f'data/{part}_set.csv').table for part in ('train', 'val', 'test')]
    assert [len(table) for table in tables] == [28, 4, 8] and all(table.patient_id.isna().all() for table in tables)


def test_an_empty_validation_set_is_an_error(tmp_path):
    with pytest.raises(InputError, match='there are no validation images: give a larger --val_fraction'):
        main([str(pictures(tmp_path / 'set', 'a', 'b', n=1)), '--out', str(tmp_path / 'data')])


def test_a_test_csv_of_an_earlier_split_is_an_error(tmp_path):
    main([str(pictures(tmp_path / 'set', 'a', 'b', n=10)), '--out', str(tmp_path / 'data')])
    with pytest.raises(InputError, match=r'test_set\.csv belongs to an earlier split'):
        main([str(tmp_path / 'set'), '--out', str(tmp_path / 'data'), '--test_fraction', '0'])


def test_an_image_with_only_a_damaged_header_is_kept(tmp_path, monkeypatch):
    """It is kept if `open_rgb` can read it."""
    folder = pictures(tmp_path / 'set', 'a', 'b', n=10)
    (folder / 'a' / '0.png').write_text('damaged header')
    (folder / 'a' / '1.png').write_text('no image')
    monkeypatch.setattr('tools.prepare_folder_data.open_rgb', lambda path: None if path.endswith('0.png') else open_rgb(path))
    main([str(folder), '--out', str(tmp_path / 'data')])
    ids = {image_id for part in ('train', 'val', 'test') for image_id in ClassDataset(tmp_path / f'data/{part}_set.csv').image_ids}
    assert len(ids) == 19 and 'a/0.png' in ids and 'a/1.png' not in ids


def test_names_with_control_characters_are_left_out(tmp_path, capsys):
    folder = pictures(tmp_path / 'set', 'a', 'b', 'c\n* Next, x', n=10)
    for name in ('es\x1b[2Jc.png', 'line\u2028.png', 'notes\r* Next, y.txt'):
        (folder / 'a' / name).write_bytes((folder / 'a' / '0.png').read_bytes())
    main([str(folder), '--out', str(tmp_path / 'data')])
    out = capsys.readouterr().out
    assert ClassDataset(tmp_path / 'data/train_set.csv').class_names(2) == ['a', 'b']
    assert '* Left out: 13 files with a name that is not UTF-8 or contains control characters: ' in out
    assert [line for line in out.splitlines() if line.startswith('* Next, ')] == out.splitlines()[-1:]
    assert all(line.isprintable() for line in out.splitlines())


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='this system has no named pipes')
def test_a_named_pipe_is_not_an_image(tmp_path, capsys):
    os.mkfifo(pictures(tmp_path / 'set', 'a', 'b', n=10) / 'a' / 'pipe.png')
    main([str(tmp_path / 'set'), '--out', str(tmp_path / 'data')])
    assert '* Left out: 1 image that cannot be opened: a/pipe.png\n' in capsys.readouterr().out
