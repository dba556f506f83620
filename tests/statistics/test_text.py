"""Text form of scores and intervals."""
import pytest

from utils.statistics.text import number, show


@pytest.mark.parametrize(('value', 'digits', 'sign', 'text'), [
    (-.04, 1, '', '0.0'), (-.04, 1, '+', '0.0'), (.04, 1, '+', '0.0'), (0., 2, '+', '0.00'), (-0., 3, '', '0.000'),
    (-.06, 1, '', '-0.1'), (.06, 1, '+', '+0.1'), (10.04, 1, '+', '+10.0')])
def test_zero_has_no_sign(value, digits, sign, text):
    assert number(value, digits, sign) == text


@pytest.mark.parametrize(('low', 'text'), [(-.0004, '+0.9 [0.0, +1.9]'), (None, '+0.9')])
def test_a_cell(low, text):
    assert show({'value': .009, 'low': low, 'high': None if low is None else .019}, sign='+') == text


def test_an_undefined_cell():
    assert show({'value': None, 'low': None, 'high': None}) == '-'
