"""Class frequencies: EM against direct maximisation, BBSE against least squares, intervals and warnings in simulations of label shift."""
import warnings

import numpy as np
import pytest
from scipy.optimize import minimize, nnls
from scipy.special import softmax

from tests.decisions.gaussians import LONG_TAIL, Gaussians, posterior, random_probs
from utils.common import InputError
from utils.decisions.prevalence import (
    Prevalence,
    Source,
    bbse_frequencies,
    confusion_rates,
    em_frequencies,
    estimate_prevalence,
    fit_source,
    prevalence_text,
    prior_shift,
)
from utils.statistics.calibration import apply_temperature, fit_temperature

SHIFTED = np.array([.1, .2, .2, .2, .3])


def shift_prior(probs, learnt, expected):
    return apply_temperature(probs, 1., prior_shift(learnt, expected))
NAMES = list('abcde')
BIAS = np.array([0, 1., -1, .5, 2])


def raw(probs, sharpness=3., bias=BIAS):
    """Probabilities of an overconfident and biased network."""
    return softmax(sharpness * np.log(np.maximum(probs, 1e-300)) + bias, axis=1)


def identity_source(frequencies, confusion=None):
    k = len(frequencies)
    return Source(1., (0.,) * k, tuple(frequencies), ((1., *[0.] * k),), confusion=tuple(map(tuple, (np.eye(k, dtype=int) * 100).tolist()))
                  if confusion is None else confusion)


def negative_log_likelihood(frequencies, likelihood, weights=1.):
    return -np.mean(weights * np.log(likelihood @ frequencies))


def maximised(likelihood):
    """Frequencies with the highest likelihood, by SLSQP."""
    k = likelihood.shape[1]
    found = minimize(negative_log_likelihood, np.full(k, 1 / k), (likelihood,), method='SLSQP', bounds=[(0, 1)] * k,
                     jac=lambda q, z: -(z / (z @ q)[:, None]).mean(axis=0), constraints={'type': 'eq', 'fun': lambda q: q.sum() - 1},
                     options={'ftol': 1e-13, 'maxiter': 500})
    return found.x


@pytest.fixture(scope='module')
def labelled():
    """6,000 labelled images with long-tailed frequencies: true posterior and labels."""
    likelihood, labels = Gaussians(spread=2).draw(LONG_TAIL, 6000, 0)
    return posterior(likelihood, LONG_TAIL), labels


@pytest.fixture(scope='module')
def unlabelled():
    """20,000 images with other frequencies: posterior at the long-tailed frequencies, and labels."""
    likelihood, labels = Gaussians(spread=2).draw(SHIFTED, 20_000, 1)
    return posterior(likelihood, LONG_TAIL), labels


@pytest.mark.parametrize(('k', 'n'), [(2, 100), (5, 300), (23, 600)])
def test_em_against_direct_maximisation(k, n):
    learnt = np.random.default_rng(k).dirichlet(np.full(k, 3))
    likelihood, _ = Gaussians(k, spread=8).draw(np.random.default_rng(1).dirichlet(np.ones(k)), n, 2)
    probs = posterior(likelihood, learnt)
    found, best = em_frequencies(probs, learnt), maximised(probs / learnt)
    assert negative_log_likelihood(found, probs / learnt) <= negative_log_likelihood(best, probs / learnt) + 1e-7
    assert found == pytest.approx(best, abs=2e-3)


def test_em_with_classes_that_overlap():
    learnt = np.random.default_rng(1).dirichlet(np.full(3, 3))
    likelihood, _ = Gaussians(3, spread=.2, seed=1).draw([.5, .5, 0], 300, 1)
    probs = posterior(likelihood, learnt)
    assert em_frequencies(probs, learnt) == pytest.approx(maximised(probs / learnt), abs=2e-3)


def test_em_with_the_true_posterior_finds_the_frequencies(unlabelled):
    probs, labels = unlabelled
    assert em_frequencies(probs, LONG_TAIL) == pytest.approx(np.bincount(labels) / len(labels), abs=.01)


def test_em_without_any_shift(labelled):
    probs, labels = labelled
    assert em_frequencies(probs, LONG_TAIL) == pytest.approx(np.bincount(labels) / len(labels), abs=.01)


def test_em_with_certain_predictions_counts_them():
    labels = np.array([0, 0, 2, 2, 2, 1, 0, 2])
    assert em_frequencies(np.eye(3)[labels], np.array([.6, .3, .1])) == pytest.approx([3 / 8, 1 / 8, 4 / 8])


def test_em_of_a_single_image_is_the_class_that_gains_most():
    assert em_frequencies(np.array([[.6, .3, .1]]), np.array([.8, .15, .05])) == pytest.approx([0, 0, 1] if .1 / .05 > .3 / .15 else [
        0, .75, .25], abs=1e-5)


def test_em_with_a_class_that_was_absent():
    probs, _ = random_probs(200, 3, 0)
    found = em_frequencies(probs, np.array([.4, 0, .6]))
    expected = em_frequencies(probs[:, [0, 2]] / probs[:, [0, 2]].sum(axis=1, keepdims=True), np.array([.4, .6]))
    assert found[1] == 0 and found[[0, 2]] == pytest.approx(expected, abs=1e-6)


def test_weights_of_em_repeat_images():
    probs, _ = random_probs(150, 4, 1)
    weights, learnt = np.random.default_rng(0).integers(0, 4, 150), np.full(4, .25)
    repeated = em_frequencies(np.repeat(probs, weights, axis=0), learnt)
    assert em_frequencies(probs, learnt, weights.astype(float)) == pytest.approx(repeated, abs=1e-6)


def test_em_does_not_depend_on_its_start():
    probs, _ = random_probs(300, 4, 2)
    starts = [np.full(4, .25), np.array([.97, .01, .01, .01])]
    found = [em_frequencies(probs, np.array([.4, .3, .2, .1]), start=start) for start in starts]
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)


def test_em_leaves_a_start_at_a_corner():
    probs, _ = random_probs(300, 4, 2)
    learnt = np.full(4, .25)
    assert em_frequencies(probs, learnt, start=np.array([1., 0, 0, 0])) == pytest.approx(em_frequencies(probs, learnt), abs=1e-3)


def test_confusion_rates():
    assert confusion_rates(np.array([[3, 1], [0, 0]])).tolist() == [[.75, 0], [.25, 0]]


@pytest.mark.parametrize('k', [2, 5, 23])
def test_bbse_is_exact_for_a_known_confusion_matrix(k):
    rng = np.random.default_rng(k)
    confusion, truth = rng.integers(0, 10, (k, k)) + 100 * np.eye(k, dtype=int), rng.dirichlet(np.ones(k))
    predicted = np.array([sum(truth[c] * confusion[c, i] / confusion[c].sum() for c in range(k)) for i in range(k)])
    assert bbse_frequencies(predicted, confusion) == pytest.approx(truth)


def test_bbse_is_the_least_squares_solution():
    rng = np.random.default_rng(0)
    confusion, predicted = rng.integers(0, 10, (4, 4)) + 50 * np.eye(4, dtype=int), rng.dirichlet(np.full(4, 20))
    solution, residual = nnls((confusion / confusion.sum(axis=1, keepdims=True)).T, predicted)
    assert residual < 1e-12
    assert bbse_frequencies(predicted, confusion) == pytest.approx(solution / solution.sum())


def test_bbse_has_no_negative_frequencies():
    found = bbse_frequencies(np.array([.98, .01, .01]), np.array([[80, 10, 10], [10, 80, 10], [10, 10, 80]]))
    assert found == pytest.approx([1, 0, 0])


@pytest.mark.parametrize('confusion', [[[5, 5], [3, 3]], [[5, 5], [0, 0]]])
def test_bbse_of_a_singular_matrix(confusion):
    assert bbse_frequencies(np.array([.5, .5]), np.array(confusion)) is None


@pytest.mark.parametrize('k', [2, 5, 23])
def test_shift_by_the_rule_of_bayes(k):
    probs, _ = random_probs(50, k, 3)
    learnt, expected = np.random.default_rng(0).dirichlet(np.ones(k), 2)
    by_hand = [[p[c] * expected[c] / learnt[c] / sum(p[j] * expected[j] / learnt[j] for j in range(k)) for c in range(k)] for p in probs]
    np.testing.assert_allclose(shift_prior(probs, learnt, expected), by_hand, rtol=1e-9, atol=1e-30)


def test_shift_gives_the_true_posterior(unlabelled):
    likelihood, _ = Gaussians(spread=2).draw(SHIFTED, 20_000, 1)
    np.testing.assert_allclose(shift_prior(unlabelled[0], LONG_TAIL, SHIFTED), posterior(likelihood, SHIFTED), atol=1e-12)


def test_shift_there_and_back():
    probs, _ = random_probs(100, 5, 4)
    np.testing.assert_allclose(shift_prior(shift_prior(probs, LONG_TAIL, SHIFTED), SHIFTED, LONG_TAIL), probs, atol=1e-12)


def test_shift_of_certain_predictions():
    np.testing.assert_allclose(shift_prior(np.eye(5), LONG_TAIL, SHIFTED), np.eye(5), atol=1e-30)


def test_classes_without_prior_get_the_probability_0():
    probs, _ = random_probs(50, 3, 5)
    for learnt, expected in ([.5, 0, .5], [.2, .3, .5]), ([.2, .3, .5], [.5, 0, .5]):
        shifted = shift_prior(probs, np.array(learnt), np.array(expected))
        assert not shifted[:, 1].any() and shifted.sum(axis=1) == pytest.approx(np.ones(50))


def test_shift_of_the_logits():
    assert prior_shift(np.array([.5, .5, 0]), np.array([1., 0, 0])).tolist() == [np.log(2), -np.inf, -np.inf]


def test_source_and_em_return_the_frequencies_of_the_calibration_images(labelled):
    probs, labels = labelled
    source = fit_source(raw(probs), labels, refits=1)
    truth = np.bincount(labels) / len(labels)
    assert source.frequencies == pytest.approx(truth)
    assert source.calibrated(raw(probs)).mean(axis=0) == pytest.approx(truth, abs=1e-4)
    assert em_frequencies(source.calibrated(raw(probs)), truth) == pytest.approx(truth, abs=2e-4)


def test_source_finds_temperature_and_biases(labelled):
    probs, labels = labelled
    source = fit_source(raw(probs), labels, refits=1)
    assert source.temperature == pytest.approx(3, rel=.05)
    expected = -(BIAS - BIAS.mean()) / 3
    assert np.array(source.bias) - np.mean(source.bias) == pytest.approx(expected, abs=.15)


def test_source_counts_predictions(labelled):
    probs, labels = labelled
    source = fit_source(raw(probs), labels, refits=1)
    predicted = source.calibrated(raw(probs)).argmax(axis=1)
    assert np.array(source.confusion).tolist() == [[((labels == i) & (predicted == j)).sum() for j in range(5)] for i in range(5)]


def test_em_after_fit_source_finds_the_frequencies_of_a_biased_network(labelled, unlabelled):
    source = fit_source(raw(labelled[0]), labelled[1], refits=1)
    truth = np.bincount(unlabelled[1]) / len(unlabelled[1])
    found = em_frequencies(source.calibrated(raw(unlabelled[0])), np.array(source.frequencies))
    assert found == pytest.approx(truth, abs=.02)


def test_em_with_a_temperature_alone_does_not(labelled, unlabelled):
    temperature = fit_temperature(raw(labelled[0]), labelled[1])
    found = em_frequencies(apply_temperature(raw(unlabelled[0]), temperature), np.bincount(labelled[1]) / len(labelled[1]))
    assert np.abs(found - np.bincount(unlabelled[1]) / len(unlabelled[1])).max() > .05


def test_estimate(labelled, unlabelled):
    source = fit_source(raw(labelled[0]), labelled[1], refits=10)
    some, labels = raw(unlabelled[0])[:5000], unlabelled[1][:5000]
    found = estimate_prevalence(some, source, NAMES, draws=20)
    calibrated = source.calibrated(some)
    assert (found.frequencies == em_frequencies(calibrated, np.array(source.frequencies))).all() and found.n_images == 5000
    assert found.bbse == pytest.approx(bbse_frequencies(np.bincount(calibrated.argmax(axis=1)) / 5000, np.array(source.confusion)))
    assert (found.low <= found.frequencies).all() and (found.frequencies <= found.high).all()
    assert found.frequencies == pytest.approx(np.bincount(labels) / 5000, abs=.04) and found.warnings == ()


def test_a_seed_gives_the_same_intervals():
    probs, labels = random_probs(100, 3, 6)
    source = fit_source(probs, labels, refits=5)
    first, second, other = (estimate_prevalence(probs, source, list('abc'), draws=20, seed=seed) for seed in (1, 1, 2))
    assert (first.low == second.low).all() and (first.low != other.low).any()


@pytest.fixture(scope='module')
def coverage():
    """Share of intervals that hold the true frequency, for each of three classes, in 60 simulations."""
    classes, truth, inside = Gaussians(3, spread=2, seed=1), np.array([.3, .3, .4]), []
    learnt = np.array([.6, .25, .15])
    for seed in range(60):
        likelihood, labels = classes.draw(learnt, 300, 1000 + seed)
        source = fit_source(raw(posterior(likelihood, learnt), 2., BIAS[:3]), labels, refits=20, seed=seed)
        likelihood, _ = classes.draw(truth, 150, 2000 + seed)
        found = estimate_prevalence(raw(posterior(likelihood, learnt), 2., BIAS[:3]), source, list('abc'), draws=60, seed=seed)
        inside.append(np.append((found.low <= truth) & (truth <= found.high), bool(found.warnings)))
    return np.mean(inside, axis=0)


def test_intervals_hold_the_truth(coverage):
    assert (coverage[:3] >= .85).all()


def test_warnings_are_rare_under_label_shift(coverage):
    assert coverage[3] <= .2


def patients_of_classes():
    """Posterior, labels and patients of calibration images of three classes that overlap. The class b has patients with 2, 40 and 80."""
    sizes = np.r_[[4] * 30, [2] * 4, 80, 40, [5] * 20]
    of_patient = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.repeat([0, 1, 2], [30, 6, 20])[of_patient]
    centres = np.array([[0, 0], [1.2, 0], [0, 1.2]])

    def likelihood(labels, seed):
        x = np.random.default_rng(seed).normal(size=(len(labels), 2)) + centres[labels]
        return -((x[:, None] - centres) ** 2).sum(axis=2) / 2
    prior = np.bincount(labels) / len(labels)
    probs = posterior(likelihood(labels, 0), prior)
    new = np.random.default_rng(1).choice(3, 2000, p=[.5, .3, .2])
    return probs, labels, of_patient.astype(str).tolist(), posterior(likelihood(new, 2), prior)


def test_patients_with_different_numbers_of_images():
    probs, labels, patients, new = patients_of_classes()
    widths = []
    for ids in (None, patients):
        found = estimate_prevalence(new, fit_source(probs, labels, ids, refits=40), list('abc'), draws=60)
        widths.append(found.high - found.low)
    assert (widths[1] < 2 * widths[0]).all()  # with the class frequencies of each refit: 1.0 to 1.3 times


def test_resampled_patients_without_a_class():
    labels = np.r_[0, 0, 1, 1, 1, [2] * 30]  # all images of class 1 are of a patient with the rarest class
    patients = ['p1', 'p2', 'p1', 'p1', 'p1', *(f'q{i}' for i in range(30))]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        fit_source(random_probs(35, 3, 9)[0], labels, patients, refits=20)


def test_patients_whose_images_agree_widen_the_interval():
    labels = np.repeat(np.random.default_rng(0).choice(3, 30), 20)
    probs = .94 * np.eye(3)[labels] + .02
    patients = np.repeat(np.arange(30), 20).astype(str).tolist()
    source = identity_source([1 / 3] * 3)
    single, grouped = (estimate_prevalence(probs, source, list('abc'), patient_ids=ids, draws=60) for ids in (None, patients))
    assert (grouped.high - grouped.low > 3 * (single.high - single.low)).all()
    assert (single.frequencies == grouped.frequencies).all()


def test_one_patient_per_image_is_as_without_patients():
    probs, labels = random_probs(80, 3, 7)
    ids = [f'{i:02d}' for i in range(80)]
    found = [estimate_prevalence(probs, fit_source(probs, labels, patients, refits=3), list('abc'), patient_ids=patients, draws=20)
             for patients in (None, ids)]
    np.testing.assert_allclose(found[0].low, found[1].low)
    np.testing.assert_allclose(found[0].high, found[1].high)


def test_warning_of_classes_that_cannot_be_told_apart():
    rng = np.random.default_rng(0)
    labels = rng.choice(4, 400)
    seen = np.where((labels == 3) & (rng.random(400) < .5), 2, np.where((labels == 2) & (rng.random(400) < .5), 3, labels))
    probs = .9 * np.eye(4)[seen] + .025
    found = estimate_prevalence(probs, fit_source(probs, labels, refits=2), ['a', 'b', 'mild', 'none'], draws=10)
    warning, = found.warnings
    assert warning.startswith('the network often confuses mild, none with other classes, so their frequencies are unreliable (')


def test_warning_of_an_absent_class():
    probs, labels = random_probs(300, 3, 8)
    source = fit_source(probs[labels != 1], labels[labels != 1], refits=2)
    found = estimate_prevalence(probs, source, list('abc'), draws=10)
    assert found.warnings == ('no validation image of b, so the frequencies cannot be checked by the confusion matrix',)
    assert found.frequencies[1] == found.low[1] == 0 and found.bbse is None


@pytest.mark.parametrize(('n', 'patients', 'warning'), [
    (30, None, ()), (29, None, ('only 29 images: the estimate is rough',)),
    (5, None, ('only 5 images: the estimate is rough',)),
    (60, 30, ()), (60, 29, ('only 29 patients: the estimate is rough',))])
def test_warning_of_few_images(n, patients, warning):
    labels = np.arange(n) % 2
    ids = None if patients is None else [str(i % patients) for i in range(n)]
    found = estimate_prevalence(.9 * np.eye(2)[labels] + .05, identity_source([.5, .5], ((95, 5), (5, 95))), ['a', 'b'], patient_ids=ids,
                                draws=30)
    assert found.warnings == warning


@pytest.mark.parametrize('patients', [None, ['p', 'p', 'q', 'r', 's', 's']])
def test_too_few_images_or_patients(patients):
    n = 4 if patients is None else len(patients)
    with pytest.raises(InputError, match=rf"needs at least 5 {'images' if patients is None else 'patients'}, and there are 4"):
        estimate_prevalence(np.full((n, 2), .5), identity_source([.5, .5]), ['a', 'b'], patient_ids=patients, draws=3)


def test_a_class_without_an_image_has_at_least_a_wilson_interval():
    found = estimate_prevalence(np.tile([.99, .01], (100, 1)), identity_source([.5, .5]), ['a', 'b'], draws=20)
    assert found.high[1] == pytest.approx(1.96 ** 2 / (100 + 1.96 ** 2), rel=.01) and found.low[1] == pytest.approx(0, abs=1e-9)


def test_no_warning_if_few_calibration_images_explain_the_difference():
    source = identity_source([.5, .5], ((10, 0), (3, 7)))  # of a network with a recall of 0.9
    found = estimate_prevalence(.8 * np.eye(2)[np.arange(1000) % 2] + .1, source, ['a', 'b'], draws=60)
    assert found.frequencies == pytest.approx([.5, .5], abs=1e-3) and found.bbse == pytest.approx([2 / 7, 5 / 7])
    assert found.warnings == ()


def test_warning_of_more_than_label_shift(labelled, unlabelled):
    """Images of the classes a and e get the features of each other's neighbours, with less certainty."""
    source = fit_source(labelled[0], labelled[1], refits=5)
    some = np.sqrt(unlabelled[0][:2000][:, [4, 1, 2, 3, 0]])
    found = estimate_prevalence(some / some.sum(axis=1, keepdims=True), source, NAMES, draws=30)
    assert any('in more than the class frequencies' in warning for warning in found.warnings)
    assert estimate_prevalence(unlabelled[0][:2000], source, NAMES, draws=30).warnings == ()


def test_no_warning_if_a_class_does_not_occur():
    probs = .9 * np.eye(3)[np.arange(200) % 2] + .1 / 3  # no image of c
    source = identity_source([1 / 3] * 3, ((96, 2, 2), (2, 96, 2), (2, 2, 96)))
    assert estimate_prevalence(probs, source, list('abc'), draws=50).warnings == ()


def test_text_of_an_estimate():
    found = Prevalence(np.array([.25, .75]), np.array([.2, .7]), np.array([.3, .8]), None, n_images=1234, warnings=('few',))
    lines = prevalence_text(found, identity_source([.4, .6]), ['a', 'long name']).split('\n')
    assert lines[0] == 'Estimated class frequencies of 1,234 images in percent [95 % interval]' and lines[-1] == '* Warning: few'
    assert lines[2].split() == ['a', '25.0', '[20.0,', '30.0]', '40.0', '-'] and lines[3].startswith('  long name  75.0 [70.0, 80.0]')
