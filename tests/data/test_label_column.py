"""The class column of a csv: found and printed, or an error if it would be a guess."""
import pandas as pd
import pytest

from tests.factories import random_table
from tests.report_files import write
from tools import check_data, contact_sheet, evaluate_predictions
from utils.common import InputError
from utils.data.label_column import drop_empty_columns, find_label_column
from utils.get_loaders import ClassDataset
from utils.testing import scoring


def write_csv(path, header, *rows):
    path.write_text('\n'.join([header, *rows]) + '\n')
    return path


def column_of(tmp_path, header, *rows, wanted=None):
    return ClassDataset(write_csv(tmp_path / 'a.csv', header, *rows or [','.join('0' * len(header.split(',')))]),
                        label_column=wanted).label_column


@pytest.mark.parametrize(('header', 'column'), [
    ('image_id,label', 'label'), ('image_id,dx,label', 'label'), ('image_id,patient_id,name,Grade', 'Grade'),
    ('image_id,age,severity', 'severity'),
    ('image_id,fold,diagnosis', 'diagnosis'), ('image_id', None), ('image_id,patient_id,name', None),
])
def test_the_last_column_is_the_class(tmp_path, header, column):
    assert column_of(tmp_path, header, ','.join('0' * len(header.split(',')))) == column


@pytest.mark.parametrize('header', [
    'image_id,diagnosis,fold', 'image_id,Retinopathy grade,Risk of macular edema', 'image_id,adjudicated_dr_grade,adjudicated_gradable',
    'lesion_id,image_id,dx,dx_type,age,sex,localization', 'image_id,LABEL,split',
    'image_id,label,patient_id', 'image_id,labels,age', 'image_id,drGrade,fold', 'image_id,DRGrade,fold', 'image_id,finding,fold',
    'image_id,category,fold', 'image_id,severity,fold',
])
def test_a_last_column_after_a_typical_class_column_is_refused(tmp_path, header):
    last = header.split(',')[-1]
    with pytest.raises(InputError, match=rf"a\.csv: the last column is '{last}', but '.*' may be the class: .*--label_column"):
        column_of(tmp_path, header, ','.join('2' * len(header.split(','))))


@pytest.mark.parametrize('header', ['image_id,label,Label', 'image_id,DX,age,dx'])
def test_two_class_columns_that_differ_in_case_are_refused(tmp_path, header):
    with pytest.raises(InputError, match=r"a\.csv has two possible class columns, '.*' and '.*': .*--label_column"):
        column_of(tmp_path, header)


@pytest.mark.parametrize(('header', 'rows'), [
    ('image_id,MEL,NV,BCC', ['a,1,0,0', 'b,0,1,0', 'c,0,0,1']), ('image_id,benign,malignant', ['a,1.0,0.0', 'b,0.0,1.0']),
    ('image_id,MEL,NV,age', ['a,1,0,50', 'b,0,1,60']), ('image_id,edema,drusen,scar', ['a,1,1,0', 'b,0,0,0']),
    ('image_id,MEL,NV,fold', ['a,True,False,0', 'b,FALSE,TRUE,1']),
], ids=['one_hot', 'two_classes', 'before_another_column', 'several_findings', 'true_and_false'])
def test_classes_spread_over_columns_are_refused(tmp_path, header, rows):
    with pytest.raises(InputError, match=r'a\.csv: columns .* hold only 0 and 1.*--label_column'):
        column_of(tmp_path, header, *rows)


def test_the_error_lists_all_one_hot_columns(tmp_path):
    with pytest.raises(InputError, match=r'columns MEL, NV, BCC hold only 0 and 1'):
        column_of(tmp_path, 'image_id,MEL,NV,BCC', 'a,1,0,0', 'b,0,1,0')


@pytest.mark.parametrize(('header', 'rows'), [
    ('image_id,is_male,outcome', ['a,1,1', 'b,0,1']), ('image_id,male,female,label', ['a,1,0,1', 'b,0,1,1']),
], ids=['two_that_do_not_add_up', 'last_is_called_label'])
def test_other_columns_of_0_and_1_are_allowed(tmp_path, header, rows):
    assert column_of(tmp_path, header, *rows) == header.split(',')[-1]


@pytest.mark.parametrize('header', ['image_id,label,', 'image_id,label,,,', 'image_id,label,remark', 'image_id, ,label '])
def test_empty_columns_do_not_count(tmp_path, header):
    cells = ['0' if word.strip() in ('image_id', 'label') else '' for word in header.split(',')]
    assert column_of(tmp_path, header, ','.join(cells)) == 'label'


def test_an_empty_column_called_label_is_a_csv_without_labels(tmp_path):
    assert column_of(tmp_path, 'image_id,age,label', 'a,50,', 'b,60,') is None


@pytest.mark.parametrize('header', ['image_id,diagnosis,fold', 'image_id,diagnosis,label', 'diagnosis,image_id'])
def test_label_column_selects_the_class(tmp_path, header):
    assert column_of(tmp_path, header, wanted='diagnosis') == 'diagnosis'


def test_blanks_around_label_column_do_not_count(tmp_path):
    assert column_of(tmp_path, 'image_id,Risk of macular edema ,age', wanted='Risk of macular edema ') == 'Risk of macular edema'


def test_label_column_none_reads_no_labels(tmp_path):
    assert column_of(tmp_path, 'image_id,age', wanted='none') is None


def test_the_error_for_a_missing_label_column_says_how_to_test_without_labels(tmp_path):
    with pytest.raises(InputError, match=r"a\.csv has no class column 'label' \(columns: image_id, age\): .*--label_column none"):
        column_of(tmp_path, 'image_id,age', wanted='label')


def test_a_csv_with_only_ids_has_no_labels_whatever_the_column(tmp_path):
    assert column_of(tmp_path, 'image_id,patient_id', wanted='label') is None


def test_a_csv_with_another_class_column_is_not_a_csv_without_labels(tmp_path):
    with pytest.raises(InputError, match="no class column 'label'"):
        column_of(tmp_path, 'image_id,diagnosis,patient_id', wanted='label')


def test_a_csv_without_rows_keeps_its_columns():
    table = pd.DataFrame({'image_id': [], 'label': []}, dtype=str)
    assert find_label_column(drop_empty_columns(table), 'a.csv') == 'label'


@pytest.fixture
def with_fold(tiny, tmp_path):
    """The tiny set with a column `fold` after the class."""
    for split in ('train', 'val', 'test'):
        table = pd.read_csv(tiny / f'{split}.csv').rename(columns={'label': 'diagnosis'})
        table.assign(fold=[i % 3 for i in range(len(table))]).to_csv(tmp_path / f'{split}.csv', index=False)
    return tmp_path


def test_training_refuses_a_fold_as_the_class(train, with_fold):
    with pytest.raises(InputError, match=r"train\.csv: the last column is 'fold', but 'diagnosis' may be the class"):
        train(f'--csv_train {with_fold}/train.csv')


def test_training_prints_the_class(train, with_fold, capsys):
    train(f'--csv_train {with_fold}/train.csv --label_column diagnosis')
    out = capsys.readouterr().out
    assert all(f"{split}.csv: class = column 'diagnosis'" in out for split in ('train', 'val'))


def test_testing_uses_the_class_column_of_training(train, with_fold, capsys):
    train(f'--csv_train {with_fold}/train.csv --label_column diagnosis')
    scoring.main('test', {'test': f'{with_fold}/test.csv'}, 0, ['--load_path', 'experiments/run', '--num_workers', '0'])
    assert "test.csv: class = column 'diagnosis'" in capsys.readouterr().out


def run_tests(train, csv, *flags):
    train()
    scoring.main('test', {'test': str(csv)}, 0, ['--load_path', 'experiments/run', '--num_workers', '0', *flags])


def test_a_csv_without_the_class_column_of_training_is_refused(train, with_fold):
    with pytest.raises(InputError, match=r"test\.csv has no class column 'label' .*--label_column"):
        run_tests(train, with_fold / 'test.csv')


def test_label_column_of_the_test_script(train, with_fold, capsys):
    """The column applies to the test csv, not to the validation csv of the run, on which --calibrate tunes."""
    run_tests(train, with_fold / 'test.csv', '--label_column', 'diagnosis', '--calibrate')
    out = capsys.readouterr().out
    assert "test.csv: class = column 'diagnosis'" in out and "val.csv: class = column 'label'" in out


@pytest.mark.parametrize(('column', 'said'), [('other', "class = column 'other'"), ('none', 'no labels'),
                                             ('missing', "class = column 'label'")])
def test_label_column_of_the_validation_csv(train, tiny, tmp_path, capsys, column, said):
    """--label_column also applies to the validation csv of the run, for example to score against another reader."""
    table, csv = pd.read_csv(tiny / 'val.csv'), tmp_path / 'val.csv'
    table.assign(other=table.label.to_numpy()[::-1])[['image_id', 'other', 'label']].to_csv(csv, index=False)
    train(f'--csv_val {csv}')
    capsys.readouterr()
    scoring.main('test', {'val': str(csv)}, 0, ['--load_path', 'experiments/run', '--num_workers', '0', '--label_column', column])
    assert f'val.csv: {said}\n' in capsys.readouterr().out


def test_testing_without_labels(train, with_fold, capsys):
    run_tests(train, with_fold / 'test.csv', '--label_column', 'none')
    assert '\n* ' + f'{with_fold}/test.csv has no labels: wrote only the predictions' in capsys.readouterr().out


def renamed(csv, names, folder):
    """Write `csv` with other class names to `folder`."""
    table = pd.read_csv(csv)
    table.assign(name=table.label.map(lambda c: names[c])).to_csv(folder / csv.name, index=False)
    return folder / csv.name


GRADES = ['DR0', 'DR1', 'DR2']
SWAPPED = ['class1', 'class0', 'class2']
DIFFERS = "class names differ from those that the network was trained with: class 0 is 'class1' here and 'class0' in the network"


def test_class_names_in_another_order_are_refused_in_testing(train, tiny, tmp_path):
    with pytest.raises(InputError, match=DIFFERS):
        run_tests(train, renamed(tiny / 'test.csv', SWAPPED, tmp_path))


def test_class_names_in_another_order_are_refused_in_tuning(train, tiny, tmp_path):
    with pytest.raises(InputError, match=DIFFERS):
        run_tests(train, tiny / 'test.csv', '--calibrate', '--csv_tune', str(renamed(tiny / 'val.csv', SWAPPED, tmp_path)))


def test_class_names_in_another_order_are_refused_in_stage_two(train, tiny, tmp_path):
    stage_one = train()
    csvs = [renamed(tiny / f'{split}.csv', SWAPPED, tmp_path) for split in ('train', 'val')]
    with pytest.raises(InputError, match=DIFFERS):
        train(f'--csv_train {csvs[0]} --pretrained_weights {stage_one} --save_path two')


def test_grades_in_another_order_are_refused(train, tiny, tmp_path):
    train(f"--csv_train {renamed(tiny / 'train.csv', GRADES, tmp_path)} --csv_val {renamed(tiny / 'val.csv', GRADES, tmp_path)}")
    csv = renamed(tiny / 'test.csv', GRADES[::-1], tmp_path)
    with pytest.raises(InputError, match=r"trained with: class 0 is 'DR2' here and 'DR0' in the network, class 2 is 'DR0' here"):
        scoring.main('test', {'test': str(csv)}, 0, ['--load_path', 'experiments/run', '--num_workers', '0'])


def test_default_class_names_conflict_with_no_others(train, tiny, tmp_path, capsys):
    for split in ('train', 'val'):
        pd.read_csv(tiny / f'{split}.csv').drop(columns='name').to_csv(tmp_path / f'{split}.csv', index=False)
    train(f'--csv_train {tmp_path}/train.csv')
    scoring.main('test', {'test': str(tiny / 'test.csv')}, 0, ['--load_path', 'experiments/run', '--num_workers', '0'])
    assert 'performance_test.txt' in capsys.readouterr().out


@pytest.mark.parametrize(('csv', 'names'), [('train_eyepacs.csv', ['DR0', 'DR1', 'DR2', 'DR3', 'DR4']),
                                            ('train_skin.csv', ['C0', 'C1', 'C2', 'C3', 'C4'])])
def test_unnamed_classes_are_grades_only_in_eyepacs(tmp_path, csv, names):
    assert ClassDataset(write_csv(tmp_path / csv, 'image_id,label', 'a,0')).class_names(5) == names


def test_check_data_uses_one_class_column_for_all_csvs(with_fold, tiny, capsys):
    with pytest.raises(SystemExit):
        check_data.main([f'{with_fold}/train.csv', f'{with_fold}/val.csv', '--data_path', f'{tiny}/images', '--label_column', 'diagnosis'])
    assert capsys.readouterr().out.count("class = column 'diagnosis'") == 2


def test_contact_sheet_prints_the_class(with_fold, tiny, tmp_path, capsys):
    contact_sheet.main([f'{with_fold}/train.csv', '--data_path', f'{tiny}/images', '--label_column', 'diagnosis',
                        '--out', str(tmp_path / 'a.png')])
    assert "class = column 'diagnosis'" in capsys.readouterr().out


def test_training_counts_of_evaluate_predictions(tmp_path, with_fold, capsys):
    write(tmp_path / 'p.csv', random_table(0, names=['class0', 'class1', 'class2']))
    evaluate_predictions.main([str(tmp_path / 'p.csv'), '--draws', '100', '--train_csv', f'{with_fold}/train.csv',
                               '--label_column', 'diagnosis'])
    assert "class = column 'diagnosis'" in capsys.readouterr().out


def test_training_counts_of_another_column_are_refused(tmp_path, with_fold):
    write(tmp_path / 'p.csv', random_table(0, names=['class0', 'class1', 'class2']))
    with pytest.raises(InputError, match=r"the last column is 'fold', but 'diagnosis' may be the class"):
        evaluate_predictions.main([str(tmp_path / 'p.csv'), '--draws', '100', '--train_csv', f'{with_fold}/train.csv'])


def test_training_counts_of_other_classes_are_refused(tmp_path):
    write(tmp_path / 'p.csv', random_table(0, names=['a', 'b', 'c']))
    csv = write_csv(tmp_path / 'train.csv', 'image_id,label', 'a,0', 'b,3')
    with pytest.raises(InputError, match=r"train\.csv, row 3: '3' in column 'label' is not one of the classes 0\.\.2"):
        evaluate_predictions.main([str(tmp_path / 'p.csv'), '--train_csv', str(csv)])


def test_training_counts_of_classes_in_another_order_are_refused(tmp_path, tiny):
    write(tmp_path / 'p.csv', random_table(0, names=SWAPPED))
    with pytest.raises(InputError, match=r"train\.csv: .* trained with: class . is 'class.' here and 'class.' in the network"):
        evaluate_predictions.main([str(tmp_path / 'p.csv'), '--draws', '100', '--train_csv', f'{tiny}/train.csv'])


def test_check_data_finds_class_names_in_another_order(tiny, tmp_path, capsys):
    csv = renamed(tiny / 'test.csv', SWAPPED, tmp_path)
    with pytest.raises(SystemExit):
        check_data.main([f'{tiny}/train.csv', str(csv), '--data_path', f'{tiny}/images'])
    assert 'classes with several names' in capsys.readouterr().out
