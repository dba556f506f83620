"""The results file of a test: write it, read and check it, and convert text reports of older versions."""
import dataclasses
import json
import math
from pathlib import Path

import pytest

from utils.common import InputError, file_sha256
from utils.report.runs import find_runs
from utils.runs import results as module
from utils.runs.provenance import mark_outdated, results_of
from utils.runs.results import (
    Checkpoint,
    Choice,
    Correction,
    PredictionsFile,
    Results,
    SourceCsv,
    Temperature,
    Views,
    check_replaceable,
    read_results_file,
    results_path,
    write_results,
)
from utils.runs.text_reports import upgrade_text

BEFORE, AFTER = ({'ece': ece, 'classwise_ece': .05, 'auc': .8125, 'nll': nll} for ece, nll in ((.125, 1.5), (.0625, 1.25)))
PRIOR = Correction('target_prior', prior='data/prior.csv', learnt=(.75, .25), expected=(.5, .5))
CORRECTIONS = [None, Correction('tau_norm', 1.), Correction('logit_adjust', .7, Choice('data/val.csv', .5, .5625)), PRIOR]
TEMPERATURES = [None, Temperature(1.25, 40, 'data/val.csv', False, BEFORE, AFTER), Temperature(.5, 9, 'a, b.csv', True, BEFORE, AFTER)]
VIEWS = [Views(), Views(4), Views(0, (1.2,)), Views(2, (1., 1.25))]
CSV = 'image_id,label,pred,p_a,p_b\n0,0,0,0.75,0.25\n1,1,0,0.75,0.25\n'


@pytest.fixture
def csv(tmp_path):
    """The predictions csv of a test."""
    path = tmp_path / 'results' / 'run' / 'results_test.csv'
    path.parent.mkdir(parents=True)
    path.write_text(CSV)
    return str(path)


def results(csv, **changes):
    found = Results(Checkpoint('experiments/run/epoch_07_K_1', 7), SourceCsv('data/test.csv', 'e' * 64),
                    PredictionsFile(Path(csv).name, file_sha256(csv)), class_names=['a', 'b'],
                    metrics={'mcc': .5, 'auc': 1., 'auc_all': [1., 1.]}, n_images=2, n_left_out=0)
    return dataclasses.replace(found, **changes)


@pytest.mark.parametrize('correction', CORRECTIONS)
@pytest.mark.parametrize('temperature', [*TEMPERATURES, Temperature(1.5, 9, 'val.csv')])
@pytest.mark.parametrize('views', VIEWS)
def test_results_are_read_as_written(csv, correction, temperature, views):
    written = results(csv, correction=correction, temperature=temperature, tta=views)
    write_results(written, csv)
    assert results_of(csv) == written


def test_the_file_is_beside_the_csv_and_has_its_name():
    assert [results_path(csv) for csv in ('a/results_test.csv', 'views.csv')] == ['a/results_test.json', 'views.json']


def test_undefined_scores_are_null(csv):
    write_results(results(csv, metrics={'auc': math.nan, 'auc_all': [math.nan, .5]}), csv)
    with open(results_path(csv)) as f:
        assert json.load(f, parse_constant=pytest.fail)['metrics'] == {'auc': None, 'auc_all': [None, .5]}
    metrics = results_of(csv).metrics
    assert math.isnan(metrics['auc']) and math.isnan(metrics['auc_all'][0]) and metrics['auc_all'][1] == .5


def test_results_without_labels_have_no_metrics(csv):
    write_results(results(csv, metrics=None), csv)
    assert results_of(csv).metrics is None


@pytest.mark.parametrize('correction', CORRECTIONS)
@pytest.mark.parametrize('temperature', TEMPERATURES)
@pytest.mark.parametrize('views', VIEWS)
def test_a_text_report_of_an_older_version_gives_the_same_results(csv, correction, temperature, views):
    new = results(csv, correction=correction, temperature=temperature, tta=views)
    old = upgrade_text('\n'.join(['K=1.00', *new.lines, new.predictions_line, '']))
    if correction == PRIOR:
        correction = dataclasses.replace(PRIOR, learnt=None, expected=None)
    assert old == Results(new.checkpoint, new.csv, new.predictions, views, correction, temperature)
    assert old.lines == new.lines and old.way == new.way


@pytest.mark.parametrize(('text', 'lines', 'way'), [
    ('K=1.00\n', [], 'plain forward pass'),
    ('Calibrated with temperature 1.250, fitted on the 9 images of val.csv: ECE 9.00 -> nan\n',
     ['Calibrated with temperature 1.250, fitted on the 9 images of val.csv; the predicted classes are the same'], 'calibrated'),
    ('Class prior changed to: train\n  class  learnt %  expected %\n', ['Class prior changed to: train'], 'changed prior')])
def test_an_incomplete_text_report(text, lines, way):
    found = upgrade_text(text)
    assert found.lines == lines and found.way == way


@pytest.mark.parametrize(('views', 'words'), [
    (Views(), ''), (Views(1), '2 views'), (Views(0, (1.2,)), '1 view at zoom 1.2'),
    (Views(4, (1, 1.2, 1.4)), '24 views at zoom 1 1.2 1.4')])
def test_views_in_words(views, words):
    assert views.words == words


def test_the_way_of_a_test_names_all_its_options(csv):
    found = results(csv, correction=CORRECTIONS[2], temperature=TEMPERATURES[1], tta=Views(4))
    assert found.way == '8 views, calibrated, logit adjustment'


def change(csv, *keys, value):
    saved = part = json.loads(Path(results_path(csv)).read_text())
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    Path(results_path(csv)).write_text(json.dumps(saved))


@pytest.mark.parametrize(('keys', 'value', 'message'), [
    (('csv', 'sha256'), 'x', r", 'csv': 'sha256' must be a SHA-256, not 'x'"), (('csv',), None, "'csv' must be a dictionary"),
    (('checkpoint', 'epoch'), -1, r", 'checkpoint': 'epoch' must be a whole number"), (('checkpoint',), {}, "lacks folder, epoch"),
    (('tta', 'zoom'), [], r", 'tta': 'zoom' must be a list of numbers"),
    (('metrics', 'mcc'), 'x', "'metrics' must be a dictionary of scores"),
    (('correction', 'name'), ['tau_norm'], r", 'correction': 'name' must be one of tau_norm, logit_adjust, target_prior"),
    (('correction', 'chosen', 'bacc_after'), None, "'chosen': 'bacc_after' must be a number"),
    (('temperature', 'value'), 0, "'value' must be a positive number"), (('temperature', 'before'), {'ece': 1}, "'before' must be a dict"),
    (('n_images',), 1.5, "'n_images' must be"), (('format',), 9, 'was written by a newer version of this project'),
    (('class_names',), ['a\x1b[2J'], 'control characters'), (('format',), 'x', "'format' must be a whole number")])
def test_a_damaged_file_gives_one_line_with_file_and_key(csv, keys, value, message):
    write_results(results(csv, correction=CORRECTIONS[2], temperature=TEMPERATURES[1]), csv)
    change(csv, *keys, value=value)
    with pytest.raises(InputError, match=rf'results_test\.json.*{message}') as error:
        results_of(csv)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('key', module.REQUIRED)
def test_a_file_that_lacks_a_key_names_it(csv, key):
    write_results(results(csv), csv)
    saved = json.loads(Path(results_path(csv)).read_text())
    del saved[key]
    Path(results_path(csv)).write_text(json.dumps(saved))
    with pytest.raises(InputError, match=rf'results_test\.json is incomplete: it lacks {key}$'):
        results_of(csv)


def test_a_report_names_a_damaged_file(csv):
    write_results(results(csv), csv)
    change(csv, 'csv', value=7)
    with pytest.raises(InputError, match=r"results_test\.json: 'csv' must be a dictionary, not 7"):
        find_runs([csv])


@pytest.mark.parametrize('text', ['{"files": []}', '{}'])
def test_the_file_of_another_program_is_left_alone(csv, text):
    Path(results_path(csv)).write_text(text)
    mark_outdated(csv)
    assert read_results_file(csv) is None and Path(results_path(csv)).read_text() == text
    with pytest.raises(InputError, match=r'results_test\.json would be overwritten, but was not written by a test'):
        check_replaceable(csv)


def test_the_results_of_an_earlier_test_are_replaced(csv):
    check_replaceable(csv)  # if the csv has no results file
    write_results(results(csv), csv)
    check_replaceable(csv)


def test_results_of_other_predictions_are_ignored(csv):
    write_results(results(csv), csv)
    Path(csv).write_text(CSV.replace('0.75', '0.80').replace('0.25', '0.20'))
    assert results_of(csv) is None


def test_writing_predictions_removes_results_of_other_predictions(csv):
    write_results(results(csv), csv)
    mark_outdated(csv)
    assert Path(results_path(csv)).exists()
    Path(csv).write_text(CSV.replace('0.75', '0.80').replace('0.25', '0.20'))
    mark_outdated(csv)
    assert not Path(results_path(csv)).exists()


def test_csv_and_results_may_be_renamed_together(csv):
    write_results(results(csv), csv)
    other = str(Path(csv).with_name('first try.csv'))
    Path(results_path(csv)).rename(results_path(other))
    Path(csv).rename(other)
    assert results_of(other) == results(other, predictions=PredictionsFile('results_test.csv', file_sha256(other)))


def test_a_text_report_is_read_if_there_is_no_results_file(csv):
    (Path(csv).parent / 'performance_test.txt').write_text('\n'.join(results(csv, tta=Views(4)).lines))
    assert results_of(csv).way == '8 views'
    write_results(results(csv, tta=Views(2)), csv)
    assert results_of(csv).way == '4 views'
