"""Data leakage: images that a checkpoint has seen are recognised by content, whatever their names and folders, and not scored."""
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from tests.factories import write_images
from utils.common import InputError
from utils.data.image_hashes import CHOSE, STAGE_ONE_CHOSE, STAGE_ONE_TRAINED, TRAINED, hash_file, roles_of, seen_images
from utils.model_saving_loading import read_checkpoint
from utils.testing import scoring


def hashes_of(folder, name):
    return np.array([hash_file(folder / 'images' / f'{image_id}.jpg') for image_id in pd.read_csv(folder / f'{name}.csv').image_id])


def expected(folder):
    return seen_images(hashes_of(folder, 'train'), hashes_of(folder, 'val'))


@pytest.fixture
def test(tiny, tmp_path):
    """Test the run experiments/run with these flags; returns the report."""
    def run(flags, splits=None):
        argv = f'--load_path experiments/run --data_path {tiny}/images --num_workers 0 {flags}'.split()
        scoring.main('test', splits or {'val': None, 'test': str(tiny / 'test.csv')}, 0, argv)
        return (tmp_path / 'results/run/performance_test.txt').read_text()
    return run


@pytest.fixture
def copies(tiny, tmp_path):
    """A folder with training images under the names of test images."""
    (tmp_path / 'copies').mkdir()
    ids = pd.read_csv(tiny / 'test.csv').image_id
    for image_id, original in zip(ids, pd.read_csv(tiny / 'train.csv').image_id[:len(ids)], strict=True):
        shutil.copy(tiny / 'images' / f'{original}.jpg', tmp_path / 'copies' / f'{image_id}.jpg')
    return tmp_path / 'copies'


def test_roles_of_one_run():
    seen = seen_images(np.array([5, -3, 5]), np.array([7, 5]))
    assert seen.tolist() == [[-3, TRAINED], [5, TRAINED | CHOSE], [7, CHOSE]]


def test_roles_of_stage_one():
    one = seen_images(np.array([1, 2]), np.array([3, 4]))
    two = seen_images(np.array([1, 4]), np.array([3, 2]), one)
    assert two.tolist() == [[1, TRAINED | STAGE_ONE_TRAINED], [2, CHOSE | STAGE_ONE_TRAINED], [3, CHOSE | STAGE_ONE_CHOSE],
                            [4, TRAINED | STAGE_ONE_CHOSE]]


def test_roles_of_an_earlier_stage_are_kept():
    one = seen_images(np.array([1]), np.array([2]))
    two = seen_images(np.array([3]), np.array([4]), one)
    assert seen_images(np.array([5]), np.array([6]), two).tolist() == [
        [1, STAGE_ONE_TRAINED], [2, STAGE_ONE_CHOSE], [3, STAGE_ONE_TRAINED], [4, STAGE_ONE_CHOSE], [5, TRAINED], [6, CHOSE]]


def test_roles_are_looked_up():
    seen = seen_images(np.array([5, -3]), np.array([7]))
    assert roles_of(np.array([-9, -3, 0, 5, 7, 9]), seen).tolist() == [0, TRAINED, 0, TRAINED, CHOSE, 0]


@pytest.mark.parametrize('flags', ['', '--no_cache', '--no_cache --skip_bad_images', '--skip_bad_images', '--no_cache --num_workers 1'])
def test_a_checkpoint_remembers_its_images(train, tiny, flags):
    run = train(f'{flags} --cache_dir fresh')
    assert torch.equal(read_checkpoint(str(run))['image_hashes'], expected(tiny))


def test_a_run_that_finds_the_cache_reads_no_image(train, tiny, monkeypatch):
    train('--cache_dir fresh')
    monkeypatch.setattr('utils.data.dataset.decode_image', None)
    monkeypatch.setattr('utils.data.dataset.hash_files', None)
    assert torch.equal(read_checkpoint(str(train('--cache_dir fresh --overwrite')))['image_hashes'], expected(tiny))


def test_a_second_run_that_skips_bad_images_remembers_the_rest(train, tiny, tmp_path):
    folder = tmp_path / 'set'
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns('cache'))
    bad = pd.read_csv(folder / 'train.csv').image_id[1]
    (folder / 'images' / f'{bad}.jpg').write_bytes(b'no image')
    flags = f'--csv_train {folder}/train.csv --data_path {folder}/images --skip_bad_images --cache_dir fresh'
    train(flags)
    kept = seen_images(np.delete(hashes_of(folder, 'train'), 1), hashes_of(folder, 'val'))
    assert torch.equal(read_checkpoint(str(train(f'{flags} --overwrite')))['image_hashes'], kept)


def test_frozen_features_remember_their_images(train, tiny):
    one = train('--save_path one').parent / 'one'
    two = train(f'--pretrained_weights {one} --trainable classifier --augment none')
    known = expected(tiny)
    assert torch.equal(read_checkpoint(str(two))['image_hashes'], torch.stack([known[:, 0], known[:, 1] * 5], 1))


def test_a_resumed_run_remembers_its_images(train, tiny):
    run = train('')
    (run / 'val_metrics.txt').unlink()
    train('--resume')
    assert torch.equal(read_checkpoint(str(run / 'last'))['image_hashes'], expected(tiny))


def test_a_run_whose_images_changed_is_not_resumed(train, tiny, tmp_path):
    folder = tmp_path / 'set'
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns('cache'))
    flags = f'--csv_train {folder}/train.csv --data_path {folder}/images'
    (train(flags) / 'val_metrics.txt').unlink()
    shutil.copy(folder / 'images/test_0_0.jpg', folder / 'images/train_0_0.jpg')
    with pytest.raises(InputError, match=r'run cannot be resumed: the contents of images have changed since it was started'):
        train(f'{flags} --resume')


def test_a_training_image_among_the_validation_images_is_a_warning(train, tiny, tmp_path, capsys):
    folder = tmp_path / 'set'
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns('cache'))
    shutil.copy(folder / 'images/train_0_0.jpg', folder / 'images/val_0_0.jpg')
    train(f'--csv_train {folder}/train.csv --data_path {folder}/images')
    assert f'* Warning: the network has seen 1 of 9 images of {folder}/val.csv: 1 in training (val_0_0, row ' in capsys.readouterr().out


def test_equal_names_in_two_folders(train, test, copies, tmp_path):
    train('')
    with pytest.raises(InputError, match=r'seen 8 of 8 images of .*test\.csv: 8 in training \((test_\d_\d, row \d, ){2}test_\d_\d, '
                                         r'row \d, \.\.\.\)\. Test on other images \(does --data_path \S+copies belong to this csv\?\)'):
        test(f'--data_path {copies}')


def test_nothing_is_written_for_training_images(train, test, copies, tmp_path):
    train('')
    with pytest.raises(InputError):
        test(f'--data_path {copies}')
    assert not (tmp_path / 'results').exists()


def test_one_training_image_among_test_images(train, test, tiny, tmp_path):
    train('')
    rows = pd.concat([pd.read_csv(tiny / 'test.csv'), pd.read_csv(tiny / 'train.csv')[:1]])
    rows.to_csv(tmp_path / 'mixed.csv', index=False)
    name = rows.image_id.iloc[-1]
    with pytest.raises(InputError, match=rf'seen 1 of 9 images of .*mixed\.csv: 1 in training \({name}, row 10\)\. Delete these rows'):
        test(f'--csv_test {tmp_path}/mixed.csv')


def test_some_validation_images_among_test_images(train, test, tiny, tmp_path):
    train('')
    pd.concat([pd.read_csv(tiny / 'test.csv'), pd.read_csv(tiny / 'val.csv')[:2]]).to_csv(tmp_path / 'mixed.csv', index=False)
    with pytest.raises(InputError, match=r'seen 2 of 10 images of .*mixed\.csv: 2 in checkpoint selection \('):
        test(f'--csv_test {tmp_path}/mixed.csv')


def test_the_training_csv(train, test, tiny):
    train('')
    with pytest.raises(InputError, match=r'seen 22 of 22 images of .*train\.csv: 22 in training \('):
        test(f'--csv_test {tiny}/train.csv')


@pytest.mark.parametrize(('split', 'message'), [('train', r'22 images of .*train\.csv: 22 in training of stage one'),
                                                ('val', r'9 images of .*val\.csv: 9 in checkpoint selection of stage one')])
def test_images_of_stage_one(train, test, tmp_path, split, message):
    other = write_images(tmp_path / 'other', seed=1)
    one = train(f'--save_path one --csv_train {other}/train.csv --data_path {other}/images').parent / 'one'
    train(f'--pretrained_weights {one}')
    with pytest.raises(InputError, match=message):
        test(f'--csv_test {other}/{split}.csv --data_path {other}/images')


def test_training_images_of_stage_one_among_validation_images_of_stage_two_are_a_warning(train, tiny, capsys):
    one = train(f'--save_path one --csv_train {tiny}/val.csv --csv_val {tiny}/test.csv').parent / 'one'
    capsys.readouterr()
    train(f'--pretrained_weights {one}')
    assert '* Warning: the network has seen 9 of 9' in (out := capsys.readouterr().out) and ': 9 in training of stage one (' in out


def test_a_note_for_the_validation_csv(train, test, tiny):
    train('')
    assert f'Note: the checkpoint was selected on {tiny}/val.csv: the result is optimistic\n' in test(f'--csv_test {tiny}/val.csv')


def test_a_note_for_a_part_of_the_validation_images(train, test, tiny, tmp_path):
    train('')
    pd.read_csv(tiny / 'val.csv')[3:].to_csv(tmp_path / 'part.csv', index=False)
    report = test(f'--csv_test {tmp_path}/part.csv')
    assert f'Note: the checkpoint was selected on images of {tmp_path}/part.csv: the result is optimistic\n' in report


def test_the_validation_csv_with_training_images_under_its_names(train, test, tiny, tmp_path):
    train('')
    (tmp_path / 'copies').mkdir()
    for image_id, original in zip(pd.read_csv(tiny / 'val.csv').image_id, pd.read_csv(tiny / 'train.csv').image_id, strict=False):
        shutil.copy(tiny / 'images' / f'{original}.jpg', tmp_path / 'copies' / f'{image_id}.jpg')
    with pytest.raises(InputError, match='9 in training'):
        test(f'--csv_test {tiny}/val.csv --data_path {tmp_path}/copies')


def test_training_images_without_labels_are_predicted_with_a_note(train, tiny, tmp_path, capsys):
    train('')
    pd.read_csv(tiny / 'train.csv')[['image_id']][:2].to_csv(tmp_path / 'new.csv', index=False)
    scoring.main('test', {'test': f'{tmp_path}/new.csv'}, 0, ['--load_path', 'experiments/run', '--num_workers', '0'])
    assert 'new.csv: 2 in training (' in capsys.readouterr().out


def test_no_tuning_on_training_images(train, test, tiny):
    train('')
    with pytest.raises(InputError, match=r'train\.csv cannot be used to tune .*: the network has seen 22 .*: 22 in training .*--csv_tune'):
        test(f'--calibrate --csv_tune {tiny}/train.csv')


def test_no_tuning_on_copies_of_the_reported_images(train, test, tiny, tmp_path):
    train('')
    folder, rows = tmp_path / 'set', pd.read_csv(tiny / 'test.csv')
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns('cache'))
    for image_id in rows.image_id:
        shutil.copy(folder / 'images' / f'{image_id}.jpg', folder / 'images' / f'copy_{image_id}.jpg')
    rows.assign(image_id='copy_' + rows.image_id).to_csv(folder / 'tune.csv', index=False)
    with pytest.raises(InputError, match=r'tune\.csv cannot be used to tune .* it shares 8 images with .*test\.csv'):
        test(f'--calibrate --csv_tune {folder}/tune.csv --data_path {folder}/images')


@pytest.fixture
def others(tmp_path):
    """A data set with the names and csvs of the tiny one, but other images."""
    return write_images(tmp_path / 'others', seed=1)


def test_the_training_csv_with_other_images_under_its_names(train, test, tiny, others):
    train('')
    with pytest.raises(InputError, match=r'train\.csv is the training csv of this network'):
        test(f'--csv_test {tiny}/train.csv --data_path {others}/images')


def test_the_validation_csv_with_other_images_under_its_names(train, test, tiny, others):
    train('')
    report = test(f'--csv_test {tiny}/val.csv --data_path {others}/images')
    assert f'Note: 9 images of {tiny}/val.csv in {others}/images had different content in training (does' in report


def test_validation_images_are_read_from_the_folder_of_training(train, test, tiny, others, capsys):
    train('')
    right = test(f'--csv_test {tiny}/test.csv --calibrate').split('Calibrated with temperature ')[1].split(',')[0]
    capsys.readouterr()
    report = test(f'--csv_test {others}/test.csv --data_path {others}/images --calibrate')
    assert f'Calibrated with temperature {right}, ' in report and 'different content' not in capsys.readouterr().out


def test_validation_images_of_a_folder_that_moved_are_compared(train, test, tiny, others, tmp_path, capsys):
    shutil.copytree(tiny / 'images', tmp_path / 'first')
    train(f'--data_path {tmp_path}/first')
    shutil.rmtree(tmp_path / 'first')
    test(f'--csv_test {tiny}/test.csv --calibrate')
    assert 'different content' not in capsys.readouterr().out
    test(f'--csv_test {others}/test.csv --data_path {others}/images --calibrate')
    assert f'* Note: 9 images of {tiny}/val.csv in {others}/images had different content in training (does' in capsys.readouterr().out


def test_patients_of_the_training_csv_are_counted(train, test, tiny, tmp_path):
    for name, ids in (('train', [f'P{i}' for i in range(22)]), ('val', ['unknown'] * 9),
                      ('test', ['P3', 'P4', 'P4', '', 'x', 'y', 'z', 'z'])):
        table = pd.read_csv(tiny / f'{name}.csv').assign(patient_id=ids)
        table[['image_id', 'patient_id', 'label']].to_csv(tmp_path / f'{name}.csv', index=False)
    train(f'--csv_train {tmp_path}/train.csv')
    note = f'Note: 2 patients of {tmp_path}/test.csv also had images in the training csv {tmp_path}/train.csv\n'
    assert note in test(f'--csv_test {tmp_path}/test.csv')
    assert 'patients of' not in test(f'--csv_test {tiny}/test.csv')
    (tmp_path / 'train.csv').unlink()
    assert 'patients of' not in test(f'--csv_test {tmp_path}/test.csv')
