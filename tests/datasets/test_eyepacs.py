"""Preparation of EyePACS, on labels in Kaggle's format."""
import os
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest

from tests.next_steps import next_words, parse
from tools import prepare_eyepacs_data
from utils.common import InputError


def eyepacs(tmp_path, monkeypatch, labels, flags=''):
    monkeypatch.setattr(sys, 'argv', ['prepare', '--labels', str(labels), '--out', str(tmp_path / 'data'), *flags.split()])
    prepare_eyepacs_data.main()
    return [pd.read_csv(tmp_path / f'data/{split}_eyepacs.csv', dtype={'patient_id': str}) for split in ('train', 'val', 'test')]


def test_eyepacs_split_by_patient(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    levels = rng.choice(5, 2000, p=[.735, .07, .151, .025, .019])
    names = [f'{i // 2 + 10}_{("left", "right")[i % 2]}' for i in range(2000)]
    pd.DataFrame({'image': names, 'level': levels}).to_csv(tmp_path / 'labels.csv', index=False)
    parts = eyepacs(tmp_path, monkeypatch, tmp_path / 'labels.csv')
    args = parse(next_words(capsys.readouterr().out))[1]
    assert (args.csv_train, args.recipe) == (f'{tmp_path}/data/train_eyepacs.csv', 'finetune')
    assert [len(part) for part in parts] == pytest.approx([1400, 200, 400], abs=12)
    assert sorted(pd.concat(parts).image_id) == sorted(names)
    patients = [set(part.patient_id) for part in parts]
    assert not patients[0] & patients[1] and not patients[0] & patients[2] and not patients[1] & patients[2]
    for part in parts:
        np.testing.assert_allclose(np.bincount(part.level, minlength=5) / len(part), np.bincount(levels) / 2000, atol=.025)
    pd.DataFrame({'image': ['x_left'], 'level': [1], 'Usage': ['Public']}).to_csv(tmp_path / 'solution.csv', index=False)
    train, val, test = eyepacs(tmp_path, monkeypatch, tmp_path / 'labels.csv', f'--test_labels {tmp_path}/solution.csv')
    assert len(train) + len(val) == 2000 and test.image_id.tolist() == ['x_left']


def test_real_eyepacs_labels(real_data, tmp_path, monkeypatch):
    parts = eyepacs(tmp_path, monkeypatch, os.path.join(real_data, 'labels', 'eyepacs_trainLabels.csv'), '--test_fraction 0')
    assert sum(map(len, parts)) == 35126 and len(parts[1]) == pytest.approx(3513, abs=10) and len(parts[2]) == 0


HINT = 'this tool only splits EyePACS. For another data set, write train_NAME.csv and val_NAME.csv with a column image_id'


@pytest.mark.parametrize(('text', 'message'), [
    ('image,level\n1_left,0\n1_right,7\n', r"labels\.csv, row 3: level '7' is not an integer in 0\.\.4"),
    ('image,level\n1_left,1.5\n', "row 2: level '1.5' is not an integer"), ('image,level\n1_left,\n', "row 2: level '' is not an integer"),
    ('image,level\n1_left,mild\n', "row 2: level 'mild'"),
    ('image,level\n1_left,0\n,1\n', "row 3: image '' does not end in _left or _right"),
    ('image,level\n1_left,0\n1_right_2,1\n', "row 3: image '1_right_2' does not end in _left or _right: " + HINT),
    ('image,level\n000c1434d8d7,2\n', "row 2: image '000c1434d8d7' .*" + HINT),
    ('id_code,diagnosis\n000c1434d8d7,2\n', r"no columns 'image' and 'level' \(its columns: id_code, diagnosis\): " + HINT),
    ('Image name,Retinopathy grade,Risk of macular edema ,,\nIDRiD_001,3,2,,\n', "no columns 'image' and 'level' .*" + HINT),
    ('image,level\n1_left,0\n2_left,1\n1_left.png,1\n', r"row 4: image '1_left\.png' repeats an earlier row"),
    ('image,level\n1_left,0\n1_Left,0\n', 'row 3: .* earlier row'), ('image,level\n"1_left,0\n2_left,1\n', 'row 2: unclosed quotation'),
    (None, 'no such csv of labels')])
def test_eyepacs_errors(tmp_path, monkeypatch, text, message):
    if text:
        (tmp_path / 'labels.csv').write_text(text)
    with pytest.raises(InputError, match=message) as error:
        eyepacs(tmp_path, monkeypatch, tmp_path / 'labels.csv')
    assert '\n' not in str(error.value)


def spelled(form, n=300):
    """-> a csv in Kaggle's format with two eyes per patient, each image named by `form`"""
    names = [form.format(i, side) for i in range(10, n + 10) for side in ('left', 'right')]
    return 'image,level\n' + ''.join(f'{name},{i % 5}\n' for i, name in enumerate(names))


@pytest.mark.parametrize('form', ['{}_{}', '{}_{}.png', '{}_{}.JPEG', '{}_{}.jpeg.jpg', ' {}_{}.tif ', 'train/{}_{}.jpeg'])
def test_both_eyes_of_a_patient_stay_together(tmp_path, monkeypatch, form):
    (tmp_path / 'labels.csv').write_text(spelled(form))
    parts = eyepacs(tmp_path, monkeypatch, tmp_path / 'labels.csv')
    patients = [{image_id.split('/')[-1].split('_')[0] for image_id in part.image_id} for part in parts]
    assert sum(map(len, patients)) == 300 and set(parts[0].patient_id) == patients[0]
    assert all(image_id.endswith(('_left', '_right')) for part in parts for image_id in part.image_id)


@pytest.mark.parametrize('form', ['{1}\\{0}_{1}', '{1}/{0}_{1}', '{0} _{1}'])
def test_the_patient_is_the_text_before_the_side(tmp_path, monkeypatch, form):
    (tmp_path / 'labels.csv').write_text(spelled(form))
    assert sum(part.patient_id.nunique() for part in eyepacs(tmp_path, monkeypatch, tmp_path / 'labels.csv')) == 300


def test_sides_in_any_case_keep_their_spelling(tmp_path, monkeypatch):
    (tmp_path / 'labels.csv').write_text(spelled('{}_{}').replace('left', 'Left').replace('right', 'RIGHT'))
    parts = eyepacs(tmp_path, monkeypatch, tmp_path / 'labels.csv')
    assert '10_Left' in set(pd.concat(parts).image_id) and sum(part.patient_id.nunique() for part in parts) == 300


def test_patients_that_differ_in_leading_zeros_stay_together(tmp_path, monkeypatch):
    (tmp_path / 'labels.csv').write_text('image,level\n' + ''.join(f'{i}_left,{i % 5}\n00{i}_right,{i % 5}\n' for i in range(10, 310)))
    parts = eyepacs(tmp_path, monkeypatch, tmp_path / 'labels.csv')
    assert sum(part.patient_id.str.lstrip('0').nunique() for part in parts) == 300


def test_grades_with_a_decimal_point_are_integers(tmp_path, monkeypatch):
    (tmp_path / 'labels.csv').write_text(spelled('{}_{}').replace(',1\n', ',1.0\n'))
    table = pd.concat(eyepacs(tmp_path, monkeypatch, tmp_path / 'labels.csv'))
    assert table.level.dtype == np.int64 and (table.name == 'DR' + table.level.astype(str)).all() and (table.level == 1).sum() == 120


def test_test_patients_must_not_be_training_patients(tmp_path, monkeypatch):
    (tmp_path / 'labels.csv').write_text(spelled('{}_{}'))
    (tmp_path / 'solution.csv').write_text('image,level,Usage\n9_left,0,Public\n012_left.jpeg,0,Public\n')
    with pytest.raises(InputError, match=r'--test_labels \S+solution\.csv shares 1 patient with --labels \S+labels\.csv: 12 '):
        eyepacs(tmp_path, monkeypatch, tmp_path / 'labels.csv', f'--test_labels {tmp_path}/solution.csv')
    assert not (tmp_path / 'data').exists()


def test_kaggles_zip_must_be_unpacked(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / 'labels.csv.zip', 'w') as archive:
        archive.writestr('trainLabels.csv', 'image,level\n1_left,0\n')
    with pytest.raises(InputError, match=r'labels\.csv\.zip is not a csv table: it contains zero bytes \(unpack a zip file'):
        eyepacs(tmp_path, monkeypatch, tmp_path / 'labels.csv.zip')


@pytest.mark.parametrize('flags', ['', '--test_fraction 0.1', '--test_labels {}/solution.csv',
                                   '--test_labels {}/solution.csv --test_fraction 0.1'])
def test_a_test_fraction_without_effect_gives_a_warning(tmp_path, monkeypatch, capsys, flags):
    (tmp_path / 'labels.csv').write_text(spelled('{}_{}'))
    (tmp_path / 'solution.csv').write_text('image,level,Usage\n9_left,0,Public\n9_right,1,Public\n')
    eyepacs(tmp_path, monkeypatch, tmp_path / 'labels.csv', flags.format(tmp_path))
    warned = '* Warning: --test_fraction 0.1 has no effect with --test_labels' in capsys.readouterr().out
    assert warned == ('labels' in flags and 'fraction' in flags)
