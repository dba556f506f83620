"""What the README says about methods and flags is what the tables and parsers hold."""
import re

import pytest

from tests.factories import ROOT
from train_lt_mxp import get_parser
from utils.data.sampling import SAMPLING
from utils.losses import LOSSES, loss_parameters
from utils.testing import scoring
from utils.training.augmentation import AUGMENT
from utils.training.mixing import MIXING
from utils.training.optim import OPTIMIZERS, SCHEDULES
from utils.training.recipes import RECIPES, to_flags

README = (ROOT / 'README.md').read_text(encoding='utf-8')


def table(heading):
    """Rows of the first table below a heading, as lists of cells."""
    below = README.split(f'\n{heading}\n', 1)[1]
    rows = re.search(r'((?:^\|.*\n)+)', below, re.M).group(1).splitlines()
    return [[cell.strip() for cell in row.strip('|').split(' | ')] for row in rows[2:]]


METHODS = table('## Methods')


@pytest.mark.parametrize('row', METHODS, ids=lambda row: row[0])
def test_every_method_has_an_idea_a_flag_and_a_source(row):
    name, flag, idea, source = row
    assert name and idea and re.search(r'`[^`]+`', flag)
    assert re.search(r'(19|20)\d\d', source) or source in ('common practice', 'the original')


@pytest.mark.parametrize(('flag', 'names'), [
    ('--loss_fn', LOSSES), ('--sampling', SAMPLING), ('--mixing', [name for name in MIXING if name != 'none']), ('--augment', AUGMENT),
    ('--schedule', SCHEDULES), ('--trainable', ['all', 'classifier', 'scale']),
])
def test_every_name_is_in_the_table_and_no_other(flag, names):
    cells = [row[1] for row in METHODS if flag in row[1]]
    stated = {word for cell in cells for word in re.findall(r'`(?:' + flag + r' )?([A-Za-z_]+)`', cell)}
    stated |= {word for cell in cells for word in re.findall(flag + r' ([A-Za-z_]+)', cell)}
    assert stated - {'ALPHA', 'RUN'} == set(names)


def test_every_parameter_of_a_loss_is_named():
    for name in LOSSES:
        row, = (row for row in METHODS if row[1] == f'`--loss_fn {name}`')
        assert set(re.findall(r'`([a-z_]+)`', row[2])) == set(loss_parameters(name)), name


def test_every_flag_of_the_scripts_is_named():
    for parser in (get_parser(), scoring.get_parser('', {'test': None}, 0)):
        for action in parser._actions:
            if action.dest not in ('help', 'csv_out_test'):
                assert any(f'{option}' in README for option in action.option_strings), action.dest
    assert all(name in README for name in OPTIMIZERS)


def test_recipes():
    rows = table('### Recipes')
    assert [(row[0].strip('`'), row[1].strip('`')) for row in rows] == [(name, to_flags(name)) for name in RECIPES]
    assert all(row[2] for row in rows)
