"""The test scripts with a checkpoint of the training script."""
import json
import re
import runpy
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import recall_score

from tests.cpu_as_gpu import count_cpu_as_gpu
from tests.factories import ROOT
from utils.common import InputError, file_sha256
from utils.data import dataset
from utils.data.images import FORMATS
from utils.prediction.predictions import read_predictions
from utils.statistics.comparison import way_of_test
from utils.testing.scoring import main


@pytest.fixture
def test(train, tiny, tmp_path):
    train('--save_path tiny/mobilenet')

    def run(flags, splits=None):
        argv = f'--load_path experiments/tiny/mobilenet --data_path {tiny}/images --num_workers 0 {flags}'.split()
        main('test', splits or {'val': None, 'test': str(tiny / 'test.csv')}, 0, argv)
        return tmp_path / 'results' / 'tiny' / 'mobilenet'
    return run


@pytest.mark.parametrize('cache', [False, True])
def test_batches_copied_ahead_give_the_same_predictions(test, tmp_path, monkeypatch, cache):
    flags = '--dihedral_tta 3' + f' --cache_dir {tmp_path}/cache' * cache
    expected = (test(flags) / 'results_test.csv').read_text()
    count_cpu_as_gpu(monkeypatch)
    calls, prefetch = [], dataset.prefetch
    monkeypatch.setattr(dataset, 'prefetch', lambda *args: calls.append(1) or prefetch(*args))
    assert (test(flags) / 'results_test.csv').read_text() == expected and calls == [1]


def test_report_and_predictions(test, tiny, capsys):
    folder = test('')
    table, truth = pd.read_csv(folder / 'results_test.csv'), pd.read_csv(tiny / 'test.csv')
    assert list(table.columns) == ['image_id', 'label', 'pred', 'p_class0', 'p_class1', 'p_class2']
    assert (table.image_id == truth.image_id).all() and (table.label == truth.label).all()
    probs = table.filter(like='p_').to_numpy()
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5)
    assert (probs.argmax(1) == table.pred).all()
    text = (folder / 'performance_test.txt').read_text()
    recalls = recall_score(table.label, table.pred, average=None, zero_division=0)
    assert 'Recall: ' + ' - '.join(f'class{c}={100 * r:.2f}' for c, r in enumerate(recalls)) in text
    assert re.search(r'F1: class0=\d', text) and f'Top-1 = {100 * (table.label == table.pred).mean():.2f} of 8 images' in text
    assert re.search(r'^Checkpoint experiments/tiny/mobilenet/epoch_01_\S+, epoch 1; csv \S+/test\.csv, SHA-256 [0-9a-f]{64}$', text, re.M)
    assert f'many=none - medium=none - few={100 * recalls.mean():.2f}' in text
    out = capsys.readouterr().out
    assert re.search(r'^Test - mAUC: [\d.]+ - MCC: -?[\d.]+ - F1: [\d.]+ - BalAcc: [\d.]+ - Acc: [\d.]+ - n: 8$', out, re.M)
    assert 'optimistic' not in out and way_of_test(folder / 'results_test.csv') == 'plain forward pass'
    assert way_of_test(test('--dihedral_tta 2') / 'results_test.csv') == '4 views'
    assert way_of_test(test('--dihedral_tta 2 --zoom_tta 1 1.25') / 'results_test.csv') == '8 views at zoom 1 1.25'
    assert way_of_test(test('--zoom_tta 1.25') / 'results_test.csv') == '1 view at zoom 1.25'


def read_json(folder, name='results_test.json'):
    return json.loads((folder / name).read_text())


def test_results_as_data(test, tiny, tmp_path):
    folder = test('')
    found, table = read_json(folder), pd.read_csv(folder / 'results_test.csv')
    checkpoint, = (tmp_path / 'experiments' / 'tiny' / 'mobilenet').glob('epoch_*')
    assert found | {'metrics': None} == {
        'format': 1, 'checkpoint': {'folder': str(checkpoint.relative_to(tmp_path)), 'epoch': 1},
        'csv': {'path': str(tiny / 'test.csv'), 'sha256': file_sha256(tiny / 'test.csv')},
        'predictions': {'file': 'results_test.csv', 'sha256': file_sha256(folder / 'results_test.csv')},
        'tta': {'dihedral': 0, 'zoom': [1.], 'n_views': 1}, 'correction': None, 'temperature': None, 'metrics': None,
        'class_names': ['class0', 'class1', 'class2'], 'n_images': 8, 'n_left_out': 0, 'decision': None}
    metrics, probs = found['metrics'], table.filter(like='p_').to_numpy()
    assert metrics['acc'] == pytest.approx((table.label == table.pred).mean())
    assert metrics['bacc'] == pytest.approx(recall_score(table.label, table.pred, average='macro', zero_division=0))
    assert metrics['loss'] == pytest.approx(-np.log(probs[np.arange(8), table.label]).mean(), rel=1e-5)
    assert set(metrics) == {'auc', 'kappa', 'mcc', 'f1', 'bacc', 'auc_all', 'f1_all', 'acc', 'loss'}


def test_results_as_data_hold_no_image_ids(test, tiny):
    for flags in ('', '--salt secret'):
        text = (test(flags) / 'results_test.json').read_text()
        assert not any(image_id in text for image_id in pd.read_csv(tiny / 'test.csv').image_id)


def test_results_as_data_have_the_name_of_the_predictions(test, tiny):
    folder = test(f'--csv_val {tiny}/val.csv --csv_out_test views.csv --csv_out_val first.csv --dihedral_tta 2')
    assert [read_json(folder, f'{name}.json')['n_images'] for name in ('views', 'first')] == [8, 9]
    assert read_json(folder, 'views.json')['tta'] == {'dihedral': 2, 'zoom': [1.], 'n_views': 4}
    assert not (folder / 'results_test.json').exists()


def test_results_as_data_hold_what_was_chosen(test, tiny):
    folder = test(f'--csv_val {tiny}/val.csv --logit_adjust --calibrate')
    found, (line, *_) = read_json(folder), re.findall(r'^Logit adjustment.*', (folder / 'performance_test.txt').read_text(), re.M)
    chosen, temperature = found['correction']['chosen'], found['temperature']
    assert chosen['csv'] == temperature['csv'] == str(tiny / 'val.csv') and temperature['n_images'] == 9 and temperature['comes_first']
    assert line == (f"Logit adjustment with tau {found['correction']['strength']:g}, chosen on {tiny}/val.csv (balanced accuracy "
                    f"{100 * chosen['bacc_before']:.2f} -> {100 * chosen['bacc_after']:.2f})")
    uncorrected = read_json(folder, 'results_val.json')  # the csv on which they were chosen
    assert uncorrected['correction'] is None and uncorrected['temperature'] is None


def test_results_as_data_hold_both_priors(test):
    found = read_json(test('--target_prior uniform'))['correction']
    assert found['learnt'] == pytest.approx([12 / 22, 6 / 22, 4 / 22]) and found['expected'] == pytest.approx([1 / 3] * 3)


def test_results_as_data_without_labels_have_no_metrics(test, tmp_path):
    (tmp_path / 'new.csv').write_text('image_id\ntest_0_0\ntest_1_1\n')
    found = read_json(test(f'--csv_test {tmp_path}/new.csv --calibrate'))
    assert found['metrics'] is None and found['temperature']['before'] is None and found['n_images'] == 2


def test_an_unrelated_file_is_not_replaced(test, tmp_path):
    folder = tmp_path / 'results' / 'tiny' / 'mobilenet'
    folder.mkdir(parents=True)
    (folder / 'model.json').write_text('{"model_name": "mobilenetV2"}')
    with pytest.raises(InputError, match=r'model\.json would be overwritten, but was not written by a test: move it'):
        test('--csv_out_test model.csv')
    assert not (folder / 'model.csv').exists()


def test_repeated_runs_write_the_same_files(test):
    folder = test('')
    before = [(folder / name).read_bytes() for name in ('performance_test.txt', 'results_test.csv', 'results_test.json')]
    test('')
    assert before == [(folder / name).read_bytes() for name in ('performance_test.txt', 'results_test.csv', 'results_test.json')]


def test_csv_that_chose_the_checkpoint(test, tiny, tmp_path, capsys):
    copy = tmp_path / 'copy.csv'  # recognised by its content
    copy.write_bytes((tiny / 'val.csv').read_bytes())
    folder = test(f'--csv_val {copy}')
    assert f'the checkpoint was selected on {copy}: the result is optimistic' in capsys.readouterr().out
    assert {'performance_val.txt', 'performance_test.txt', 'results_val.csv'} <= {path.name for path in folder.iterdir()}


def test_patient_ids_are_written_to_the_predictions(test, tmp_path):
    (tmp_path / 'new.csv').write_text('image_id,patient_id,label\ntest_0_0,007,0\ntest_1_1,,1\n')
    table = read_predictions(test(f'--csv_test {tmp_path}/new.csv') / 'results_test.csv')
    assert table.patient_ids == ['007', 'image test_1_1'] and table.labels.tolist() == [0, 1]


@pytest.mark.parametrize(('content', 'first'), [
    ('image_id\ntest_0_0\ntest_1_1\n', ['image_id', 'pred']),
    ('image_id,patient_id\ntest_0_0,a\ntest_1_1,b\n', ['image_id', 'patient_id', 'pred']),
])
def test_without_labels(test, tmp_path, capsys, content, first):
    (tmp_path / 'new.csv').write_text(content)
    folder = test(f'--csv_test {tmp_path}/new.csv --dihedral_tta 2')
    table = pd.read_csv(folder / 'results_test.csv')
    assert list(table.columns) == [*first, 'p_class0', 'p_class1', 'p_class2'] and len(table) == 2
    assert not (folder / 'performance_test.txt').exists() and 'no labels' in capsys.readouterr().out


@pytest.mark.parametrize(('flags', 'message'), [
    ('--model_name resnet_50', '--model_name resnet_50 contradicts the checkpoint, which has the network tiny_test'),
    ('--n_classes 5', '--n_classes 5 contradicts'), ('--im_size 64', r'--im_size \(64, 64\) contradicts'),
    ('--dihedral_tta -1', 'must not be negative'), ('--zoom_tta 1 0.5', '--zoom_tta 1 0.5: factors must differ and be at least 1'),
    ('--zoom_tta 1 nan', '--zoom_tta 1 nan'), ('--zoom_tta 2 2', '--zoom_tta 2 2'), ('--csv_out_val a/b.csv', 'name no folder'),
    ('--csv_out_val results_test.csv', 'file names must differ'), ('--csv_test absent.csv', 'no such csv: absent.csv'),
])
def test_errors(test, flags, message):
    with pytest.raises(InputError, match=message):
        test(flags)
    test('--model_name tiny_test --n_classes 3 --im_size 32')  # values that agree are accepted


@pytest.fixture
def script(monkeypatch, capfd):
    """Runs a script in this process, like `python FILE`. -> its stderr, including the final message"""
    def run(name, *flags):
        monkeypatch.setattr(sys, 'argv', [name, *map(str, flags)])
        capfd.readouterr()
        try:
            runpy.run_path(str(ROOT / name), run_name='__main__')
        except SystemExit as end:
            return f'{capfd.readouterr().err}{end.code}'
        return capfd.readouterr().err
    return run


@pytest.mark.parametrize(('name', 'flag'), [('endo', '--csv_val'), ('eyepacs', '--csv_test')])
def test_scripts(train, script, tiny, tmp_path, name, flag):
    train('--save_path a/b')
    command = f'test_with_labels_{name}.py', '--load_path', 'experiments/a/b', flag  # the image folder is that of training
    assert script(*command, tiny / 'test.csv') == ''  # no progress bar without a terminal
    assert (tmp_path / 'results/a/b' / f'performance_{flag[6:]}.txt').exists()
    assert script(*command, 'absent.csv') == 'error: no such csv: absent.csv'


def test_broken_image_in_a_worker_is_one_line(train, script, tmp_path):
    train('--save_path a')
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / 'x.jpg').write_text('not an image')
    (tmp_path / 'x.csv').write_text('image_id,label\nx,0\n')
    said = script('test_with_labels_endo.py', '--load_path', 'experiments/a', '--data_path', 'images', '--csv_val', 'x.csv')
    assert re.fullmatch(r'error: images/x\.jpg \(from x\.csv\) cannot be read as an image: .*', said)


def test_bad_images_are_skipped_listed_and_counted(test, tiny, tmp_path, capsys):
    images = tmp_path / 'images'
    shutil.copytree(tiny / 'images', images)
    table = pd.read_csv(tiny / 'test.csv')
    (images / f'{table.image_id[1]}.jpg').write_text('not an image')
    (images / f'{table.image_id[4]}.jpg').unlink()
    shutil.copy(images / f'{table.image_id[1]}.jpg', images / 'val_0_0.jpg')
    with pytest.raises(InputError, match=f'1 of 8 images not found in .*: {table.image_id[4]}'):
        test(f'--data_path {images}')
    # Images of the csv used in training would be read from their original folder.
    pd.read_csv(tiny / 'val.csv').iloc[::-1].to_csv(tmp_path / 'tune.csv', index=False)
    folder = test(f'--data_path {images} --skip_bad_images --calibrate --csv_tune {tmp_path}/tune.csv')
    skipped = pd.read_csv(folder / 'skipped_test.csv')
    assert skipped.image_id.tolist() == table.image_id[[1, 4]].tolist() and skipped.row.tolist() == [3, 6]
    assert skipped.reason.tolist() == [f"not an image in a supported format ({', '.join(FORMATS)})", 'no such file']
    assert skipped.csv.unique() == [f'{tiny}/test.csv']
    assert pd.read_csv(folder / 'skipped_tune.csv').image_id.tolist() == ['val_0_0']
    assert pd.read_csv(folder / 'results_test.csv').image_id.tolist() == table.image_id.drop([1, 4]).tolist()
    text = (folder / 'performance_test.txt').read_text()
    assert read_json(folder)['n_left_out'] == 2 and read_json(folder)['n_images'] == 6
    assert 'Left out 2 of 8 images, which cannot be read: skipped_test.csv\n' in text and ' of 6 images' in text
    assert f'* Skipped 2 of 8 images of {tiny}/test.csv: they cannot be read\n' in capsys.readouterr().out
    test(f'--data_path {images} --skip_bad_images --salt secret')
    assert skipped.image_id[0] not in (folder / 'skipped_test.csv').read_text() and not (folder / 'skipped_tune.csv').exists()
    test('')
    assert not list(folder.glob('skipped*'))


@pytest.fixture
def further(tiny, tmp_path):
    """The test csv with further columns: age, site, p_x, and two images per lesion of the same class."""
    table = pd.read_csv(tiny / 'test.csv').sort_values('label', kind='stable').reset_index(drop=True)
    lesions = table.groupby('label').cumcount() // 2
    table.insert(1, 'lesion', [f'L{label}{i}' for label, i in zip(table.label, lesions, strict=True)])
    table.insert(1, 'p_x', 1)
    table.insert(1, 'age', [str(20 + i) for i in range(len(table) - 1)] + [''])
    table.to_csv(tmp_path / 'further.csv', index=False)
    return f'--csv_test {tmp_path}/further.csv'


@pytest.mark.parametrize(('flags', 'columns'), [
    ('', ['age', 'lesion']), ('--keep lesion age', ['lesion', 'age']), ('--keep', []), ('--salt x', []), ('--salt x --keep age', ['age'])])
def test_further_columns_travel_into_the_predictions(test, further, tmp_path, flags, columns):
    table = pd.read_csv(test(f'{further} {flags}') / 'results_test.csv', dtype=str, keep_default_na=False)
    assert list(table.columns) == ['image_id', *columns, 'label', 'pred', 'p_class0', 'p_class1', 'p_class2']
    given = pd.read_csv(tmp_path / 'further.csv', dtype=str, keep_default_na=False)
    assert table[columns].equals(given[columns])


@pytest.mark.parametrize(('flags', 'message'), [
    ('--keep weight', r"--keep: \S+further\.csv has no column 'weight'"), ('--keep p_x', '--keep p_x: predictions csvs have other content'),
    ('--per weight', r"--per: \S+further\.csv has no column 'weight'"),
    ('--per lesion --salt x', '--per lesion: this column is not written'),
    ('--per lesion:worst', '--per lesion:worst: the classes are not grades'),
    ('--per name', '--per name: this column is not written: add --keep name')])
def test_columns_that_cannot_be_written_or_grouped(test, further, flags, message):
    with pytest.raises(InputError, match=message):
        test(f'{further} {flags}')


def test_one_prediction_for_the_images_of_a_lesion(test, further):
    folder = test(f'{further} --per lesion')
    images, lesions = read_predictions(str(folder / 'results_test.csv')), read_predictions(str(folder / 'results_test_per_lesion.csv'))
    expected = pd.DataFrame(images.probs).groupby(images.further.lesion.tolist(), sort=False).mean()
    assert lesions.image_ids == list(expected.index)
    np.testing.assert_allclose(lesions.probs, expected.to_numpy(), atol=1e-6)
    recall = recall_score(lesions.labels, lesions.preds, average='macro')
    text = (folder / 'performance_test.txt').read_text()
    assert re.search(rf'^Per lesion \(mean of the probabilities\): BACC={100 * recall:.2f} - .* of {len(expected)} groups, in '
                     r'results_test_per_lesion\.csv$', text, re.M)


def test_lesions_with_two_classes_are_refused_before_the_prediction(test, further, tmp_path):
    table = pd.read_csv(tmp_path / 'further.csv')
    table.assign(lesion='L').to_csv(tmp_path / 'further.csv', index=False)
    with pytest.raises(InputError, match='--per lesion: the images of L have different labels, class0 and class1'):
        test(f'{further} --per lesion')
    assert not (tmp_path / 'results').exists()
