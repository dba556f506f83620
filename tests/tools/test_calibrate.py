"""tools.calibrate, and the use of its decision file by the test scripts, tools.predict, tools.evaluate_predictions and reports."""
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.next_steps import next_words, parse
from tools import calibrate, evaluate_predictions, predict, report
from utils.common import InputError, file_sha256
from utils.decisions.costs import least_cost
from utils.decisions.decision_file import read_decision
from utils.decisions.prediction_sets import apply_sets
from utils.decisions.prevalence import em_frequencies
from utils.prediction.predictions import read_predictions
from utils.statistics.calibration import apply_temperature, fit_temperature
from utils.testing.scoring import main

RUN = 'experiments/a'


@pytest.fixture
def run(train, tiny, tmp_path):
    """Train one network, and fit its decisions. -> function that tests it with further flags, and returns the folder of the results"""
    train('--save_path a')

    def test(flags='', csvs=None):
        argv = f'--load_path {RUN} --data_path {tiny}/images --num_workers 0 {flags}'.split()
        main('test', csvs or {'val': None, 'test': str(tiny / 'test.csv')}, 0, argv)
        return tmp_path / 'results' / 'a'
    fit()
    return test


def fit(flags='', path=RUN):
    calibrate.main(['--load_path', path, '--num_workers', '0', *flags.split()])
    return read_decision('experiments/a/decision.json')


def raw(run, tiny):
    """-> predictions without the decision file: of the validation and of the test images"""
    folder = run(f'--no_decision --csv_val {tiny}/val.csv --results_path results/raw')
    return [read_predictions(str(folder.parent / 'raw' / 'a' / f'results_{split}.csv')) for split in ('val', 'test')]


def test_the_temperature_is_that_of_the_validation_images(run, tiny):
    val, test = raw(run, tiny)
    temperature = fit_temperature(val.probs, val.labels)
    assert read_decision('experiments/a/decision.json').temperature.value == pytest.approx(temperature, rel=1e-4)
    found = read_predictions(str(run() / 'results_test.csv')).probs
    np.testing.assert_allclose(found, apply_temperature(test.probs, temperature), rtol=1e-3)


def test_columns_of_the_predictions(run, tiny):
    decision = read_decision('experiments/a/decision.json')
    table = pd.read_csv(run() / 'results_test.csv')
    probs = table.filter(like='p_').to_numpy()
    inside = apply_sets(probs, decision.rules.sets[0])
    names = [f'class{c}' for c in range(3)]
    assert [set(text.split(' | ')) for text in table.prediction_set] == [{n for n, chosen in zip(names, row, strict=True) if chosen}
                                                                        for row in inside]
    assert (table.not_sure == np.where(decision.rules.abstention.is_unsure(probs), 'yes', 'no')).all()


def test_the_columns_are_not_further_columns(run):
    assert list(read_predictions(str(run() / 'results_test.csv')).further) == []


def test_predict_gives_the_probabilities_of_the_test(run, tiny):
    tested = read_predictions(str(run() / 'results_test.csv'))
    predict.main(['--load_path', RUN, '--num_workers', '0', *(str(tiny / 'images' / f'{name}.jpg') for name in tested.image_ids)])
    table = read_predictions('results/a/predictions.csv')
    np.testing.assert_allclose(table.probs, tested.probs, rtol=1e-5)
    assert {'prediction_set', 'not_sure'} <= set(pd.read_csv('results/a/predictions.csv'))


def test_the_decision_file_names_what_it_belongs_to(run, tiny):
    decision = read_decision('experiments/a/decision.json')
    assert decision.csv.sha256 == file_sha256(tiny / 'val.csv') and decision.n_images == 9 == len(set(decision.image_hashes))
    assert decision.class_names == ['class0', 'class1', 'class2'] and 'epoch_01' in decision.checkpoint.folder


def test_the_results_name_the_decision_file(run):
    folder = run()
    digest = file_sha256('experiments/a/decision.json')
    assert digest in json.loads((folder / 'results_test.json').read_text())['decision']['line']
    assert digest in (folder / 'performance_test.txt').read_text()


def test_summary_in_the_text_report(run):
    folder = run()
    table = read_predictions(str(folder / 'results_test.csv'))
    inside = apply_sets(table.probs, read_decision('experiments/a/decision.json').rules.sets[0])
    covered = inside[np.arange(len(table.labels)), table.labels]
    text = (folder / 'performance_test.txt').read_text()
    assert f'Prediction sets (class, 90 %): {100 * covered.mean():.1f} % contain the true class' in text


def test_without_the_decision_file_nothing_changes(run, tiny):
    _, test = raw(run, tiny)
    csv = run('--no_decision') / 'results_test.csv'
    np.testing.assert_array_equal(read_predictions(str(csv)).probs, test.probs)
    assert 'prediction_set' not in pd.read_csv(csv)


def test_test_time_augmentation_is_that_of_the_file(run):
    fit('--dihedral_tta 2')
    assert json.loads((run() / 'results_test.json').read_text())['tta']['n_views'] == 4


@pytest.mark.parametrize(('flags', 'message'), [
    ('--dihedral_tta 1', r'decision\.json was fitted with --dihedral_tta 0: leave out the flag'),
    ('--zoom_tta 1 1.2', r'decision\.json was fitted with --zoom_tta 1: leave out'),
    ('--calibrate', r'--calibrate: the corrections of this network are in experiments/a/decision\.json'),
    ('--logit_adjust 1', '--logit_adjust: the corrections'), ('--tau_norm', '--tau_norm: the corrections'),
    ('--target_prior nowhere.csv', 'there is no file nowhere.csv')])
def test_flags_that_contradict_the_file(run, flags, message):
    with pytest.raises(InputError, match=message):
        run(flags)


def test_the_same_flag_as_in_the_file_is_fine(run):
    run('--dihedral_tta 0')


def test_another_checkpoint_is_refused(run, train):
    path = Path('experiments/a/decision.json')
    before = path.read_text()
    train('--save_path a --overwrite --seed 7')
    path.write_text(before)
    with pytest.raises(InputError, match=r'belongs to another checkpoint .*: run python -m tools\.calibrate again, or .* --no_decision'):
        run()


def test_training_again_removes_it(run, train, tmp_path):
    train('--save_path a --overwrite')
    assert not (tmp_path / 'experiments/a/decision.json').exists()


def test_the_images_that_it_was_fitted_on_are_reported_without_it(run, tiny, capsys):
    folder = run(f'--csv_val {tiny}/val.csv')
    assert f'{tiny}/val.csv is reported without correction' in capsys.readouterr().out
    found = json.loads((folder / 'results_val.json').read_text())
    assert found['decision'] is None and found['temperature'] is None


def test_some_of_these_images_are_refused(run, tiny, tmp_path):
    rows = (tiny / 'test.csv').read_text().splitlines() + (tiny / 'val.csv').read_text().splitlines()[1:3]
    (tmp_path / 'mixed.csv').write_text('\n'.join(rows) + '\n')
    with pytest.raises(InputError, match=r'mixed\.csv .*shares 2 images with|has seen 2 of'):
        run(f'--csv_test {tmp_path}/mixed.csv')


def test_training_images_are_refused(run, tiny):
    with pytest.raises(InputError, match=r'train\.csv cannot be used for the calibration: .* with --csv_val'):
        fit(f'--csv_val {tiny}/train.csv')


def test_labels_are_needed(run, tiny, tmp_path):
    (tmp_path / 'new.csv').write_text('image_id\nval_0_0\nval_1_1\n')
    with pytest.raises(InputError, match=r'new\.csv has no labels, which the calibration needs'):
        fit(f'--csv_val {tmp_path}/new.csv')


@pytest.mark.parametrize(('flags', 'message'), [
    ('--coverage 1', '--coverage 1 must be between 0 and 1'), ('--abstain 1', '--abstain 1 must be between'),
    ('--at 0', '--at 0 must be between'), ('--referable 3', r'--referable 3 is outside the grades 1\.\.2'),
    ('--tau_norm --logit_adjust', 'correct for the class frequencies more than once')])
def test_bad_flags(run, flags, message):
    with pytest.raises(InputError, match=message):
        fit(flags)


def test_a_saved_correction_is_applied(run, tiny):
    _, test = raw(run, tiny)
    decision = fit('--logit_adjust 1')
    assert (decision.correction.name, decision.correction.strength) == ('logit_adjust', 1)
    adjusted = apply_temperature(test.probs, decision.temperature.value)
    adjusted = adjusted / (np.array([12, 6, 4]) / 22)
    found = read_predictions(str(run() / 'results_test.csv')).probs
    np.testing.assert_allclose(found, adjusted / adjusted.sum(1, keepdims=True), rtol=1e-3)


def test_target_prior_shifts_from_the_frequencies_of_the_validation_images(run, tiny):
    source, (_, test) = read_decision('experiments/a/decision.json').source, raw(run, tiny)
    expected = source.calibrated(test.probs) / np.array(source.frequencies)
    found = read_predictions(str(run('--target_prior uniform') / 'results_test.csv'))
    np.testing.assert_allclose(found.probs, expected / expected.sum(1, keepdims=True), rtol=1e-3)


def test_estimated_frequencies_are_those_of_em(run, tiny, capsys):
    source, (_, test) = read_decision('experiments/a/decision.json').source, raw(run, tiny)
    folder = run('--target_prior estimate')
    expected = json.loads((folder / 'results_test.json').read_text())['correction']['expected']
    found = em_frequencies(source.calibrated(test.probs), np.array(source.frequencies))
    np.testing.assert_allclose(expected, (8 * found + source.frequencies) / 9, atol=1e-5)
    assert 'Estimated class frequencies of 8 images' in capsys.readouterr().out


def test_predict_estimates_the_same_frequencies(run, tiny, capsys):
    run('--target_prior estimate')
    first = re.findall(r'^  class\d.*$', capsys.readouterr().out, re.M)[:3]
    images = [str(tiny / 'images' / f'{name}.jpg') for name in pd.read_csv(tiny / 'test.csv').image_id]
    predict.main(['--load_path', RUN, '--num_workers', '0', '--target_prior', 'estimate', *images])
    assert re.findall(r'^  class\d.*$', capsys.readouterr().out, re.M)[:3] == first


def test_sets_are_those_before_the_shift(run):
    before, after = (pd.read_csv(run(flags) / 'results_test.csv').prediction_set.tolist() for flags in ('', '--target_prior uniform'))
    assert before == after


def test_an_estimate_needs_the_decision_file(run, tiny):
    with pytest.raises(InputError, match=r'--target_prior estimate needs calibrated probabilities.*run python -m tools\.calibrate'):
        run('--target_prior estimate --no_decision')


def test_predict_shifts_without_a_decision_file(run, tiny):
    _, test = raw(run, tiny)
    images = [str(tiny / 'images' / f'{name}.jpg') for name in test.image_ids]
    predict.main(['--load_path', RUN, '--num_workers', '0', '--no_decision', '--target_prior', 'uniform', *images])
    expected = test.probs / (np.array([12, 6, 4]) / 22)
    np.testing.assert_allclose(read_predictions('results/a/predictions.csv').probs, expected / expected.sum(1, keepdims=True), rtol=1e-3)


def test_a_class_without_validation_images_has_no_prior(run, tiny, tmp_path):
    table = pd.read_csv(tiny / 'val.csv')
    table[table.iloc[:, -1] != 2].to_csv(tmp_path / 'two.csv', index=False)
    fit(f'--csv_val {tmp_path}/two.csv')
    with pytest.raises(InputError, match=r'--target_prior: experiments/a/decision\.json was fitted without an image of class2'):
        run('--target_prior uniform')


def test_too_few_images_are_named_with_the_number_needed(run, capsys):
    capsys.readouterr()
    fit()
    assert re.search(r'too few calibration images of class0 \(\d\), class1 \(\d\), class2 \(\d\) for a threshold of their own at a '
                     r'coverage of 90 %: at least 9 are needed', capsys.readouterr().out)


def test_the_next_command_is_the_test(run, capsys):
    capsys.readouterr()
    fit()
    assert parse(next_words(capsys.readouterr().out))[1].load_path == RUN


def test_evaluate_shows_the_saved_rules(run, capsys):
    csv = str(run() / 'results_test.csv')
    evaluate_predictions.main([csv, '--draws', '100'])
    out = capsys.readouterr().out
    assert 'Decisions fitted on validation images, in the decision file of the run' in out
    assert 'classes per set' in out and 'left undecided' in out


def test_evaluate_with_a_calibration_csv(run, tiny, tmp_path, capsys):
    folder = run(f'--no_decision --csv_val {tiny}/val.csv')
    evaluate_predictions.main([str(folder / 'results_test.csv'), '--calibration', str(folder / 'results_val.csv'), '--coverage', '0.5',
                               '--abstain', '0.2', '--draws', '100', '--json', str(tmp_path / 'out.json')])
    found = json.loads((tmp_path / 'out.json').read_text())['decisions']['rules']
    assert set(found['sets']) == {'marginal', 'class', 'adjusted', 'between'}
    assert f"{100 * found['sets']['marginal']['coverage']['value']:.1f}" in capsys.readouterr().out


def test_evaluate_costs(run, tmp_path):
    csv = str(run() / 'results_test.csv')
    (tmp_path / 'costs.csv').write_text('true,class0,class1,class2\nclass0,0,1,1\nclass1,5,0,1\nclass2,9,1,0\n')
    evaluate_predictions.main([csv, '--costs', str(tmp_path / 'costs.csv'), '--draws', '100', '--json', str(tmp_path / 'out.json')])
    found = json.loads((tmp_path / 'out.json').read_text())['decisions']['costs']
    table, costs = read_predictions(csv), np.array([[0, 1, 1], [5, 0, 1], [9, 1, 0]])
    for name, chosen in (('predicted class', table.preds), ('least expected cost', least_cost(table.probs, costs))):
        assert found[name]['cost']['value'] == pytest.approx(1000 * costs[table.labels, chosen].mean())


@pytest.mark.parametrize(('flags', 'message'), [
    ('--coverage 0.9', '--coverage needs --calibration VAL.csv'), ('--abstain 0.1', '--abstain needs --calibration'),
    ('--coverage 2 --calibration {csv}', '--coverage 2 must be between 0 and 1'),
    ('--calibration {csv} --coverage 0.9', 'has 8 images of .*results_test.csv, first .*: nothing may be fitted on the images'),
    ('{csv} --calibration {csv}', '--calibration needs a single predictions csv'),
    ('{csv} --costs quadratic', '--costs needs a single predictions csv'),
    ('--costs quadratic', '--costs quadratic is for grades')])
def test_flags_of_evaluate(run, flags, message):
    csv = run() / 'results_test.csv'
    with pytest.raises(InputError, match=message):
        evaluate_predictions.main([str(csv), *flags.format(csv=csv).split()])


def test_a_calibration_csv_of_another_way_is_refused(run, tiny):
    folder = run(f'--csv_val {tiny}/val.csv')  # the test is calibrated, the validation images are not
    with pytest.raises(InputError, match=r'were predicted in different ways \(plain forward pass; calibrated\): test both'):
        evaluate_predictions.main([str(folder / 'results_test.csv'), '--calibration', str(folder / 'results_val.csv'), '--coverage', '0.9'])


def test_section_of_the_report(run, tmp_path):
    run()
    report.main([RUN, '--draws', '100'])
    page = (tmp_path / 'results/a/report.html').read_text()
    assert 'id="decisions"' in page and 'A prediction set lists the classes' in page and file_sha256('experiments/a/decision.json') in page


def test_no_section_without_decisions(run, tmp_path):
    run('--no_decision')
    report.main([RUN, '--draws', '100'])
    assert 'A prediction set lists' not in (tmp_path / 'results/a/report.html').read_text()


def test_class_frequencies_in_the_report(run, tmp_path):
    run('--target_prior uniform')
    report.main([RUN, '--draws', '100'])
    assert 'They were changed to: uniform' in (tmp_path / 'results/a/report.html').read_text()


def test_the_class_after_a_shift_is_in_the_set(run):
    table = pd.read_csv(run('--target_prior uniform') / 'results_test.csv')
    assert all(f'class{pred}' in text.split(' | ') for pred, text in zip(table.pred, table.prediction_set, strict=True))


def test_not_sure_after_a_shift_has_a_threshold_of_its_own(run, tiny):
    """At the frequencies of the validation images, the share of them that is left undecided is the wanted one."""
    decision = fit('--abstain 0.4')
    val, _ = raw(run, tiny)
    assert decision.prior_abstention.is_unsure(decision.source.calibrated(val.probs)).mean() == pytest.approx(3 / 9)


def test_scores_before_a_shift_are_those_of_the_network(run, tiny):
    _, test = raw(run, tiny)
    found = json.loads((run('--target_prior uniform') / 'results_test.json').read_text())['temperature']
    assert found['before']['nll'] == pytest.approx(-np.log(test.probs[np.arange(8), test.labels]).mean(), rel=1e-4)


def test_a_shifted_test_says_that_it_measures_no_sets(run, capsys):
    folder = run('--target_prior uniform')
    note = 'Prediction sets and thresholds apply to the probabilities before the change of the class frequencies'
    assert note in (folder / 'performance_test.txt').read_text()
    evaluate_predictions.main([str(folder / 'results_test.csv'), '--draws', '100'])
    assert note in capsys.readouterr().out


def test_adjusted_sets_after_logit_adjustment_assume_its_frequencies(run):
    """Plain training learns 12, 6 and 4 images; with tau 1 all classes are equally frequent."""
    np.testing.assert_allclose(fit('--logit_adjust 1 --sets adjusted').rules.sets[0].frequencies, 1 / 3)


def test_the_model_card_names_corrections(run, tmp_path):
    run('--target_prior uniform')
    report.main([RUN, '--draws', '100', '--model_card'])
    assert 'Class prior changed to: uniform' in (tmp_path / 'results/a/model_card.md').read_text()


def test_a_replaced_decision_file_is_named(run, capsys):
    capsys.readouterr()
    fit()
    assert 'It replaces the decisions of experiments/a/epoch_01' in capsys.readouterr().out


def test_the_test_csv_is_a_warning(run, tiny, capsys):
    capsys.readouterr()
    fit(f'--csv_val {tiny}/test.csv')
    assert f'{tiny}/test.csv seems to be the test csv' in capsys.readouterr().out


def test_private(run):
    fit('--private')
    assert Path('experiments/a/decision.json').stat().st_mode & 0o777 == 0o600
