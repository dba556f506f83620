"""Comparison of several runs on one page, with paired differences."""
import json

import pytest

from tests.report_files import Page, report, write_run
from tools.report import main
from utils.common import InputError
from utils.statistics.comparison import SHOWN, difference, find_csvs, load_methods
from utils.statistics.text import show


def test_comparison(tmp_path):
    for seed, method in enumerate(('plain', 'mixup', 'two')):
        write_run(tmp_path, f'set/{method}/seed0', ['DR0', 'DR1', 'DR2'], seed=seed)
    write_run(tmp_path, 'set/new/seed0', ['DR0', 'DR1', 'DR2'], tested=False, epochs=0)
    page = Page(report(tmp_path / 'experiments'))
    assert 'Comparison of 4 runs' in page.text and 'Not all methods were tested' not in page.text
    assert 'no labelled predictions yet' in page.text and 'quadratic kappa' in page.text
    names = [attributes['id'] for name, attributes in page.elements if 'id' in attributes and name == 'h2']
    assert names == ['compare', 'recalls', 'settings', 'curves', 'run0', 'run1', 'run2', 'run3']
    assert 'compare-differences' not in page.text
    folder = tmp_path / 'results' / 'set'
    main([str(folder), '--draws', '100', '--baseline', 'plain'])
    page = Page((folder / 'report.html').read_text(encoding='utf-8'))
    methods = load_methods(find_csvs([str(folder)], 'results_test.csv'), 100)
    by_name = {method.name: method for method in methods}
    for name in ('mixup', 'two'):
        cells = difference(by_name[name], by_name['plain'])
        assert all(show(cells['metrics', metric], sign='+') in page.text for metric in SHOWN)
    assert 'Difference from plain in percentage points' in page.text
    with pytest.raises(InputError, match=r'--baseline none: no such method \(there are: plain, mixup, two\)'):
        report(tmp_path / 'experiments', '--baseline', 'none')
    mixed = tmp_path / 'results' / 'set' / 'mixup' / 'seed0'
    (mixed / 'results_test.csv').rename(mixed / 'results_val.csv')
    with pytest.raises(InputError, match=r'different splits, results_test\.csv and results_val\.csv: choose one with --file'):
        report(tmp_path / 'experiments')


def test_pooled_runs_with_different_settings_are_named(tmp_path):
    for seed, rate in enumerate((.01, .1)):
        config = write_run(tmp_path, f'set/plain/seed{seed}', ['a', 'b'], seed=seed) / 'config.cfg'
        config.write_text(json.dumps(json.loads(config.read_text()) | {'lr': rate}))
    text = Page(report(tmp_path / 'results')).text
    assert 'plain pools runs whose settings differ: learning rate 0.01 (seed0) or 0.1 (seed1).' in text
