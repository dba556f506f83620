"""The figures of docs/decisions.md against the committed results."""
import json
import re

import pytest

from tests.factories import ROOT

PAGE = (ROOT / 'docs/decisions.md').read_text()
RESULTS = json.loads((ROOT / 'benchmarks/results/decisions_ham10000.json').read_text())


def shown(cell, digits=1, scale=100):
    value, low, high = (f'{scale * end:.{digits}f}' for end in cell)
    return f'{value} [{low}, {high}]'


def rows(column):
    """-> the rows of the table whose first heading is `column`, as lists of cells"""
    lines = PAGE.split(f'| {column} |')[1].split('\n\n')[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]


@pytest.mark.parametrize('row', rows('Network'), ids=' '.join)
def test_prediction_sets(row):
    network, kind, *cells = row
    result, kind = RESULTS[network], kind.strip('`')
    sets, coverage = result['sets'][kind], result['coverage']
    assert cells == [shown(sets['coverage']), shown(sets['macro_coverage']), shown(coverage['melanoma'][kind]),
                     shown(coverage['dermatofibroma'][kind]), f"{sets['set_size'][0]:.2f}"]


@pytest.mark.parametrize('row', rows('Class'), ids=' '.join)
def test_estimated_frequencies(row):
    name, validation, estimate, _ = row
    value, low, high, of_validation, _ = RESULTS['estimate'][name]
    assert validation == str(of_validation) and re.sub(r' \(warning\)', '', estimate) == f'{value} [{low}, {high}]'
