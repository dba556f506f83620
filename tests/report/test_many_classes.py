"""The report for many classes: figures show some classes and say which; tables show all."""
import re
from types import SimpleNamespace

import numpy as np
import pytest

from tests.browser import NARROW, Browser, find_chromium
from tests.report_files import Page, report, write_run
from utils.evaluation import MOST_CLASSES, MOST_CONFUSIONS, confusion_text, frequent_confusions
from utils.report.comparison import comparison_sections
from utils.report.html import page
from utils.report.runs import find_runs
from utils.statistics import plots
from utils.statistics.many_classes import MOST_CURVES, choose, extremes, smallest_first
from utils.training import tensorboard
from utils.training.tensorboard import TensorBoard

K = 40
NAMES = [f'lesion of the upper segment, variety {c}' for c in range(K)]


@pytest.fixture(scope='module')
def pages(tmp_path_factory):
    """-> HTML of the report of one run, and of a comparison of two runs without their own sections"""
    root = tmp_path_factory.mktemp('many')
    for seed, method in enumerate(('plain', 'mixup')):
        write_run(root, f'set/{method}', NAMES, seed=seed)
    parts = comparison_sections(find_runs([str(root / 'results')]), draws=100)
    return report(root / 'results' / 'set' / 'mixup'), page('Comparison', 'of two', parts, date='today')


def test_few_classes_are_all_shown():
    choice = choose(MOST_CLASSES, 'some', np.array([3, 1]), most=MOST_CURVES)
    assert choice.classes.tolist() == list(range(MOST_CLASSES)) and choice.note == ''


def test_a_choice_takes_from_each_order_in_turn():
    k = MOST_CLASSES + 1
    choice = choose(k, 'the best', np.array([7, 5, 3, 1]), np.array([2, 7, 9]), most=5)
    assert choice.classes.tolist() == [2, 3, 5, 7, 9] and choice.note == f' Shown: 5 of {k} classes, the best.'
    assert choose(k, 'the best', np.array([7]), most=5).note == f' Shown: 1 of {k} classes, the best.'  # the other values are undefined
    assert len(choose(k, 'the best', np.arange(k)).classes) == MOST_CLASSES


def test_orders_leave_out_undefined_values_and_prefer_more_images():
    values, images = np.array([.5, np.nan, .1, .5, .9]), np.array([3, 9, 2, 8, 1])
    assert smallest_first(values, images).tolist() == [2, 3, 0, 4]
    assert [order.tolist() for order in extremes(values, images)] == [[2, 3, 0, 4], [4, 3, 0, 2]]


def test_frequent_confusions():
    counts = np.array([[5, 1, 0], [4, 2, 1], [0, 0, 3]])
    assert frequent_confusions(counts) == [(1, 0, 4), (0, 1, 1), (1, 2, 1)]
    labels, preds = np.repeat(np.arange(K), 2), np.repeat(np.arange(K), 2)
    preds[:3] = 7, 7, 5
    lines = confusion_text(labels, preds, NAMES).splitlines()
    assert lines == ['The most frequent confusions, 2 of 2 pairs of classes (true -> predicted: images)',
                     f'{NAMES[0]} -> {NAMES[7]}: 2 of 2', f'{NAMES[1]} -> {NAMES[5]}: 1 of 2']


def table(html, caption):
    """-> HTML of the table whose caption starts with `caption`"""
    return html.split(f'<caption><span>{caption}')[1].split('</table>')[0]


def test_report_says_which_classes_it_shows(pages):
    text = Page(pages[0]).text
    notes = {f'{MOST_CLASSES} of {K} classes, the rarest and the most frequent.': 1,
             f'{MOST_CLASSES} of {K} classes, those with the most errors; predictions of other classes are left out.': 1,
             f'{MOST_CLASSES} of {K} classes, those with the lowest and those with the highest recall.': 1,
             f'{MOST_CURVES} of {K} classes, those with the lowest AUC and those with the most tested images.': 2}
    assert {note: text.count(f'Shown: {note}') for note in notes} == notes
    assert re.search(rf'Note: fewer than 30 images of \d+ of {K} classes: the intervals', text)  # without all their names
    for caption, rows in (('Each class in percent', K), ('Operating points', K), ('The most frequent confusions', MOST_CONFUSIONS)):
        found = table(pages[0], caption)
        assert found.count('<tr>') == rows + 1
        assert rows > K or all(f'>{name}</th>' in found for name in NAMES)
    assert 'Confusion matrix, images' not in text


def test_a_comparison_has_a_row_for_each_class(pages):
    assert (f'Shown: {MOST_CLASSES} of {K} classes, those with the lowest and those with the highest mean recall.') in Page(pages[1]).text
    found = table(pages[1], 'Recall in percent')
    assert found.count('<tr>') == K + 1 and all(f'>{name}</th>' in found for name in NAMES)
    assert [found.count(f'>{name}</button>') for name in ('class', 'tested images', 'plain', 'mixup')] == [1] * 4


@pytest.mark.parametrize('width', [1200, 400])
def test_nothing_is_wider_than_the_window(pages, tmp_path, width):
    program = find_chromium()
    if program is None:
        pytest.skip('no Chromium on this machine (Debian: apt-get install chromium)')
    browser = Browser(program)
    try:
        for html in pages:
            (tmp_path / 'r.html').write_text(html, encoding='utf-8')
            assert browser.open(tmp_path / 'r.html', width) == [] and browser.messages == [] and browser.run(NARROW) == ''
    finally:
        browser.close()


def test_tensorboard_shows_the_same_classes_in_every_epoch(tmp_path, monkeypatch):
    drawn, values = [], {'auc_all': [c / K for c in range(K)], 'f1_all': [0.] * K}
    writer = SimpleNamespace(add_scalar=lambda *args: None, add_image=lambda *args, **kwargs: None, flush=lambda: None)
    run = SimpleNamespace(metric='mcc', file=lambda name: str(tmp_path / name),
                          history=[{'epoch': epoch, 'train': {}, 'val': values} for epoch in (1, 2)])
    monkeypatch.setattr(plots, 'bars', lambda *args, **kwargs: drawn.append(args))
    monkeypatch.setattr(plots, 'to_pixels', lambda figure: None)
    monkeypatch.setattr(tensorboard, 'summary_writer', lambda: lambda folder: writer)
    TensorBoard(run, NAMES, np.arange(K, 0, -1)).update()
    half = MOST_CLASSES // 2
    assert [names for names, *_ in drawn] == [[plots.short(name) for name in NAMES[:half] + NAMES[-half:]]] * 3
    assert drawn[1][1]['AUC'][0][-1] == 100 * (K - 1) / K
    assert drawn[1][2] == f'percent\nShown: {MOST_CLASSES} of {K} classes, the rarest and the most frequent.'
