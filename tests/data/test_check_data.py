"""Problems and notes about csvs, without decoding images."""
import re

import pandas as pd
import pytest

from tools.check_data import shared_lines
from utils.common import InputError
from utils.data.check_data import Problem, check_data, patient_notes, refuse_problems
from utils.get_loaders import ClassDataset, get_train_val_cls_loaders


@pytest.fixture
def change_sets(tiny, tmp_path):
    """Build the tiny training and validation sets, with tables changed by the functions `train` and `val`."""
    def build(train=None, val=None):
        sets = {}
        for name, change in (('train', train), ('val', val)):
            table = pd.read_csv(tiny / f'{name}.csv', dtype=object)
            (change(table) if change else table).to_csv(tmp_path / f'{name}.csv', index=False)
            sets[name] = ClassDataset(tmp_path / f'{name}.csv', tiny / 'images')
        return sets
    return build


@pytest.fixture
def check(change_sets):
    """Return the problems of the changed sets, one per line."""
    return lambda train=None, val=None, n_classes=3: '\n'.join(map(str, check_data(change_sets(train, val), n_classes)))


@pytest.fixture
def notes(change_sets):
    return lambda train=None, val=None: patient_notes(list(change_sets(train, val).values()))


def put(column, row, value):
    def change(table):
        table.loc[row, column] = value
        return table
    return change


def test_good(check):
    assert check() == ''


@pytest.mark.parametrize(('change', 'message'), [
    (put('image_id', 0, 'lost'), r'1 of 22 images not found in .*images \(check --data_path\): lost'),
    (put('label', 3, '7'), r'1 label in column .label. is not an integer in 0\.\.2 \(check --n_classes, .*\): 7 \(row 5\)'),
    (put('label', 3, 'x'), r'not an integer in 0\.\.2 .*: x \(row 5\)'),
    (put('label', 3, '1.5'), r': 1\.5 \(row 5\)'),
    (put('label', 3, '-1'), r': -1 \(row 5\)'),
    (put('label', 3, None), r': nan \(row 5\)'),
    (lambda t: t[t.label != '2'], r'no training image of class 2 \(check --n_classes\)'),
    (lambda t: t[:0], 'no rows'),
    (lambda t: pd.concat([t, t[:1]]), r'1 image appears in more than one row'),
    (put('name', 2, 'class9'), r'classes with several names \(is .label. the class\? .*\): \d: class\d and class9'),
    (lambda t: t.assign(name='x'), r'names used for several classes \(is .label. the class\? .*\): x: 0 and 1 and 2'),
    (lambda t: t.assign(name=t.name.str.replace('class', 'grade')), r'classes with several names .*: 0: class0 and grade0'),
    (lambda t: t.assign(label=t.label.map({'0': '1', '1': '2', '2': '3'})), r'not integers in 0\.\.2 \(number the classes from 0, .*\): 3'),
    (lambda t: t.assign(label=t.name), r"column 'label' contains class\d \(row 2\), .* instead of class numbers: number"),
    (lambda t: t[['image_id']], 'no labels: put the class in the last column'),
])
def test_one_problem(check, change, message):
    assert re.search(rf'train\.csv: .*{message}', check(change))


@pytest.mark.parametrize(('file', 'image_id', 'hint'), [
    ('a.JPG', 'a.jpg', 'a.jpg (row 2); similar names: a.JPG for a.jpg (an id must match the file name exactly, with or without extension)'),
    ('a.png', 'a.jpg', 'similar names: a.png for a.jpg'), ('A.png', 'a', 'similar names: A.png for a'),
    ('a.png', 'x\\a.png', "use '/' in paths, not '\\'"),
])
def test_similar_file_names_are_suggested_for_a_missing_image(tmp_path, file, image_id, hint):
    (tmp_path / file).touch()
    (tmp_path / 'a.csv').write_text(f'image_id,label\n{image_id},0\n')
    problem, = check_data({'test': ClassDataset(tmp_path / 'a.csv', str(tmp_path))}, 2)
    assert hint in problem.text


def test_overlap(check):
    for same in ('val_0_0', 'val_0_0.jpg'):
        assert re.search(r'train\.csv: 1 image appears in .*val\.csv too: .*val_0_0', check(put('image_id', 0, same)))

    def patients(prefix):
        return lambda t: t.assign(patient_id=[f'{prefix}{i % 9}' for i in range(len(t))])[['image_id', 'patient_id', 'label']]
    assert check(patients('a'), patients('b')) == ''
    assert re.search(r'train\.csv: 9 patients appear in .*: a0, a1, a2, a3, a4, \.\.\.', check(patients('a'), patients('a')))


def patients(*ids):
    """Return a change that sets the first patient ids; the other ids are only in this csv."""
    def change(table):
        others = [f'{table.image_id[0]}{i}' for i in range(len(table) - len(ids))]
        return table.assign(patient_id=[*ids, *others])[['image_id', 'patient_id', 'label']]
    return change


@pytest.mark.parametrize(('train', 'val'), [('12.0', '12'), (' P1', 'P1'), ('007.0', '007')])
def test_one_patient_in_two_spellings_is_shared(check, train, val):
    assert re.search(r'1 patient appears in .*val\.csv too', check(patients(train), patients(val)))


@pytest.mark.parametrize(('train', 'val'), [('001', '1'), ('P1', 'p1'), ('P01-0', 'P1-0'), ('P1', 'P 1'), ('P1', 'P1\u200d'),
                                            ('P-1', 'P\u20111'), ('M\u00fcller', 'Mu\u0308ller'), ('STRASSE', 'stra\u00dfe')])
def test_ids_that_may_be_one_patient_are_named(notes, train, val):
    note, = notes(patients(train), patients(val))
    assert re.search(rf'patient ids .* \(1 group\).*: {train} \(\S*train\.csv\) and {val} \(\S*val\.csv\)$', note)


def test_similar_patient_ids_in_two_csvs_are_listed_before_those_in_one(notes):
    note, = notes(patients('a1', 'A1', 'b1'), patients('B1'))
    assert re.search(r'\(2 groups\).*: b1 .* and B1 .*, a1 \(\S*train\.csv\) and A1 \(\S*train\.csv\)$', note)


def test_unknown_patients_are_not_shared(check, notes):
    sets = patients('unknown', 'Unknown', '?'), patients('UNKNOWN', '?', 'n/a')
    assert check(*sets) == '' and notes(*sets) == []


@pytest.mark.parametrize('ids', [('1', '10', '100'), ('P1', 'P11'), ('1.5', '15')])
def test_different_patients_are_no_note(notes, ids):
    assert notes(patients(*ids), patients('x')) == []


@pytest.mark.parametrize('name', ['Patient ID', 'patient', 'Subject_ID', 'lesion_id'])
def test_a_column_that_seems_to_hold_patients_is_named(notes, name):
    note, = notes(lambda t: patients('a')(t).rename(columns={'patient_id': name}))
    assert note.endswith(f"train.csv: column '{name}' is ignored: if it holds patient ids, rename it to patient_id")


def test_patients_in_only_one_csv_are_a_note(notes):
    note, = notes(patients('a'))
    assert re.search(r'val\.csv has no column patient_id, but \S*train\.csv has', note)


def test_all_problems_of_all_csvs_are_found(check):
    problems = check(lambda t: put('image_id', 0, 'lost')(put('label', 1, 'x')(t)), put('image_id', 0, 'gone')).splitlines()
    assert [re.search(r'(train|val)\.csv: 1 (of|label)', line).groups() for line in problems] == [
        ('train', 'of'), ('train', 'label'), ('val', 'of')]


def test_the_first_five_rows_are_named(check):
    problems = check(lambda t: t.assign(image_id=[f'no{i}' for i in range(len(t))]))
    assert 'no4 (row 6), ...' in problems and 'no5' not in problems


def test_no_error_without_problems():
    refuse_problems([])


def test_one_problem_is_one_line():
    with pytest.raises(InputError, match=r'^a\.csv: no rows$'):
        refuse_problems([Problem('a.csv', 'no rows')])


def test_several_problems_are_one_message():
    with pytest.raises(InputError) as error:
        refuse_problems([Problem('a.csv', 'no rows'), Problem('b.csv', 'no labels')])
    assert str(error.value) == 'the data cannot be used:\n  - a.csv: no rows\n  - b.csv: no labels'


def test_notes_are_warnings(capsys):
    refuse_problems([], ['b.csv has no column patient_id'])
    assert capsys.readouterr().out == '* Warning: b.csv has no column patient_id\n'


def test_empty_image(tmp_path):
    (tmp_path / 'a.jpg').touch()
    (tmp_path / 'a.csv').write_text('image_id,label\na,0\n')
    problem, = check_data({'test': ClassDataset(tmp_path / 'a.csv', tmp_path)}, 2)
    assert problem.text == f"1 empty image file: {tmp_path / 'a.jpg'}"


@pytest.mark.parametrize(('text', 'message'), [
    (None, 'no such csv'), ('', 'is not a csv table'), ('id,label\na,0\n', "no column 'image_id'")])
def test_no_table(tmp_path, text, message):
    if text is not None:
        (tmp_path / 'a.csv').write_text(text)
    with pytest.raises(InputError, match=message):
        ClassDataset(tmp_path / 'a.csv', tmp_path)


def test_fewer_images_than_a_batch(tiny):
    with pytest.raises(InputError, match='22 images, fewer than one batch of 23'):
        get_train_val_cls_loaders(tiny / 'train.csv', tiny / 'val.csv', tiny / 'images', 23, n_classes=3)


def other_folder(folder):
    (folder / 'x').mkdir()
    return 'x/../a.jpg'


def link_to_the_file(folder):
    (folder / 'b.jpg').symlink_to(folder / 'a.jpg')
    return 'b'


def link_to_the_folder(folder):
    (folder / 'x').symlink_to(folder)
    return 'x/a.jpg'


def hard_link(folder):
    (folder / 'b.jpg').hardlink_to(folder / 'a.jpg')
    return 'b'


SPELLINGS = [lambda folder: 'a', lambda folder: './a', lambda folder: './/a.jpg', lambda folder: f'../{folder.name}/a',
             lambda folder: str(folder / 'a.jpg'), other_folder, link_to_the_file, link_to_the_folder, hard_link]


@pytest.mark.parametrize('spelling', SPELLINGS)
def test_one_image_in_two_rows_under_two_spellings(tmp_path, spelling):
    (tmp_path / 'a.jpg').write_bytes(b'x')
    (tmp_path / 'a.csv').write_text(f'image_id,label\na.jpg,0\n{spelling(tmp_path)},0\n')
    problem, = check_data({'test': ClassDataset(tmp_path / 'a.csv', str(tmp_path))}, 1)
    assert re.search(r'1 image appears in more than one row .*: .*a\.jpg \(rows 2 and 3\)', problem.text)


def two_csvs(folder, spelling):
    (folder / 'a.jpg').write_bytes(b'x')
    for name, image_id in (('train', 'a.jpg'), ('val', spelling(folder))):
        (folder / f'{name}.csv').write_text(f'image_id,label\n{image_id},0\n')
        yield ClassDataset(folder / f'{name}.csv', str(folder))


@pytest.mark.parametrize('spelling', SPELLINGS)
def test_one_image_in_two_csvs_under_two_spellings(tmp_path, spelling):
    train, val = two_csvs(tmp_path, spelling)
    assert any(re.search(r'1 image appears in .*val\.csv too: .*a\.jpg', text) for _, text in check_data({'train': train, 'val': val}, 1))


@pytest.mark.parametrize('spelling', SPELLINGS)
def test_the_tool_finds_one_image_under_two_spellings(tmp_path, spelling):
    assert '1 image appears in' in next(shared_lines(list(two_csvs(tmp_path, spelling))))
