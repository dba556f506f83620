"""When predictions are overwritten, reports on the old ones are removed, marked as outdated, or ignored."""
import re

import numpy as np
import pandas as pd
import pytest

from tests.factories import random_table
from tests.report_files import Page, write, write_run
from tools.compare_experiments import main as compare
from tools.ensemble_predictions import main as ensemble
from tools.evaluate_predictions import main as evaluate
from tools.predict import main as predict
from tools.report import main as report
from utils.common import file_sha256
from utils.prediction.predictions import read_predictions, write_predictions
from utils.report.runs import find_runs
from utils.runs.provenance import PAGES, mark_outdated, replaced_network
from utils.statistics.comparison import way_of_test
from utils.testing.scoring import main as run_test

NOTE = 'This page is outdated: '


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Two runs with predictions, a report on each and one on both. -> results/set"""
    monkeypatch.chdir(tmp_path)
    for seed, method in enumerate(('plain', 'mix & match')):
        write_run(tmp_path, f'set/{method}', ['x', 'y'], seed=seed)
    for path in ('results/set', 'results/set/plain', 'results/set/mix & match'):
        report([path, '--draws', '100'])
    return tmp_path / 'results' / 'set'


def outdated(results):
    return sorted(str(page.parent.relative_to(results)) for page in results.rglob('*.html') if NOTE in Page(page.read_text()).text)


def rewrite(csv, change=0.):
    table = read_predictions(str(csv))
    probs = table.probs + [change, -change]
    write_predictions(str(csv), table._replace(probs=probs), table.class_names)


def test_pages_in_the_same_folder_and_its_parents_are_marked(results, capsys):
    rewrite(results / 'mix & match' / 'results_test.csv', .001)
    assert outdated(results) == ['.', 'mix & match']
    out = capsys.readouterr().out
    assert ("* Note: results/set/mix & match/report.html does not show the current predictions in results_test.csv: "
            "update it with python -m tools.report 'results/set/mix & match'\n") in out
    assert 'report.html does not show the current predictions in mix & match/results_test.csv' in out


def test_a_page_is_marked_once(results):
    for change in (.001, .002):
        rewrite(results / 'plain' / 'results_test.csv', change)
    assert (results / 'report.html').read_text().count(NOTE) == 1


def test_a_page_made_again_is_not_outdated(results):
    rewrite(results / 'plain' / 'results_test.csv', .001)
    report(['results/set', '--draws', '100'])
    assert outdated(results) == ['plain']


def test_the_same_predictions_written_again_mark_nothing(results, capsys):
    csv = results / 'plain' / 'results_test.csv'
    rewrite(csv)
    report(['results/set', '--draws', '100'])
    report(['results/set/plain', '--draws', '100'])
    rewrite(csv)
    assert outdated(results) == []


def test_pages_of_others_are_left_alone(tmp_path):
    page = tmp_path / 'report.html'
    page.write_bytes(b'<header>\xff</header>')
    write_predictions(str(tmp_path / 'results_test.csv'), random_table(0), random_table(0).class_names)
    assert page.read_bytes() == b'<header>\xff</header>'


def test_a_page_names_its_predictions(results):
    rows = Page((results / 'report.html').read_text()).text
    for method in ('plain', 'mix & match'):
        assert f"{file_sha256(results / method / 'results_test.csv')}  {method}/results_test.csv" in rows


def test_images_on_a_page_do_not_hide_that_it_is_outdated(results):
    page = results / 'plain' / PAGES[1]
    page.write_bytes((results / 'plain' / PAGES[0]).read_bytes())
    rewrite(results / 'plain' / 'results_test.csv', .001)
    assert NOTE in page.read_text()


@pytest.fixture
def tested(train, tiny, tmp_path):
    train('--save_path a')

    def run(flags=''):
        run_test('test', {'val': None, 'test': str(tiny / 'test.csv')}, 0,
                 f'--load_path experiments/a --data_path {tiny}/images --num_workers 0 {flags}'.split())
        return tmp_path / 'results' / 'a'
    return run


def test_the_text_report_names_its_predictions(tested):
    folder = tested()
    line = f"Predictions results_test.csv, SHA-256 {file_sha256(folder / 'results_test.csv')}\n"
    assert line in (folder / 'performance_test.txt').read_text()


def test_calibration_marks_the_old_page(tested, tiny):
    folder = tested()
    report([str(folder), '--draws', '100'])
    tested(f'--calibrate --csv_tune {tiny}/val.csv')
    assert NOTE in (folder / 'report.html').read_text()


def test_a_test_without_labels_removes_the_old_scores(tested, tiny, tmp_path):
    folder = tested()
    pd.read_csv(tiny / 'test.csv')[['image_id']].to_csv(tmp_path / 'new.csv', index=False)
    tested(f'--csv_test {tmp_path}/new.csv')
    assert (folder / 'results_test.csv').exists() and not (folder / 'performance_test.txt').exists()


def test_predictions_of_single_images_remove_the_old_scores(tested, tiny):
    folder = tested()
    predict(['--load_path', 'experiments/a', '--num_workers', '0', '--csv_out', 'results_test.csv', str(tiny / 'images')])
    assert not (folder / 'performance_test.txt').exists()


def test_an_ensemble_removes_the_old_scores(tested, tmp_path):
    folder = tested()
    table = read_predictions(str(folder / 'results_test.csv'))
    other = write(tmp_path / 'other.csv', table._replace(probs=np.roll(table.probs, 1, axis=1)))
    ensemble([str(folder / 'results_test.csv'), other, '--out', str(folder / 'results_test.csv'), '--overwrite'])
    assert not (folder / 'performance_test.txt').exists()


def test_a_text_report_on_other_predictions_is_ignored(tested):
    """A second test writes its predictions to another file, but overwrites the text report of the first. There are no results files, as in
    older versions."""
    folder = tested()
    tested('--dihedral_tta 2 --csv_out_test views.csv')
    for file in folder.glob('*.json'):
        file.unlink()
    assert way_of_test(str(folder / 'results_test.csv')) is None and way_of_test(str(folder / 'views.csv')) == '4 views'
    assert 'performance_test.txt is about other predictions' in find_runs([str(folder)])[0].facts[0]


def test_each_predictions_file_keeps_its_results(tested):
    folder = tested()
    tested('--dihedral_tta 2 --csv_out_test views.csv')
    assert [way_of_test(str(folder / name)) for name in ('results_test.csv', 'views.csv')] == ['plain forward pass', '4 views']


def test_text_reports_of_version_0_1_are_removed_with_their_predictions(tmp_path):
    text = tmp_path / 'performance_test.txt'
    text.write_text('K=1\n')
    (tmp_path / 'results_val.csv').touch()
    mark_outdated(tmp_path / 'results_val.csv')
    assert text.exists()  # the report on another csv
    (tmp_path / 'results_test.csv').touch()
    mark_outdated(tmp_path / 'results_test.csv')
    assert not text.exists()


def test_predictions_of_an_overwritten_run_are_named(tested, train, tiny, capsys):
    folder = tested()
    csv = str(folder / 'results_test.csv')
    assert replaced_network(csv) is None
    train('--save_path a --overwrite --n_epochs 2 --lr 0.2 --seed 3 --metric loss')
    line = replaced_network(csv)
    assert re.fullmatch(rf'{re.escape(csv)} was predicted by epoch_01_K_\S+, which is no longer in \S+experiments/a: if you trained '
                        'the run again, test it again', line)
    capsys.readouterr()
    for main in (evaluate, compare):
        main([csv if main is evaluate else str(folder), '--draws', '100'])
        assert f'* Note: {line}\n' in capsys.readouterr().err
    assert line in find_runs([str(folder)])[0].facts
    tested()
    assert replaced_network(csv) is None


def test_predictions_of_a_run_whose_checkpoints_are_elsewhere_are_not_named(tested, tmp_path):
    folder = tested()
    for checkpoint in (tmp_path / 'experiments' / 'a').glob('epoch_*'):
        checkpoint.rename(tmp_path / checkpoint.name)
    assert replaced_network(str(folder / 'results_test.csv')) is None
