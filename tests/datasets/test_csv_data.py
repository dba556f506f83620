"""Csvs from a table of labels: published tables in their original spelling, tables of other forms, splits, and errors."""
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.factories import write_distinct_images
from tests.next_steps import next_words, parse
from tools.prepare_csv_data import main
from utils.common import InputError
from utils.data.check_data import check_data
from utils.datasets.csv_splits import write_whole
from utils.get_loaders import ClassDataset


def prepare(*words):
    """Run the tool in the working folder. -> {split: its csv as a DataFrame of str}"""
    main([str(word) for word in words])
    return {path.name.split('_')[0]: pd.read_csv(path, dtype=str, keep_default_na=False) for path in Path('data').glob('*.csv')}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def letters(n, classes):
    """-> n class names, each of `classes` at least n // len(classes) times"""
    return [classes[i % len(classes)] for i in range(n)]


# Published tables: title -> (header, form of a row, labels, form of the image files). {i}: number of the image; {x}: its label, or 0.0
# and 1.0 in the columns of the classes.
ISIC18 = ('MEL', 'NV', 'BCC', 'AKIEC', 'BKL', 'DF', 'VASC')
ISIC19 = ('MEL', 'NV', 'BCC', 'AK', 'BKL', 'DF', 'VASC', 'SCC')
GRADES = ('0', '1', '2', '3', '4')
PUBLISHED = {
    'HAM10000': ('lesion_id,image_id,dx,dx_type,age,sex,localization', 'HAM_{g:07d},ISIC_{i:07d},{x},histo,80.0,male,scalp',
                 ('akiec', 'bcc', 'bkl', 'df', 'mel', 'nv', 'vasc'), 'HAM10000_images_part_{p}/ISIC_{i:07d}.jpg'),
    'HAM10000, Dataverse': ('"lesion_id"\t"image_id"\t"dx"\t"dx_type"\t"age"\t"sex"\t"localization"\t"dataset"',
                            '"HAM_{g:07d}"\t"ISIC_{i:07d}"\t"{x}"\t"histo"\t80.0\t"male"\t"scalp"\t"vidir_modern"',
                            ('akiec', 'bcc', 'bkl', 'df', 'mel', 'nv', 'vasc'), 'HAM10000_images_part_{p}/ISIC_{i:07d}.jpg'),
    'ISIC 2018, task 3': ('image,' + ','.join(ISIC18), 'ISIC_{i:07d},{x}', ISIC18, 'ISIC2018_Task3_Training_Input/ISIC_{i:07d}.jpg'),
    'ISIC 2019': ('image,' + ','.join(ISIC19) + ',UNK', 'ISIC_{i:07d}_downsampled,{x},0.0', ISIC19,
                  'ISIC_2019_Training_Input/ISIC_{i:07d}_downsampled.jpg'),
    'APTOS 2019': ('id_code,diagnosis', '{i:012x},{x}', GRADES, 'train_images/{i:012x}.png'),
    'IDRiD': ('Image name,Retinopathy grade,Risk of macular edema ,,,,,,,,,', 'IDRiD_{i:03d},{x},2,,,,,,,,,', GRADES,
              '1. Original Images/a. Training Set/IDRiD_{i:03d}.jpg'),
    'Messidor-2': ('image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable', 'IM{i:06d}.jpg,{x},0,1', GRADES,
                   'IMAGES/IM{i:06d}.JPG'),
    'Messidor-2, Kaggle': ('id_code,diagnosis,adjudicated_dme,adjudicated_gradable', '20051020_{i:05d}_0100_PP.png,{x},0,1', GRADES,
                           'preprocess/20051020_{i:05d}_0100_PP.png'),
    'EyePACS': ('image,level', '{g}_{side},{x}', GRADES, 'train/{g}_{side}.jpeg'),
    'Hyper-Kvasir': ('Video file,Organ,Finding,Classification', '{i:08x}-7f5c-4819,Lower GI,{x},anatomical-landmarks',
                     ('cecum', 'polyps', 'pylorus'), 'labeled-images/lower-gi-tract/anatomical-landmarks/{x}/{i:08x}-7f5c-4819.jpg'),
    'Hyper-Kvasir, folds': ('file-name;class-name;split-index', '{i:08x}-7f5c-4819.jpg;{x};0', ('cecum', 'polyps', 'pylorus'),
                            'labeled-images/lower-gi-tract/anatomical-landmarks/{x}/{i:08x}-7f5c-4819.jpg'),
    'PAD-UFES-20': ('patient_id,lesion_id,smoke,age,gender,region,diagnostic,itch,img_id,biopsed',
                    'PAT_{g},{i},,8,,ARM,{x},False,PAT_{g}_{i}_530.png,False', ('ACK', 'BCC', 'MEL', 'NEV', 'SCC', 'SEK'),
                    'images/imgs_part_{p}/imgs_part_{p}/PAT_{g}_{i}_530.png'),
}
BY_PATIENT = ('HAM10000', 'HAM10000, Dataverse', 'EyePACS', 'PAD-UFES-20')


@pytest.fixture
def published(folder, request):
    """The table `labels.csv` and the folder `set` of a published set, 20 images per class. -> (title, classes)"""
    header, row, classes, file = PUBLISHED[request.param]
    lines, one_hot = [header], 'MEL,' in header
    for i in range(20 * len(classes)):
        label = classes[i % len(classes)]
        cells = {'i': i, 'g': i // 2, 'p': i % 2 + 1, 'side': ('left', 'right')[i % 2]}
        lines.append(row.format(x=','.join('1.0' if name == label else '0.0' for name in classes) if one_hot else label, **cells))
        write_distinct_images(folder / 'set', file.format(x=label, **cells))
    (folder / 'labels.csv').write_text('\r\n'.join(lines) + '\r\n')
    return request.param, classes


every_published_table = pytest.mark.parametrize('published', PUBLISHED, indirect=True)


@every_published_table
def test_a_published_table_needs_no_flags(published):
    classes = published[1]
    csvs = prepare('labels.csv', '--images', 'set')
    assert sorted(csvs) == ['test', 'train', 'val'] and sum(map(len, csvs.values())) == 20 * len(classes)
    data = {split: ClassDataset(str(path), 'set') for split in csvs for path in Path('data').glob(f'{split}_*.csv')}
    assert check_data(data, len(classes)) == []
    assert data['train'].class_names(len(classes)) == [f'DR{c}' if classes == GRADES else c for c in classes]


@every_published_table
def test_a_published_table_is_recognised_and_explained(published, capsys):
    title, _, _ = published[0].partition(', Dataverse')
    prepare('labels.csv', '--images', 'set')
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"* Recognised {title.removesuffix(', Kaggle').removesuffix(', folds')} by its columns"
    assert sum(line.startswith('  row ') for line in out) == 3
    args = parse(next_words('\n'.join(out)))[1]
    name = args.csv_train.removeprefix('data/train_')
    assert (args.csv_val, args.csv_test, args.data_path) == (f'data/val_{name}', f'data/test_{name}', 'set')


@pytest.mark.parametrize('published', BY_PATIENT, indirect=True)
def test_patients_and_lesions_of_a_published_table_stay_together(published):
    csvs = prepare('labels.csv', '--images', 'set')
    patients = [set(table.patient_id) for table in csvs.values()]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 10 * len(published[1])


@pytest.mark.parametrize(('header', 'row', 'classes'), [('image,level', 'p{i},{x}', GRADES), ('id_code,diagnosis', 'p{i},{x}', ('a', 'b'))])
def test_a_table_with_the_columns_of_a_published_one_but_other_cells(folder, capsys, header, row, classes):
    simple(folder, 40, header, row, classes)
    assert set(classes_of(prepare('t.csv', '--images', 'set'))) == set(range(len(classes)))
    assert 'Recognised' not in capsys.readouterr().out


def write_idrid(folder):
    for part, n in (('a. Training Set', 50), ('b. Testing Set', 20)):
        write_distinct_images(folder / '1. Original Images', *(f'{part}/IDRiD_{i:03d}.jpg' for i in range(1, n + 1)))
        commas = ',' * 9 if part[0] == 'a' else ''
        lines = [f'Image name,Retinopathy grade,Risk of macular edema {commas}']
        lines += [f'IDRiD_{i:03d},{i % 5},1{commas}' for i in range(1, n + 1)]
        (folder / f'{part[0]}.csv').write_text('\n'.join(lines) + '\n')


@pytest.mark.parametrize('images', [['1. Original Images'],
                                    ['1. Original Images/a. Training Set', '--test_images', '1. Original Images/b. Testing Set']])
def test_equal_names_in_the_training_and_test_folders(folder, images):
    write_idrid(folder)
    csvs = prepare('a.csv', '--test_table', 'b.csv', '--images', *images)
    assert {split: {image_id.split('/')[0] for image_id in table.image_id} for split, table in csvs.items()} == {
        'train': {'a. Training Set'}, 'val': {'a. Training Set'}, 'test': {'b. Testing Set'}}
    assert len(csvs['test']) == 20 and len(csvs['train']) + len(csvs['val']) == 50


def test_equal_names_in_two_folders_that_say_nothing(folder):
    write_distinct_images(folder, 'set/a/1.png', 'set/b/1.png')
    Path('t.csv').write_text('image,label\n1,0\n1,1\n')
    with pytest.raises(InputError, match=r"t\.csv, row 2: image '1' may be a/1\.png or b/1\.png: give only the folder of this table's"):
        prepare('t.csv', '--images', 'set')


def simple(folder, rows=30, header='scan,finding', row='p{i}.png,{x}', classes=('benign', 'normal', 'tumour')):
    """Write t.csv and the images set/p0.png, ..."""
    write_distinct_images(folder, *(f'set/p{i}.png' for i in range(rows)))
    lines = [header, *(row.format(i=i, x=classes[i % len(classes)], g=i // 2) for i in range(rows))]
    (folder / 't.csv').write_text('\n'.join(lines) + '\n', encoding='utf-8')


def test_a_table_of_your_own(folder, capsys):
    simple(folder)
    csvs = prepare('t.csv', '--images', 'set')
    assert list(csvs['train']) == ['image_id', 'name', 'label'] and Path('data/train_t.csv').exists()
    assert dict(zip(csvs['train'].name, csvs['train'].label, strict=True)) == {'benign': '0', 'normal': '1', 'tumour': '2'}
    assert "* t.csv: image = column 'scan', class = column 'finding', patient = none\n  row 2: p0.png -> p0.png, class 0 (benign)\n" in (
        capsys.readouterr().out)


def classes_of(csvs):
    table = pd.concat(csvs.values())
    return dict(sorted(set(zip(table.label.astype(int), table.name, strict=True))))


def test_the_order_of_the_classes_can_be_given(folder):
    simple(folder)
    assert classes_of(prepare('t.csv', '--images', 'set', '--classes', 'normal,benign,tumour')) == {0: 'normal', 1: 'benign', 2: 'tumour'}


def test_numbers_can_be_given_names(folder):
    simple(folder, classes=('0', '1', '2'))
    assert classes_of(prepare('t.csv', '--images', 'set', '--classes', 'healthy,mild,severe')) == {0: 'healthy', 1: 'mild', 2: 'severe'}


@pytest.mark.parametrize(('header', 'classes', 'expected'), [
    ('scan,finding', ('1', '2', '10'), {0: 'finding 1', 1: 'finding 2', 2: 'finding 10'}),
    ('scan,KL_grade', ('0.0', '1.0', '2.0'), {0: 'grade 0', 1: 'grade 1', 2: 'grade 2'}),
    ('scan,finding', ('stage 10', 'stage 2', 'stage 1'), {0: 'stage 1', 1: 'stage 2', 2: 'stage 10'}),
    ('scan,finding', ('True', 'False'), {0: 'False', 1: 'True'})])
def test_labels_are_numbered_in_natural_order(folder, header, classes, expected):
    simple(folder, header=header, classes=classes)
    assert classes_of(prepare('t.csv', '--images', 'set')) == expected


def test_one_hot_columns_without_a_flag(folder):
    simple(folder, header='scan,MEL,NV,BCC', classes=('1,0,0', '0,1,0', '0,0,1'))
    assert classes_of(prepare('t.csv', '--images', 'set')) == {0: 'MEL', 1: 'NV', 2: 'BCC'}


def test_one_hot_columns_in_another_order(folder):
    simple(folder, header='scan,MEL,NV,BCC', classes=('TRUE,FALSE,FALSE', 'FALSE,TRUE,FALSE', 'FALSE,FALSE,TRUE'))
    assert classes_of(prepare('t.csv', '--images', 'set', '--label_column', 'BCC', 'MEL', 'NV')) == {0: 'BCC', 1: 'MEL', 2: 'NV'}


def test_a_row_without_a_single_class(folder):
    simple(folder, header='scan,MEL,NV', classes=('1,0', '0,1', '1,1'))
    with pytest.raises(InputError, match=r't\.csv, row 4: columns MEL, NV have 1 in MEL, NV, but an image has one class'):
        prepare('t.csv', '--images', 'set', '--label_column', 'MEL', 'NV')


def test_test_images_of_a_class_without_training_images_are_left_out(folder, capsys):
    simple(folder, header='scan,MEL,NV,UNK', classes=('1,0,0', '0,1,0'))
    Path('t.csv').rename('train.csv')
    simple(folder, header='scan,MEL,NV,UNK', classes=('1,0,0', '0,1,0', '0,0,1'))
    csvs = prepare('train.csv', '--images', 'set', '--test_table', 't.csv', '--label_column', 'MEL', 'NV', 'UNK', '--name', 'x')
    assert len(csvs['test']) == 20
    assert '* Left out: 10 images of t.csv of a class without training images: UNK' in capsys.readouterr().out


def test_patients_of_another_table(folder):
    simple(folder)
    Path('groups.csv').write_text('scan,lesion_id\n' + ''.join(f'p{i},L{i // 3}\n' for i in range(30)))
    csvs = prepare('t.csv', '--images', 'set', '--join', 'groups.csv')
    assert sorted(pd.concat(csvs.values()).patient_id.unique()) == sorted(f'L{i}' for i in range(10))
    assert sum(table.patient_id.nunique() for table in csvs.values()) == 10


def test_a_table_of_left_and_right_eyes(folder):
    simple(folder)
    Path('pairs.csv').write_text('left;right \n' + ''.join(f'p{i}.png;p{29 - i}.png\n' for i in range(15)))
    csvs = prepare('t.csv', '--images', 'set', '--join', 'pairs.csv')
    for table in csvs.values():
        numbers = table.image_id.str.extract(r'p(\d+)\.png')[0].astype(int)
        assert set(29 - numbers) == set(numbers) and table.patient_id.nunique() == len(table) / 2


def test_a_table_with_three_images_of_a_patient_per_row(folder):
    simple(folder)
    Path('views.csv').write_text('first,second,third\n' + ''.join(f"p{i},p{10 + i},{f'p{20 + i}' if i else ''}\n" for i in range(10)))
    csvs = pd.concat(prepare('t.csv', '--images', 'set', '--join', 'views.csv').values())
    numbers = csvs.image_id.str.extract(r'p(\d+)')[0].astype(int)
    assert (csvs.patient_id.where(numbers != 20, 'views.csv row 2') == [f'views.csv row {2 + i % 10}' for i in numbers]).all()
    assert csvs.patient_id[numbers == 20].tolist() == ['']


def test_images_that_a_joined_table_lacks_are_patients_of_their_own(folder, capsys):
    simple(folder)
    Path('groups.csv').write_text('scan,lesion_id\n' + ''.join(f"p{i},{'' if i > 20 else 'L1'}\n" for i in range(25)))
    csvs = prepare('t.csv', '--images', 'set', '--join', 'groups.csv', '--val_fraction', '.4')
    assert '* Warning: 5 images not in groups.csv (--join)' in capsys.readouterr().out
    assert [(table.patient_id == 'L1').sum() in (0, 21) for table in csvs.values()] == [True] * 3


def test_a_joined_table_of_other_images(folder):
    simple(folder)
    Path('groups.csv').write_text('scan,lesion_id\nx1,1\nx2,1\n')
    with pytest.raises(InputError, match=r"--join: groups\.csv has none of the images of column 'scan': x1, x2"):
        prepare('t.csv', '--images', 'set', '--join', 'groups.csv')


def test_one_image_per_patient_in_validation_and_test(folder):
    simple(folder, 60, 'scan,finding,lesion', '{i},{x},{g}', classes=('a', 'a', 'b', 'b'))
    write_distinct_images(folder, *(f'set/{i}.png' for i in range(60)))
    csvs = prepare('t.csv', '--images', 'set', '--group_column', 'lesion', '--one_per_group')
    assert {split: len(table) / table.patient_id.nunique() for split, table in csvs.items()} == {'train': 2, 'val': 1, 'test': 1}


def test_kept_columns_travel_into_the_csvs(folder):
    simple(folder, header='scan,age,sex,finding', row='p{i},{i},f,{x}')
    csvs = prepare('t.csv', '--images', 'set', '--keep', 'sex', 'age')
    assert list(csvs['val']) == ['image_id', 'sex', 'age', 'name', 'label']
    assert all(f'p{age}.png' == image_id for age, image_id in zip(csvs['val'].age, csvs['val'].image_id, strict=True))


def test_a_split_column(folder):
    classes = [f'{c},{part}' for part in ('Training', 'Test', 'valid') for c in 'ab']
    simple(folder, header='scan,finding,split', row='p{i},{x}', classes=classes)
    csvs = prepare('t.csv', '--images', 'set', '--split_column', 'split')
    assert {split: sorted(int(image_id[1:-4]) % 6 // 2 for image_id in table.image_id) for split, table in csvs.items()} == {
        'train': [0] * 10, 'test': [1] * 10, 'val': [2] * 10}


def test_a_split_without_rows_is_drawn_from_train(folder):
    simple(folder, 40, 'scan,finding,split', 'p{i},{x}', classes=('a,train', 'b,train', 'a,test', 'b,test'))
    csvs = prepare('t.csv', '--images', 'set', '--split_column', 'split')
    assert {split: len(table) for split, table in csvs.items()} == {'train': 18, 'val': 2, 'test': 20}


def test_a_split_column_that_shares_patients_gives_a_warning(folder, capsys):
    simple(folder, header='scan,finding,split,patient', row='p{i},{x},{i}', classes=('a,train', 'b,train', 'a,test', 'b,test'))
    table = pd.read_csv('t.csv')
    table.assign(patient=table.index // 4).to_csv('t.csv', index=False)
    prepare('t.csv', '--images', 'set', '--split_column', 'split')
    assert '* Warning: 7 patients in more than one of the given splits: 0, 1, 2, 3, 4, ...' in capsys.readouterr().out


def test_a_copy_of_an_image_is_left_out(folder, capsys):
    simple(folder)
    (folder / 'set' / 'p4.png').write_bytes((folder / 'set' / 'p1.png').read_bytes())  # both 'normal'
    csvs = prepare('t.csv', '--images', 'set')
    assert 'p4.png' not in set(pd.concat(csvs.values()).image_id) and sum(map(len, csvs.values())) == 29
    assert '* Left out: 1 copy of other images: p4.png (= p1.png)' in capsys.readouterr().out


def test_copies_with_two_classes_are_left_out(folder, capsys):
    simple(folder)
    (folder / 'set' / 'p5.png').write_bytes((folder / 'set' / 'p1.png').read_bytes())
    csvs = prepare('t.csv', '--images', 'set')
    assert not {'p1.png', 'p5.png'} & set(pd.concat(csvs.values()).image_id)
    assert '* Left out: 2 copies of other images with different classes: p5.png (= p1.png), p1.png (= p5.png)' in capsys.readouterr().out


def test_duplicates_that_the_check_has_found_are_left_out(folder, capsys):
    simple(folder)
    Path('pairs.csv').write_text('image_a,image_b,kind\nset/p1.png,set/p4.png,the same picture\nset/p7.png,set/p4.png,the same picture\n'
                                 'set/p0.png,elsewhere/x.png,same file\n')
    csvs = prepare('t.csv', '--images', 'set', '--copies', 'pairs.csv')
    kept = set(pd.concat(csvs.values()).image_id)
    assert len(kept) == 28 and {'p0.png', 'p1.png'} <= kept
    assert '* Left out: 2 copies of other images: p4.png (= p1.png), p7.png (= p1.png)' in capsys.readouterr().out


def test_a_training_image_in_the_test_table_is_left_out_of_training(folder):
    write_idrid(folder)
    images = folder / '1. Original Images'
    (images / 'a. Training Set' / 'IDRiD_003.jpg').write_bytes((images / 'b. Testing Set' / 'IDRiD_004.jpg').read_bytes())
    csvs = prepare('a.csv', '--test_table', 'b.csv', '--images', '1. Original Images')
    assert len(csvs['test']) == 20 and 'a. Training Set/IDRiD_003.jpg' not in {*csvs['train'].image_id, *csvs['val'].image_id}


def test_rows_without_a_label_are_left_out(folder, capsys):
    simple(folder, classes=('a', 'b', ''))
    assert sum(map(len, prepare('t.csv', '--images', 'set').values())) == 20
    assert '* Left out: 10 rows of t.csv without a label: row 4, row 7, ' in capsys.readouterr().out


def test_rows_without_a_file_are_left_out_on_request(folder, capsys):
    simple(folder)
    os.remove('set/p2.png')
    assert sum(map(len, prepare('t.csv', '--images', 'set', '--skip_missing').values())) == 29
    assert "* Left out: t.csv: 1 of 30 images of column 'scan' not found: p2.png (row 4)" in capsys.readouterr().out


def test_an_image_in_two_equal_rows_counts_once(folder, capsys):
    simple(folder)
    with open('t.csv', 'a') as f:
        f.write('p1.png,normal\n')
    assert sum(map(len, prepare('t.csv', '--images', 'set').values())) == 30
    assert '* Left out: 1 repeated row of t.csv: row 32' in capsys.readouterr().out


@pytest.mark.parametrize('prefix', ['C:\\old\\', '/data/old/', 'CheXpert-v1.0/'])
def test_folders_of_another_computer_are_ignored(folder, prefix):
    simple(folder, row=prefix.replace('{', '{{') + 'p{i}.png,{x}')
    assert sum(map(len, prepare('t.csv', '--images', 'set').values())) == 30


def test_folders_in_the_ids_are_respected(folder):
    write_distinct_images(folder, 'set/x/1.png')
    Path('t.csv').write_text('image,label\nx/1.png,0\ny/1.png,1\n')
    with pytest.raises(InputError, match=r"t\.csv: 1 of 2 images of column 'image' not found below set: y/1\.png \(row 3\)"):
        prepare('t.csv', '--images', 'set')


def test_images_in_two_folders_get_ids_below_their_common_folder(folder):
    write_distinct_images(folder, *(f'all/{part}/p{i}.png' for i in range(20) for part in ['ab'[i % 2]]))
    Path('t.csv').write_text('image,label\n' + ''.join(f"p{i},{'xy'[i % 3 > 0]}\n" for i in range(20)))
    csvs = prepare('t.csv', '--images', 'all/a', 'all/b')
    assert {image_id[:2] for table in csvs.values() for image_id in table.image_id} == {'a/', 'b/'}


@pytest.mark.parametrize(('change', 'flags', 'message'), [
    ('scan,other\np0.png,normal\n', ['--label_column', 'finding'], r"--label_column: t\.csv has no column 'finding' \(its columns: scan,"),
    ('a,b\nx,normal\n', [], r'no column names the images below set, such as p0\.png \(row 2 has x, normal\): check --images'),
    ('scan,age,sex\np0,30,f\np1,40,m\n', [], r'which column is the class\? Select it with --label_column: age \(2 values\), sex'),
    ('scan\np0\np1\n', [], r't\.csv has no column with the class, only scan'),
    ('scan,label\np0,0.5\np1,1\n', [], r"t\.csv, row 2: '0.5' in column 'label' is not a class"),
    ('scan,label\np0,Benign\np1,benign\n', [], r"t\.csv, row 3: label 'benign' is also written 'Benign' in column 'label'"),
    ('scan,label\np0,a\np1,a\n', [], r"t\.csv: all images have the class 'a'"),
    ('scan,label\np0,a\np1,b\n', ['--classes', 'a,c'], r"t\.csv, row 3: label 'b' is not in --classes a,c"),
    ('scan,label\np0,a\np1,b\n', ['--classes', 'a,b,c'], r'--classes: t\.csv has no image of c: leave it out'),
    ('scan,label\np0,a\np0.png,b\n', [], r't\.csv, row 3: image p0\.png has another class than in row 2'),
    ('scan,label\np0,a\np1,b\n', ['--keep', 'age'], r"--keep: t\.csv has no column 'age'"),
    ('scan,label\np0,a\np1,b\n', ['--keep', 'label'], r'--keep label: the csvs have a column of this name already'),
    ('scan,label,part\np0,a,train\np1,b,dev\n', ['--split_column', 'part'], r"t\.csv, row 3: 'dev' in column 'part' is not train, val or"),
    ('scan,label\np0,a\np1,b\n', ['--split_column', 'part'], r"--split_column: t\.csv has no column 'part'"),
    ('scan,label\np0,a\np1,b\n', ['--group_column', 'who'], r"--group_column: t\.csv has no column 'who'"),
    ('scan,label\np0,a\np1,b\n', [], 'there are no validation images'),
    ('scan,male,female,category\np0,1,0,x\np1,0,1,y\n', [], r'which column is the class\?'),
    ('scan,label\nx,a\ny,b\n', ['--skip_missing', '--image_column', 'scan'], r't\.csv: no row has both a label and an image file'),
    ('scan,label,part\np0,a,train\np1,b,train\np0,a,test\n', ['--split_column', 'part'], r't\.csv, row 4: image p0\.png has another split'),
    ('scan,label\np0,a\np1,b\n', ['--keep', 'Label'], r'--keep Label: the csvs have a column of this name already'),
    ('scan,label\n', [], r't\.csv has no rows')])
def test_errors_name_file_row_column_and_fix(folder, change, flags, message):
    simple(folder)
    Path('t.csv').write_text(change)
    with pytest.raises(InputError, match=message) as error:
        prepare('t.csv', '--images', 'set', *flags)
    assert '\n' not in str(error.value) and not Path('data').exists()


def test_long_codes_are_different_classes(folder):
    simple(folder, classes=('999000071000000101', '999000071000000104'))
    assert classes_of(prepare('t.csv', '--images', 'set')) == {0: 'finding 999000071000000101', 1: 'finding 999000071000000104'}


def test_negative_labels_come_first(folder):
    simple(folder, classes=('1', '-1', '0'))
    assert classes_of(prepare('t.csv', '--images', 'set')) == {0: 'finding -1', 1: 'finding 0', 2: 'finding 1'}


def test_a_test_table_without_labels_is_refused(folder):
    simple(folder)
    Path('test.csv').write_text('scan,finding\np0,\np1,\n')
    with pytest.raises(InputError, match=r'test\.csv.*(no row has both a label|which column|no column)'):
        prepare('t.csv', '--images', 'set', '--test_table', 'test.csv')


def test_joined_ids_may_contain_dots(folder):
    write_distinct_images(folder, *(f'set/1.2.{i}.0.png' for i in range(20)))
    Path('t.csv').write_text('uid_image,label\n' + ''.join(f"1.2.{i}.0,{'ab'[i % 2]}\n" for i in range(20)))
    Path('groups.csv').write_text('uid_image,lesion_id\n' + ''.join(f'1.2.{i}.0,L{i}\n' for i in range(0, 20, 2)) + ',L99\n')
    csvs = pd.concat(prepare('t.csv', '--images', 'set', '--join', 'groups.csv').values())
    numbers = [int(image_id.split('.')[2]) for image_id in csvs.image_id]
    assert csvs.patient_id.tolist() == ['' if i % 2 else f'L{i}' for i in numbers]


def test_a_patient_in_train_and_test_keeps_the_test_image(folder):
    simple(folder, 40, 'scan,finding,split,patient', 'p{i},{x},{g}', classes=('a,train', 'a,test', 'b,train', 'b,test'))
    csvs = prepare('t.csv', '--images', 'set', '--split_column', 'split', '--one_per_group')
    assert len(csvs['test']) == 20


def test_an_empty_cell_does_not_hide_folders_of_another_computer(folder):
    simple(folder, row='/data/old/p{i}.png,{x}')
    with open('t.csv', 'a') as f:
        f.write(',normal\n')
    assert sum(map(len, prepare('t.csv', '--images', 'set', '--skip_missing').values())) == 30


def test_negative_values_of_kept_columns_stay_numbers(folder):
    simple(folder, header='scan,z,finding', row='p{i},-{i}.5,{x}')
    prepare('t.csv', '--images', 'set', '--keep', 'z')
    assert ClassDataset('data/val_t.csv').table.z.astype(float).le(0).all()


def test_known_grades_that_the_table_lacks_are_left_out(folder):
    simple(folder, header='id_code,diagnosis', row='p{i},{x}', classes=('0', '1', '2'))
    assert classes_of(prepare('t.csv', '--images', 'set')) == {0: 'DR0', 1: 'DR1', 2: 'DR2'}


def test_a_column_with_too_many_values_is_not_the_class(folder):
    simple(folder, 60, 'scan,label', 'p{i},case {i}')
    with pytest.raises(InputError, match="column 'label' has 60 different values in 60 rows, too many for classes"):
        prepare('t.csv', '--images', 'set')


def test_a_label_of_the_test_table_that_training_lacks(folder):
    simple(folder)
    Path('test.csv').write_text('scan,finding\np0,normal\np1,cyst\n')
    with pytest.raises(InputError, match=r"test\.csv, row 3: label 'cyst' is not a class of the training table \(benign, normal, tumour\)"):
        prepare('t.csv', '--images', 'set', '--test_table', 'test.csv')


def test_a_folder_that_does_not_exist(folder):
    simple(folder)
    with pytest.raises(InputError, match=r'no such folder: images\.zip'):
        prepare('t.csv', '--images', 'images.zip')


def test_nothing_is_written_if_one_csv_cannot_be(folder):
    with pytest.raises(UnicodeEncodeError):
        write_whole({'data/train_t.csv': 'a', 'data/val_t.csv': '\ud800'})
    assert list(Path('data').iterdir()) == []


def test_ham10000_as_distributed(folder, real_data):
    with zipfile.ZipFile(Path(real_data, 'ham10000/images.zip')) as archive:
        archive.extractall('set')
    csvs = prepare(f'{real_data}/ham10000/HAM10000_metadata.csv', '--images', 'set', '--keep', 'age', 'sex', '--one_per_group')
    data = {split: ClassDataset(f'data/{split}_ham10000.csv', 'set') for split in csvs}
    assert check_data(data, 7) == [] and data['test'].class_names(7) == ['akiec', 'bcc', 'bkl', 'df', 'mel', 'nv', 'vasc']
    shares = np.array([np.bincount(part.labels, minlength=7) / len(part) for part in (data['val'], data['test'])])
    assert np.abs(shares[0] - shares[1]).max() < .02
