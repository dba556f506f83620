"""Decisions on predictions csvs: flags, which calibration csvs fit to a tested csv, and what is measured."""
import argparse
import dataclasses
import re

import numpy as np
import pytest

from tests.factories import random_table
from tests.report_files import write
from utils.common import InputError, file_sha256
from utils.decisions.of_predictions import add_flags, check_flags, evaluate_decisions, read_calibration, saved_rules
from utils.decisions.prediction_sets import apply_sets, fit_sets
from utils.decisions.rules import fit_rules, rules_as_json
from utils.prediction.predictions import read_predictions
from utils.runs.results import Checkpoint, Correction, PredictionsFile, Results, SourceCsv, Temperature, Views, write_results

NAMES = list('abc')
RESULTS = Results(Checkpoint('experiments/run/epoch_01', 1), SourceCsv('x.csv', 'a' * 64), None, class_names=NAMES, n_images=60,
                  n_left_out=0)


def write_csv(path, seed, names=NAMES, results=None, **changes):
    table = random_table(seed, n=60, names=names)
    table = table._replace(image_ids=[f'{path.stem}{i}' for i in range(60)])._replace(**changes)
    csv = write(path, table)
    if results is not None:
        if path.stem == 'test' and results.csv == RESULTS.csv:  # the validation images are others
            results = dataclasses.replace(results, csv=SourceCsv('test.csv', 'd' * 64))
        write_results(dataclasses.replace(results, predictions=PredictionsFile(path.name, file_sha256(csv))), csv)
    return csv


@pytest.fixture
def tested(tmp_path):
    return read_predictions(write_csv(tmp_path / 'test.csv', 0, results=RESULTS))


def arguments(*words):
    parser = argparse.ArgumentParser()
    parser.add_argument('csvs', nargs='+')
    add_flags(parser)
    parser.set_defaults(seed=0, stratified=False, draws=30, per=None)
    return parser.parse_args(['test.csv', *words])


@pytest.mark.parametrize('results', [None, RESULTS, dataclasses.replace(RESULTS, csv=SourceCsv('other.csv', 'c' * 64), n_images=9)])
def test_a_calibration_csv_that_fits(tmp_path, tested, results):
    path = write_csv(tmp_path / 'val.csv', 1, results=results)
    np.testing.assert_allclose(read_calibration(path, tested).probs, random_table(1, n=60, names=NAMES).probs)


def test_the_same_images(tmp_path, tested):
    path = write_csv(tmp_path / 'val.csv', 1, image_ids=[f'test{i}' if i in (3, 7) else f'val{i}' for i in range(60)])
    with pytest.raises(InputError, match=r'--calibration .*val\.csv has 2 images of .*test\.csv, first test3: nothing may be fitted on'):
        read_calibration(path, tested)


def test_the_same_csv_under_other_ids(tmp_path, tested):
    path = write_csv(tmp_path / 'val.csv', 1, results=dataclasses.replace(RESULTS, csv=SourceCsv('test.csv', 'd' * 64)))
    with pytest.raises(InputError, match=r'has predictions of test\.csv, the images of .*test\.csv: nothing may be fitted'):
        read_calibration(path, tested)


@pytest.mark.parametrize(('names', 'message'), [
    (list('bac'), r"class 0 is 'b' and 'a' \(the same names in another order\)"), (list('abd'), "class 2 is 'd' and 'c'"),
    (list('ab'), r'2 and 3 classes, .*val\.csv lacks p_c')])
def test_other_classes(tmp_path, tested, names, message):
    with pytest.raises(InputError, match=message):
        read_calibration(write_csv(tmp_path / 'val.csv', 1, names=names), tested)


def test_no_labels(tmp_path, tested):
    path = tmp_path / 'val.csv'
    path.write_text('image_id,pred,p_a,p_b,p_c\nx,0,1,0,0\n')
    with pytest.raises(InputError, match=r"val\.csv has no column 'label'"):
        read_calibration(str(path), tested)


@pytest.mark.parametrize('checkpoint', [Checkpoint('experiments/other/epoch_01', 1), Checkpoint('experiments/run/epoch_01', 2)])
def test_another_checkpoint(tmp_path, tested, checkpoint):
    path = write_csv(tmp_path / 'val.csv', 1, results=dataclasses.replace(RESULTS, checkpoint=checkpoint))
    with pytest.raises(InputError, match=rf'val\.csv was predicted by another checkpoint, {checkpoint.folder}, than .*, experiments/run/'):
        read_calibration(path, tested)


@pytest.mark.parametrize(('changes', 'way'), [
    ({'tta': Views(4)}, '8 views'), ({'temperature': Temperature(2., 60, 'val.csv')}, 'calibrated'),
    ({'correction': Correction('logit_adjust', 1., chosen=None)}, 'logit adjustment')])
def test_different_ways_to_predict(tmp_path, tested, changes, way):
    path = write_csv(tmp_path / 'val.csv', 1, results=dataclasses.replace(RESULTS, **changes))
    with pytest.raises(InputError, match=re.escape(f'were predicted in different ways ({way}; plain forward pass)')):
        read_calibration(path, tested)


@pytest.mark.parametrize(('first', 'second'), [
    ({'temperature': Temperature(2., 60, 'val.csv')}, {'temperature': Temperature(2.1, 60, 'val.csv')}),
    ({'correction': Correction('logit_adjust', 1., chosen=None)}, {'correction': Correction('logit_adjust', 1.5, chosen=None)}),
    ({'tta': Views(4)}, {'tta': Views(4, (1., 1.2))})])
def test_different_parameters(tmp_path, first, second):
    tested = read_predictions(write_csv(tmp_path / 'test.csv', 0, results=dataclasses.replace(RESULTS, **first)))
    path = write_csv(tmp_path / 'val.csv', 1, results=dataclasses.replace(RESULTS, **second))
    with pytest.raises(InputError, match='were predicted in different ways'):
        read_calibration(path, tested)


def test_the_same_temperature_with_other_scores(tmp_path):
    scores = {'ece': .1, 'classwise_ece': .1, 'auc': .9, 'nll': 1.}
    first, second = (dataclasses.replace(RESULTS, temperature=Temperature(2., 60, 'val.csv', before=before, after=before))
                     for before in (scores, None))
    tested = read_predictions(write_csv(tmp_path / 'test.csv', 0, results=first))
    assert read_calibration(write_csv(tmp_path / 'val.csv', 1, results=second), tested)


@pytest.mark.parametrize(('words', 'message'), [
    ('--coverage 0.9', '--coverage needs --calibration VAL.csv'), ('--abstain 0.1', '--abstain needs --calibration VAL.csv'),
    ('--coverage 1 --calibration v.csv', '--coverage 1 must be between 0 and 1'),
    ('--abstain 0 --calibration v.csv', '--abstain 0 must be between 0 and 1'),
    ('--coverage nan --calibration v.csv', '--coverage nan must be between 0 and 1'),
    ('other.csv --calibration v.csv', '--calibration needs a single predictions csv'),
    ('other.csv --costs c.csv', '--costs needs a single predictions csv')])
def test_flags_that_do_not_fit(words, message):
    with pytest.raises(InputError, match=re.escape(message)):
        check_flags(arguments(*words.split()))


@pytest.mark.parametrize('words', ['', '--calibration v.csv --coverage 0.9 --abstain 0.1', '--costs quadratic'])
def test_flags_that_fit(words):
    check_flags(arguments(*words.split()))


def evaluated(tested, args, **changes):
    return evaluate_decisions(tested, args, **{'levels': [.9], 'ordered': True, 'referable': 1, 'frequencies': None} | changes)


def test_measures_what_was_fitted_on_the_calibration_csv(tmp_path, tested):
    path = write_csv(tmp_path / 'val.csv', 1)
    text, saved = evaluated(tested, arguments('--calibration', path, '--coverage', '0.8', '--costs', 'quadratic'))
    calibration = random_table(1, n=60, names=NAMES)
    inside = apply_sets(tested.probs, fit_sets(calibration.probs, calibration.labels, .8, 'class'))
    assert saved['rules']['sets']['class']['coverage']['value'] == pytest.approx(inside[np.arange(60), tested.labels].mean())
    assert saved['costs']['predicted class']['cost']['value'] == pytest.approx(1000 * ((tested.labels - tested.preds) ** 2).mean())
    assert 'b or worse' in {point['name'] for point in saved['points']} and 'least expected cost, calibrated' in saved['costs']
    assert text.startswith(f'Decisions fitted on {path}, 60 images') and 'Costs (quadratic) per 1,000 images' in text


def test_classes_without_order_have_no_grade_or_worse(tmp_path, tested):
    path = write_csv(tmp_path / 'val.csv', 1)
    saved = evaluated(tested, arguments('--calibration', path), ordered=False)[1]
    assert {point['name'] for point in saved['points']} == set(NAMES)


def test_nothing_to_measure(tested):
    assert evaluated(tested, arguments()) == ('', {})


def test_costs_per_patient(tmp_path):
    labels = np.repeat(np.arange(3), 20)
    path = write_csv(tmp_path / 'test.csv', 0, labels=labels, patient_ids=[f'p{i // 4}' for i in range(60)])
    tested = read_predictions(path)
    args = arguments('--costs', 'quadratic')
    args.per = 'patient_id'
    text, saved = evaluated(tested, args)
    preds = tested.probs.reshape(15, 4, 3).mean(axis=1).argmax(axis=1)
    assert saved['costs']['predicted class']['cost']['value'] == pytest.approx(1000 * ((labels[::4] - preds) ** 2).mean())
    assert 'per 1,000 patients, from 15 patients' in text


def test_saved_rules(tmp_path):
    calibration = random_table(1, n=60, names=NAMES)
    rules = fit_rules(calibration.probs, calibration.labels, NAMES, coverage=.99, kinds=('class',), levels=[.9], abstain=.1)
    results = dataclasses.replace(RESULTS, decision={'line': 'x', 'rules': rules_as_json(rules), 'note': ''})
    tested = read_predictions(write_csv(tmp_path / 'test.csv', 0, results=results))
    assert saved_rules(tested) == rules
    text, saved = evaluated(tested, arguments())
    assert text.startswith('Decisions fitted on validation images, in the decision file of the run') and saved['calibration'] is None


def test_no_saved_rules(tested):
    assert saved_rules(tested) is None


@pytest.mark.parametrize(('decision', 'message'), [
    ({}, "'decision' is incomplete: it lacks line, rules, note"), ({'line': 'x', 'rules': None, 'note': ''}, "'decision': 'rules' must be"),
    ({'line': 'x', 'rules': {'sets': []}, 'note': ''}, 'must be a dictionary with sets, points and abstention')])
def test_invalid_saved_rules(tmp_path, decision, message):
    tested = read_predictions(write_csv(tmp_path / 'test.csv', 0, results=dataclasses.replace(RESULTS, decision=decision)))
    with pytest.raises(InputError, match=message):
        saved_rules(tested)
