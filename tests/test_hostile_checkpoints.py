"""Malicious checkpoints are refused with one line, before they use more memory than the size of the file."""
import os
import resource
import zipfile
from collections import OrderedDict

import pytest
import torch

from models.get_model import get_arch
from tests.factories import checkpoint, checkpoint_config
from tools import export_model, predict
from utils.common import InputError
from utils.model_saving_loading import FIELDS, FILE_NAME, digest, load_model, read_checkpoint
from utils.testing import scoring

NAMES = ['\n* Next: rm -rf ~', '\x1b[2J', 'a\u202eb', 'a\u2066b', 'a\x9bb', 'a\u200bb']


def save(tmp_path, with_checksum=True, **changes):
    """-> path of a malicious checkpoint with a valid checksum"""
    saved = checkpoint(**changes)
    torch.save(saved | ({'sha256': digest(saved)} if with_checksum else {}), tmp_path / FILE_NAME)
    return str(tmp_path / FILE_NAME)


def refused(load, path, message):
    with pytest.raises(InputError, match=message) as error:
        load(path)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(('field', 'value', 'message'), [
    ('im_size', (10**9, 10**9), "'im_size' must be"), ('im_size', (32,), "'im_size' must be"), ('im_size', (32., 40), "'im_size' must be"),
    ('class_names', [], "'class_names' must be"), ('class_names', [0, 1], "'class_names' must be"),
    ('class_names', ['a', 'b\udc80'], "'class_names' must be"),
    ('class_names', ['a', 'b', 'c'], "'class_names' has 3 classes, 'class_count' has 2"), ('class_count', [1, -1], "'class_count' must be"),
    ('mean', (.5, float('nan'), .5), "'mean' must be three numbers"), ('std', 'x', "'std' must be"), ('epoch', '1', "'epoch' must be"),
    ('metrics', {'mcc': 'x'}, "'metrics' must be"), ('metrics', [], "'metrics' must be"), ('config', [], "'config' must be"),
    ('config', {}, "'config' is incomplete: it lacks model_name"), ('config', checkpoint_config() | {'n_classes': 3}, "'n_classes' is 3"),
    ('config', checkpoint_config() | {'format': 'x'}, "'format' must be"), ('state_dict', {'a': 1}, "'state_dict' must be"),
    ('state_dict', [], "'state_dict' must be"), ('image_hashes', torch.zeros(3), "'image_hashes' must be"),
    ('model_name', 7, "'model_name' must be"),
    ('optimizer', {1, 2}, "'optimizer' contains a set"), ('total', 10**400, "'total' contains a number of more than 1,024 bits"),
])
def test_an_invalid_field_is_named(tmp_path, field, value, message):
    refused(read_checkpoint, save(tmp_path, **{field: value}), f'{FILE_NAME}.*: .*{message}|{FILE_NAME}, {message}')


@pytest.mark.parametrize('field', FIELDS)
def test_a_missing_field_is_named(tmp_path, field):
    saved = checkpoint()
    del saved[field]
    torch.save(saved, tmp_path / FILE_NAME)
    refused(read_checkpoint, str(tmp_path), f'it lacks {field}')


def test_too_many_classes_are_refused(tmp_path):
    path = save(tmp_path, class_names=['a'] * (10**6 + 1), class_count=[1] * (10**6 + 1))
    refused(read_checkpoint, path, "'class_names' must be 1 to 1,000,000 names")


def test_deeply_nested_values_are_refused(tmp_path):
    own = []
    own.append(own)
    refused(read_checkpoint, save(tmp_path, with_checksum=False, metrics=own), 'more than 10 levels of nested lists')


def test_a_small_file_with_many_values_is_refused(tmp_path):
    many = [0] * 1000
    for _ in range(3):
        many = [many] * 1000
    refused(read_checkpoint, save(tmp_path, with_checksum=False, metrics=many), 'contains more than 5,000,000 values')


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('changes', [lambda name: {'class_names': [name, 'b']}, lambda name: {'model_name': name},
                                     lambda name: {'config': checkpoint_config() | {'data_path': name}},
                                     lambda name: {'state_dict': {name: torch.zeros(1)}}], ids=['class', 'network', 'config', 'weight'])
def test_control_characters_are_refused(tmp_path, changes, name):
    refused(read_checkpoint, save(tmp_path, **changes(name)), 'control characters: [^\x00-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]*$')


HUGE = {'expanded': lambda: torch.zeros(1).expand(10**11), 'meta': lambda: torch.empty(10**11, device='meta'),
        'sparse': lambda: torch.sparse_coo_tensor(torch.tensor([[0]]), torch.tensor([1.]), (10**11,), check_invariants=True),
        'overlapping': lambda: torch.zeros(10).as_strided((10**6, 10**6), (0, 0)),
        'nested': lambda: torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)])}


@pytest.mark.filterwarnings('ignore:.*(nested tensors|sparse)')
@pytest.mark.parametrize('kind', HUGE)
def test_a_tensor_without_its_values_is_refused(tmp_path, kind):
    path = save(tmp_path, with_checksum=False, state_dict=OrderedDict(a=HUGE[kind]()))
    refused(read_checkpoint, path, r"'state_dict' contains a tensor of (shape .* whose values are not all in the file|an unsupported type)")


def test_many_tensors_that_share_memory_are_refused(tmp_path):
    memory = torch.zeros(10**6)
    path = save(tmp_path, with_checksum=False, state_dict={str(i): memory[:] for i in range(10)})
    refused(read_checkpoint, path, 'bytes, but its tensors have more than')


def rewrite(path, kind=zipfile.ZIP_STORED, edit=lambda name, content: content):
    """Rewrite the zip at `path` with the compression `kind`, and with its records changed by `edit`."""
    with zipfile.ZipFile(path) as archive:
        records = [(name, edit(name, archive.read(name))) for name in archive.namelist()]
    with zipfile.ZipFile(path, 'w', kind) as archive:
        for record in records:
            archive.writestr(*record)


def test_a_compressed_file_is_refused(tmp_path):
    path = save(tmp_path, state_dict={'a': torch.zeros(10**6)})
    rewrite(path, zipfile.ZIP_DEFLATED)
    refused(read_checkpoint, path, 'is refused: .* bytes when unpacked')


def test_a_tensor_larger_than_the_file_is_refused(tmp_path):
    path = save(tmp_path, with_checksum=False, state_dict={'a': torch.zeros(70_000)})

    def claim(name, content):  # pickle writes 70,000 as four bytes
        return content.replace((70_000).to_bytes(4, 'little'), (2**31 - 1).to_bytes(4, 'little')) if name.endswith('.pkl') else content
    rewrite(path, edit=claim)
    refused(read_checkpoint, path, 'cannot be read as a checkpoint')


def test_weights_of_another_network_are_refused_before_it_takes_memory(tmp_path, monkeypatch):
    built = []

    def build(*args, **kwargs):
        built.append(torch.get_default_device().type)
        return get_arch(*args, **kwargs)
    monkeypatch.setattr('utils.model_saving_loading.get_arch', build)
    refused(load_model, save(tmp_path, model_name='resnext50'), 'a resnext50 of 2 classes, does not fit the network: ')
    assert built == ['meta']


def test_weights_of_another_number_of_classes_are_refused(tmp_path):
    names = {'class_names': ['a'] * 10**5, 'class_count': [1] * 10**5}
    refused(load_model, save(tmp_path, **names, config=checkpoint_config() | names),
            r'a tiny_test of 100,000 classes, does not fit the network: classifier\.1\.weight has shape \(2, 16\)')


def test_an_unknown_network_names_the_checkpoint(tmp_path):
    refused(load_model, save(tmp_path, model_name='hf-hub:me/mine'), rf'^{tmp_path}: unknown --model_name')


@pytest.mark.parametrize('kind', ['fifo', 'device'])
@pytest.mark.parametrize('place', ['file', 'folder', 'run'])
def test_special_files_are_refused_without_blocking(tmp_path, kind, place):
    file = tmp_path / 'epoch_01_x' / FILE_NAME
    file.parent.mkdir()
    os.mkfifo(file) if kind == 'fifo' else file.symlink_to('/dev/zero')
    path = {'file': file, 'folder': file.parent, 'run': tmp_path}[place]
    refused(read_checkpoint, str(path), 'is not a regular file: give the path of a checkpoint')


def test_a_checkpoint_without_the_metric_of_the_run_is_named(tmp_path):
    for name in ('epoch_01_x', 'epoch_02_x'):
        (tmp_path / name).mkdir()
        save(tmp_path / name, metrics={})
    refused(read_checkpoint, str(tmp_path), "'metrics' lacks mcc, so the best checkpoint cannot be chosen")


def test_a_loaded_checkpoint_does_not_need_its_file(tmp_path):
    path = save(tmp_path)
    loaded = read_checkpoint(path)
    with open(path, 'r+b') as f:
        f.truncate(0)
    assert digest(loaded['state_dict']) == digest(checkpoint()['state_dict'])


EXPANDED = {'state_dict': {'a': torch.zeros(1).expand(10**11)}}


@pytest.mark.parametrize('tool', ['test', 'predict', 'export', 'stage two', 'resume'])
def test_every_reader_of_checkpoints_refuses(tool, train, tiny, tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (tmp_path / 'evil' / 'epoch_01_x').mkdir(parents=True)
    path = save(tmp_path / 'evil' / 'epoch_01_x', with_checksum=False, **EXPANDED)
    if tool == 'resume':
        run = train('--n_epochs 1')
        (run / 'val_metrics.txt').unlink()
        os.replace(path, run / 'last' / FILE_NAME)
    read = {
        'test': lambda: scoring.main('', {'test': f'{tiny}/test.csv'}, 0, ['--load_path', path]),
        'predict': lambda: predict.main(['--load_path', path, f'{tiny}/images']),
        'export': lambda: export_model.main(['--load_path', path]),
        'stage two': lambda: train(f'--save_path two --pretrained_weights {path}'),
        'resume': lambda: train('--resume')}[tool]
    with pytest.raises(InputError, match="'state_dict' contains a tensor of shape"):
        read()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


@pytest.mark.parametrize(('part', 'message'), [('optimizer', 'the optimizer state does not fit'), ('schedule', 'does not fit')])
def test_a_state_that_does_not_fit_gives_no_traceback(train, part, message):
    run = train('--n_epochs 1')
    (run / 'val_metrics.txt').unlink()
    saved = torch.load(run / 'last' / FILE_NAME, weights_only=True) | {part: {}}
    del saved['sha256']
    torch.save(saved | {'sha256': digest(saved)}, run / 'last' / FILE_NAME)
    with pytest.raises(InputError, match=message):
        train('--resume')


@pytest.mark.parametrize(('cut', 'message'), [(lambda text: '', 'has 0 epochs, but last/ has 1'),
                                              (lambda text: text.replace('"seconds"', '"s"'), 'line 1 is incomplete: it lacks seconds')])
def test_a_log_that_is_incomplete_is_not_resumed(train, cut, message):
    run = train('--n_epochs 1')
    (run / 'val_metrics.txt').unlink()
    (run / 'log.jsonl').write_text(cut((run / 'log.jsonl').read_text()))
    with pytest.raises(InputError, match=message):
        train('--resume')


def test_other_folders_in_a_run_are_left_alone(train):
    run = train('--n_epochs 1')
    (run / 'val_metrics.txt').unlink()
    (run / 'epoch_notes').mkdir()
    train('--resume')
    assert (run / 'epoch_notes').is_dir()
