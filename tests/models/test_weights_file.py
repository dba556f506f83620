import argparse
from pathlib import PurePosixPath

import pytest
import torch

from models.weights_file import read_weights_file
from utils.common import InputError

STATE = {'a.weight': torch.arange(3.)}


@pytest.mark.parametrize('content', [
    STATE, {'state_dict': STATE}, {'model': STATE, 'epoch': 3}, {'teacher': STATE, 'student': {'a.weight': torch.zeros(3)}},
    {'model': STATE, 'args': argparse.Namespace(lr=.1, layers=[1, 2]), 'optimizer': {'state': {}}, 'scaler': {'scale': 1.}}],
    ids=['plain', 'state_dict', 'model', 'teacher', 'RETFound'])
@pytest.mark.parametrize('archive', [True, False])
def test_the_state_dict_is_found(tmp_path, content, archive):
    """Files of torch before version 1.6 are not zip archives."""
    torch.save(content, tmp_path / 'w.pth', _use_new_zipfile_serialization=archive)
    state, im_size, _ = read_weights_file(str(tmp_path / 'w.pth'))
    assert list(state) == ['a.weight'] and torch.equal(state['a.weight'], STATE['a.weight']) and im_size is None


OTHER = {'a.weight': torch.zeros(3)}


@pytest.mark.parametrize(('content', 'entry'), [
    ({'state_dict': OTHER, 'state_dict_ema': STATE}, 'state_dict_ema'), ({'model': OTHER, 'model_ema': STATE}, 'model_ema'),
    ({'model': STATE, 'model_ema': None}, ''), ({'student': OTHER, 'teacher': STATE}, 'teacher'),
    ({'encoder': OTHER, 'target_encoder': STATE, 'epoch': 3}, 'target_encoder'), ({'encoder': STATE, 'epoch': 3}, ''),
    ({'model': {'state_dict': STATE, 'student': OTHER}}, 'state_dict')])
def test_averaged_weights_come_first(tmp_path, content, entry):
    torch.save(content, tmp_path / 'w.pth')
    file = read_weights_file(str(tmp_path / 'w.pth'))
    assert torch.equal(file.state['a.weight'], STATE['a.weight']) and file.entry == entry


@pytest.mark.parametrize(('content', 'found'), [
    ({'net': STATE, 'epoch': 3}, 'a dictionary with the keys net, epoch'), ({'model': {'net': STATE}}, 'a dictionary with the keys net'),
    ([STATE], 'of type list')])
def test_the_keys_of_an_unknown_form_are_named(tmp_path, content, found):
    torch.save(content, tmp_path / 'w.pth')
    with pytest.raises(InputError, match=rf'w\.pth does not contain a state dict .*: it is {found}; save its state dict alone$'):
        read_weights_file(str(tmp_path / 'w.pth'))


def test_another_type_of_object_is_named(tmp_path):
    torch.save({'model': STATE, 'args': argparse.Namespace(folder=PurePosixPath('x'))}, tmp_path / 'w.pth')
    with pytest.raises(InputError, match=r'w\.pth cannot be read as a state dict: besides tensors it contains pathlib\.PurePosixPath, '):
        read_weights_file(str(tmp_path / 'w.pth'))


@pytest.mark.parametrize(('saved', 'read'), [((32, 40), (32, 40)), ([32, 40], (32, 40)), (32, None), ((32, 'x'), None)])
def test_the_image_size_of_a_checkpoint(tmp_path, saved, read):
    torch.save({'state_dict': STATE, 'im_size': saved}, tmp_path / 'w.pth')
    assert read_weights_file(str(tmp_path / 'w.pth')).im_size == read
