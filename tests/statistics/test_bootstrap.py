"""The bootstrap: resampling of images and patients, intervals compared with exact ones, paired differences, and a test set of real size."""
import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, norm

from tests.factories import random_table
from utils.common import InputError
from utils.prediction.predictions import PredictionTable
from utils.statistics.bootstrap import (
    INTERVALS,
    align,
    as_cells,
    bootstrap_figures,
    bootstrap_metrics,
    cell,
    combine,
    effective_n,
    weights_of_draws,
    wilson,
)
from utils.statistics.weighted_metrics import WeightedMetrics


def drawn(*args, **kwargs):
    return np.concatenate(list(weights_of_draws(*args, **kwargs)), axis=1)


def two_classes(hits_a, n_a, hits_b, n_b, patient_ids=None):
    """A table of two classes with the given numbers of correct predictions, which come first."""
    labels = np.repeat([0, 1], [n_a, n_b])
    right = np.concatenate([np.arange(n_a) < hits_a, np.arange(n_b) < hits_b])
    preds = np.where(right, labels, 1 - labels)
    return PredictionTable(list(map(str, range(n_a + n_b))), labels, preds, np.eye(2)[preds], ['a', 'b'], patient_ids, 'x')


def ends(cell):
    return cell['low'], cell['high']


def test_draws_are_of_all_images_at_random():
    labels = np.repeat([0, 1, 2], [50, 10, 1])
    weights = drawn(labels, draws=2000)
    assert weights.shape == (61, 2000) and (weights == np.round(weights)).all() and (weights.sum(axis=0) == 61).all()
    of_class = weights[labels == 1].sum(axis=0)  # binomial
    assert of_class.mean() == pytest.approx(10, abs=.3) and of_class.var() == pytest.approx(10 * 51 / 61, rel=.1)
    assert (weights[60] == 0).mean() == pytest.approx(np.exp(-1), abs=.05)


def test_scores_of_resamples_without_a_class():
    """With one image of class 4, 63 % of the resamples contain it. In the others, means over classes ignore this class."""
    table = random_table(0, absent=(4,))
    labels = table.labels.copy()
    labels[0] = 4
    figures = bootstrap_figures([table._replace(labels=labels)], draws=1000, ordered=True)[0]
    assert np.isfinite(figures.draws['classes', 'DR4', 'recall']).mean() == pytest.approx(1 - np.exp(-1), abs=.05)
    assert all(np.isfinite(draws).all() for key, draws in figures.draws.items() if key[0] == 'metrics')
    recalls = np.stack([figures.draws['classes', f'DR{c}', 'recall'] for c in range(5)])
    np.testing.assert_allclose(figures.draws['metrics', 'bacc'], np.nanmean(recalls, axis=0))


def test_stratified_draws_keep_the_size_of_each_class():
    labels = np.repeat([0, 1, 2], [50, 10, 1])
    weights = drawn(labels, draws=400, stratified=True)
    assert weights.shape == (61, 400) and (weights == np.round(weights)).all()
    for c, n in enumerate((50, 10, 1)):
        assert (weights[labels == c].sum(axis=0) == n).all()
    np.testing.assert_allclose(weights[:50].mean(), 1)
    assert weights[:50].var() == pytest.approx(1 - 1 / 50, abs=.02)  # multinomial
    np.testing.assert_array_equal(weights, drawn(labels, draws=400, stratified=True))
    assert (weights != drawn(labels, draws=400, seed=1, stratified=True)).any()


def test_draws_of_patients():
    labels, patients = np.array([0, 0, 0, 1, 0, 2, 1, 1, 0, 0]), list('aabbccddef')
    for stratified in (False, True):
        weights = drawn(labels, patients, draws=300, stratified=stratified)
        for patient in 'abcd':
            one = weights[[p == patient for p in patients]]
            assert (one[0] == one[1]).all()
    assert (drawn(labels, patients, draws=300)[[0, 2, 4, 6, 8, 9]].sum(axis=0) == 6).all()  # as many patients as there are
    assert (weights[5] == 1).all()  # the only patient with the rarest class is in every draw
    assert (weights[[2, 6]].sum(axis=0) == 2).all() and (weights[[0, 8, 9]].sum(axis=0) == 3).all()  # b or d; a, e or f


def test_patients_with_one_image_are_like_images():
    table = random_table(0)
    alone = bootstrap_metrics(table._replace(patient_ids=[f'{i:03}' for i in range(80)]), draws=50)
    images = bootstrap_metrics(table, draws=50)
    assert (alone.pop('drawn')['unit'], images.pop('drawn')['unit']) == ('patients', 'images') and alone == images


def test_result_says_what_was_drawn():
    result = bootstrap_metrics(random_table(0)._replace(patient_ids=['a', 'b'] * 40), draws=50, stratified=True)
    assert result['drawn'] == {'unit': 'patients', 'within_classes': True, 'seeds': False, 'draws': 50}


def test_stratified_draws_are_narrower_where_class_counts_matter():
    wide, narrow = (ends(bootstrap_metrics(two_classes(300, 300, 0, 100), stratified=s)['metrics']['brier']) for s in (False, True))
    assert wide[1] - wide[0] > .1 and narrow == (None, None)  # with fixed class counts, the score is fixed


def test_copies_within_a_patient_do_not_narrow_intervals():
    table = random_table(0)
    twice = table._replace(image_ids=list(map(str, range(160))), patient_ids=[f'{i % 80:03}' for i in range(160)],
                           **{name: np.concatenate([getattr(table, name)] * 2) for name in ('labels', 'preds', 'probs')})
    alone, copied = (bootstrap_metrics(t, draws=100, ordered=True)['metrics'] for t in (table, twice))
    for name, expected in alone.items():
        tolerance = .01 if name == 'acc' else 1e-6  # the effective number of images of the accuracy depends on the draws
        assert [copied[name][end] for end in ('value', 'low', 'high')] == pytest.approx(
            [expected[end] for end in ('value', 'low', 'high')], abs=tolerance)
    narrower = bootstrap_metrics(twice._replace(patient_ids=None), draws=100)['metrics']['bacc']
    assert narrower['high'] - narrower['low'] < .85 * (alone['bacc']['high'] - alone['bacc']['low'])


def test_interval_of_balanced_accuracy_is_that_of_two_binomials():
    bacc = bootstrap_metrics(two_classes(150, 200, 30, 40), draws=4000)['metrics']['bacc']
    half = 1.96 * np.sqrt(.75 * .25 / 200 + .75 * .25 / 40) / 2
    assert ends(bacc) == pytest.approx((.75 - half, .75 + half), abs=.0125 / 2 + .003) and bacc['interval'] == 'percentile'


@pytest.mark.parametrize(('hits', 'n'), [(0, 11), (11, 11), (3, 11), (1, 2), (0, 1), (30, 40), (480, 600)])
def test_wilson_interval(hits, n):
    assert wilson(hits / n, n) == pytest.approx(tuple(binomtest(hits, n).proportion_ci(method='wilson')), abs=1e-12)


def test_proportions_of_images_have_wilson_intervals():
    result = bootstrap_metrics(two_classes(190, 200, 4, 11), draws=100, class_count=[200, 11], levels=(.9,))
    for found, hits, n in ((result['metrics']['acc'], 194, 211), (result['classes']['b']['recall'], 4, 11),
                           (result['classes']['b']['precision'], 4, 14), (result['classes']['a']['recall'], 190, 200),
                           (result['groups']['few']['recall'], 4, 11)):
        assert (found['interval'], found['n']) == ('wilson', n)
        assert ends(found) == pytest.approx(tuple(binomtest(hits, n).proportion_ci(method='wilson')), abs=1e-12)
    assert result['classes']['b']['f1']['interval'] == 'percentile'
    assert result['operating_points']['b']['sensitivity_at_specificity']['0.9']['interval'] == 'wilson'


@pytest.mark.parametrize('hits', [0, 11])
def test_0_or_11_of_11_has_a_wide_interval(hits):
    recall = bootstrap_metrics(two_classes(190, 200, hits, 11), draws=100)['classes']['b']['recall']
    assert recall['value'] == hits / 11 and recall['high'] - recall['low'] > .25


def test_0_of_12_images_counts_patients():
    patients = [f'a{i}' for i in range(200)] + [f'b{i // 3}' for i in range(12)]
    recall = bootstrap_metrics(two_classes(190, 200, 0, 12, patients), draws=100)['classes']['b']['recall']
    assert ends(recall) == pytest.approx(wilson(0, 4)) and recall['n'] == 12


def test_identical_results_within_a_patient_count_once():
    """60 patients with 4 images each, all correct or all wrong, count like 60 images."""
    patients = [f'{i // 4:03}' for i in range(400)]
    recall = bootstrap_metrics(two_classes(160, 160, 120, 240, patients), draws=4000)['classes']['b']['recall']
    assert ends(recall) == pytest.approx(wilson(.5, 60), abs=.01) and recall['n'] == 240


def test_effective_number_of_images():
    draws = np.random.default_rng(0).binomial(50, .3, 20000) / 50
    assert effective_n(.3, draws, 200, 60) == pytest.approx(50, rel=.05)
    assert effective_n(.3, draws, 40, 9) == 40 and effective_n(.3, np.array([0., 1.]), 40, 9) == 1
    assert effective_n(.3, np.full(9, .3), 40, 9) == 9 and effective_n(.3, np.full(9, np.nan), 40, 9) == 9


def test_images_of_one_patient_count_once():
    """The draws do not vary, but this does not mean that the images are independent."""
    result = bootstrap_metrics(two_classes(30, 40, 20, 60, ['p'] * 100), draws=100, levels=(.9,))
    for found in (result['metrics']['acc'], result['classes']['a']['recall'], result['classes']['b']['precision']):
        assert ends(found) == pytest.approx(wilson(found['value'], 1))


def test_threshold_of_an_operating_point_adds_to_its_interval():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [40, 400])
    score = 1 / (1 + np.exp(-rng.normal(2 * labels)))
    probs = np.stack([1 - score, score], axis=1)
    table = PredictionTable(list(map(str, range(440))), labels, probs.argmax(1), probs, ['a', 'b'], None, 'x')
    found = bootstrap_metrics(table, levels=(.9,))['operating_points']['b']['sensitivity_at_specificity']['0.9']
    fixed = wilson(found['value'], 400)
    assert found['high'] - found['low'] > 2 * (fixed[1] - fixed[0])  # the threshold depends on 4 of 40 negatives


def calibrated_table(n=400, seed=0, k=4):
    """Labels are drawn with the predicted probabilities, so the network is perfectly calibrated."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(k), n)
    labels = (rng.random((n, 1)) > probs.cumsum(axis=1)).sum(axis=1)
    return PredictionTable(list(map(str, range(n))), labels, probs.argmax(1), probs, list('abcdefgh'[:k]), None, 'x')


@pytest.mark.parametrize('by_patient', [False, True])
def test_gaps_of_the_bins_are_shrunk_by_their_noise(by_patient):
    table, unit = calibrated_table(), np.arange(400) // 4 if by_patient else np.arange(400)
    top, right = table.probs.max(axis=1), table.preds == table.labels
    expected = 0
    for b in range(15):
        x = (top - right) * ((top > b / 15) & (top <= (b + 1) / 15))
        gap = x.mean()
        variance = sum((x[unit == u] - gap).sum() ** 2 for u in range(unit.max() + 1)) / 400 ** 2
        expected += abs(gap) * max(0, 1 - variance / gap ** 2) if gap else 0
    metrics = WeightedMetrics(table, unit=unit)
    assert np.abs(metrics._gaps[1][:15]).sum() == pytest.approx(expected, rel=1e-9)


def test_draws_around_shrunk_gaps_without_noise_are_the_ece():
    metrics = WeightedMetrics(calibrated_table())
    figures, shrunk = metrics.with_shrunk(np.ones((400, 1)))
    for key in (('metrics', 'ece'), ('metrics', 'classwise_ece')):
        assert shrunk[key][0] == pytest.approx(figures[key][0], abs=1e-12)


def test_interval_of_ece_is_the_basic_one_with_more_bias_at_its_lower_end():
    table = calibrated_table(2000)
    figures = bootstrap_figures([table._replace(labels=np.roll(table.labels, 1))], draws=300)[0]  # labels of other images
    for key in (('metrics', 'ece'), ('metrics', 'classwise_ece')):
        found, value, draws = figures.cell(key), figures.values[key], figures.draws[key]
        assert found['interval'] == 'basic' and found['high'] == pytest.approx(2 * value - np.percentile(draws, 2.5))
        assert found['low'] == pytest.approx(max(0, 2 * value - np.percentile(figures.shrunk[key], 97.5)))
        assert found['low'] <= 2 * value - np.percentile(draws, 97.5)


def test_interval_of_ece_stays_within_bounds():
    draws = np.linspace(.02, .06, 401)
    assert ends(cell(.05, draws, 100, 'basic')) == pytest.approx((.041, .079))
    assert ends(cell(.01, draws, 100, 'basic')) == pytest.approx((0, .038))  # as wide as the percentile interval
    assert ends(cell(.05, draws, 100, 'basic', shrunk=draws + .05)) == pytest.approx((0, .079))


def test_ece_of_a_calibrated_network_does_not_exclude_zero_error():
    lows = [bootstrap_metrics(calibrated_table(300, seed), draws=100)['metrics'] for seed in range(20)]
    assert sum(m['ece']['low'] < .01 for m in lows) >= 18 and sum(m['classwise_ece']['low'] < .01 for m in lows) >= 18
    assert min(m['ece']['value'] for m in lows) > .02


def test_intervals_of_perfect_predictions():
    result = bootstrap_metrics(two_classes(30, 30, 10, 10), draws=100)
    assert result['metrics']['bacc'] == {'value': 1, 'low': None, 'high': None, 'n': 40, 'interval': None}
    assert result['metrics']['acc']['low'] == pytest.approx(wilson(1, 40)[0])


def test_means_of_repeats():
    a, b = two_classes(190, 200, 4, 11), two_classes(180, 200, 6, 11)
    mean = combine(bootstrap_figures([a, b], draws=400), (.5, .5))
    recall = mean.cell(('classes', 'b', 'recall'))
    assert recall['interval'] == 'percentile' and ends(recall) == tuple(np.nanpercentile(mean.draws['classes', 'b', 'recall'], (2.5, 97.5)))
    assert mean.cell(('metrics', 'ece'))['interval'] == 'basic' and set(mean.shrunk) == {('metrics', 'ece'), ('metrics', 'classwise_ece')}
    none = combine(bootstrap_figures([two_classes(190, 200, 0, 11)] * 6, draws=50), [1 / 6] * 6).cell(('classes', 'b', 'recall'))
    assert ends(none) == pytest.approx(wilson(0, 11))


def test_every_interval_names_its_kind():
    table = random_table(0)
    figures = bootstrap_figures([table, random_table(0, ties=True)._replace(labels=table.labels)], 100, ordered=True, levels=(.9,))
    for of in (figures[0], combine(figures, (.5, .5)), combine(figures, (1, -1))):
        for key in of.values:
            found = of.cell(key)
            assert found['interval'] in INTERVALS if found['low'] is not None else found['interval'] is None
            assert of.of != 'difference' or found['interval'] in ('normal', None)


def test_nearly_constant_draws_give_no_interval():
    draws = np.append(np.full(99, .75), .5)
    assert ends(cell(.75, draws, 40)) == ends(cell(.75, draws, 40, 'seeds')) == (None, None)
    assert cell(.75, draws, 40)['interval'] is None


def test_undefined_and_single_images():
    table = random_table(3, absent=(2,))
    labels, preds = table.labels.copy(), np.zeros(80, int)
    labels[labels == 4], labels[0] = 0, 4
    result = bootstrap_metrics(table._replace(labels=labels, preds=preds), draws=100)
    nothing = {'value': None, 'low': None, 'high': None, 'interval': None}
    assert result['classes']['DR2']['recall'] == nothing | {'n': 0} and result['classes']['DR1']['precision'] == nothing | {'n': 0}
    assert result['classes']['DR4']['auc']['value'] is not None and ends(result['classes']['DR4']['auc']) == (None, None)  # one image
    assert ends(result['classes']['DR4']['recall']) == pytest.approx(wilson(0, 1))
    assert result['metrics']['kappa'] == nothing | {'n': 80} and result['groups'] == {} and result['operating_points'] == {}


def test_paired_difference_is_normal():
    a, b = two_classes(190, 200, 4, 11), two_classes(180, 200, 6, 11)
    pair = combine(bootstrap_figures([a, b], draws=400), (1, -1))
    found, draws = pair.cell(('metrics', 'bacc')), pair.draws['metrics', 'bacc']
    half = norm.ppf(.975) * np.std(draws, ddof=1)
    assert found['interval'] == 'normal' and ends(found) == pytest.approx((found['value'] - half, found['value'] + half))
    assert combine([pair, pair], (.5, .5)).of == 'difference'


def test_a_difference_within_one_patient_has_no_interval():
    patients = [f'a{i}' for i in range(200)] + ['b'] * 4
    a, b = two_classes(190, 200, 4, 4, patients), two_classes(190, 200, 2, 4, patients)
    found = combine(bootstrap_figures([a, b], draws=100), (1, -1)).cell(('classes', 'b', 'recall'))
    assert found == {'value': .5, 'low': None, 'high': None, 'n': 4, 'interval': None}


@pytest.mark.parametrize('patient_ids', [None, ['p'] * 211])
def test_a_difference_without_variation_has_no_interval(patient_ids):
    """0 versus 11 of 11 images, or a single patient: all draws are equal, but this does not mean that the value is certain."""
    pair = combine(bootstrap_figures([two_classes(190, 200, hits, 11, patient_ids) for hits in (11, 0)], draws=50), (1, -1))
    found = pair.cell(('classes', 'b', 'recall'))
    assert found['value'] == 1 and ends(found) == (None, None) and found['interval'] is None
    assert ends(pair.cell(('classes', 'a', 'recall'))) == (0, 0)  # the same predictions


def test_paired_difference():
    a = random_table(1)
    order = np.random.default_rng(0).permutation(80)
    same = a._replace(image_ids=[a.image_ids[i] for i in order], labels=a.labels[order], preds=a.preds[order], probs=a.probs[order])
    difference = as_cells(combine(bootstrap_figures([a, same], draws=50), (1, -1)))
    assert all(cell['value'] == cell['low'] == cell['high'] == 0 for name, cell in difference['metrics'].items() if name != 'kappa')
    worse = a._replace(preds=np.where(np.arange(80) < 4, (a.preds + 1) % 5, a.preds))
    difference = as_cells(combine(bootstrap_figures([a, worse]), (1, -1)))['metrics']['bacc']
    alone = bootstrap_metrics(a)['metrics']['bacc']
    assert difference['high'] - difference['low'] < .7 * (alone['high'] - alone['low'])  # most of the sampling error is shared


@pytest.mark.parametrize(('change', 'message'), [
    ({'image_ids': list(map(str, range(1, 81)))}, 'do not contain the same images'),
    ({'class_names': list('abcde')}, 'differ in their classes'),
    ({'labels': np.zeros(80, int)}, r'y\.csv and x\.csv have different labels for \d+ images, first for '),
])
def test_files_that_do_not_match(change, message):
    a = random_table(1)
    with pytest.raises(InputError, match=message):
        align([a, a._replace(path='y.csv', **change)])


def test_original_run_on_eyepacs(real_data):
    """The published confusion matrix of 53,576 images: its scores, intervals that agree with a multinomial bootstrap of the matrix, and
    probabilities without ties."""
    confusion = pd.read_csv(f'{real_data}/labels/eyepacs_bmu01_confusion.csv', index_col=0).to_numpy()
    y, preds = (np.repeat(index.ravel(), confusion.ravel()) for index in np.indices(confusion.shape))
    table = PredictionTable(list(map(str, range(len(y)))), y, preds, np.eye(5)[preds], [f'DR{c}' for c in range(5)], None, 'x.csv')
    metrics = bootstrap_metrics(table, ordered=True)['metrics']
    for name, value, low, high in (('kappa', 78.87, 78.2, 79.5), ('mcc', 61.70, 61.1, 62.4), ('bacc', 52.17, 51.4, 53.0)):
        assert round(100 * metrics[name]['value'], 2) == value
        assert (100 * metrics[name]['low'], 100 * metrics[name]['high']) == pytest.approx((low, high), abs=.1)
    probs = np.random.default_rng(0).dirichlet(np.ones(5), len(y)) + np.eye(5)[preds]
    assert bootstrap_metrics(table._replace(probs=probs / 2), draws=20, ordered=True)['metrics']['auc']['n'] == 53576
