import pytest
import torch
from torch import nn

from models.timm_conversion import get_converter, get_lost


def convert(given):
    """Like timm's conversions: drop, rename, split, transpose, resize and add tensors."""
    q, _, v = given['qkv'].chunk(3)
    size = {'size': (5, 5), 'mode': 'bicubic', 'antialias': True}
    return {'same': given['same'], 'q': q, 'v': v, 'turned': given['turned'].T, 'sum': given['token'] + given['positions'][:1],
            'rest': given['positions'][1:], 'resized': nn.functional.interpolate(given['grid'].float(), **size),
            'combined': torch.einsum('ij,jk->ik', given['projection'].double(), given['basis'].double()).float()}


USED = {'same': (3,), 'qkv': (9,), 'turned': (2, 3), 'token': (1, 4), 'positions': (6, 4), 'grid': (1, 2, 3, 3), 'projection': (2, 3),
        'basis': (3, 2)}


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_dropped_weights_are_found_and_transformed_ones_are_not(dtype):
    given = {name: torch.randn(shape, dtype=dtype) for name, shape in (USED | {'dropped': (2,), 'x.bias': (3,)}).items()}
    assert get_lost(convert, given, convert(given)) == ['dropped', 'x.bias']


def test_counters_and_biases_of_zero_carry_no_weights():
    given = {name: torch.randn(shape) for name, shape in USED.items()}
    given |= {'index': torch.arange(4), 'x.bias': torch.zeros(3), 'x.weight': torch.zeros(3)}
    assert get_lost(convert, given, convert(given)) == ['x.weight']


def test_parts_of_one_storage_are_told_apart():
    """A .safetensors file is one storage."""
    sizes = [torch.Size(shape).numel() for shape in USED.values()]
    parts = torch.randn(sum(sizes) + 2).split([*sizes, 2])
    given = {name: part.view(shape) for (name, shape), part in zip((USED | {'dropped': (2,)}).items(), parts, strict=True)}
    assert get_lost(convert, given, convert(given)) == ['dropped']


def test_networks_that_are_not_of_timm_have_no_conversion():
    assert get_converter(nn.Linear(2, 2), None)({'weight': torch.zeros(2, 2)}) is None
