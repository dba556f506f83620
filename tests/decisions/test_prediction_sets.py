"""Prediction sets: coverage in simulations with a known posterior, thresholds against counting, and images that are few or tied."""
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from tests.decisions.gaussians import LONG_TAIL, Gaussians, posterior, random_probs
from utils.decisions.prediction_sets import (
    KINDS,
    apply_sets,
    conformal_quantile,
    fit_sets,
    images_needed,
    least_coverage,
    set_scores,
    set_text,
)

UNIFORM = np.full(5, .2)
CASES = [(2, None), (2, 1), (5, None), (5, 1), (23, None), (23, 1)]  # classes, digits of the probabilities


@pytest.fixture(scope='module')
def pools():
    """Images with long-tailed and with equal class frequencies: posterior at the long-tailed ones, and labels."""
    classes = Gaussians()
    return {name: (posterior(likelihood, LONG_TAIL), labels) for name, (likelihood, labels) in {
        'same': classes.draw(LONG_TAIL, 100_000, 0), 'shifted': classes.draw(UNIFORM, 100_000, 1)}.items()}


def simulate(pools, kind, n, *, test='same', repetitions=400, coverage=.9):
    """Fit on n images and test on 300 others, many times. -> share of thresholds that hold the true class and share of sets that do, each
    (repetitions, 1 + K): of all images, and of each class"""
    rng, result = np.random.default_rng(2), []
    for _ in range(repetitions):
        (probs, labels), (new, truth) = pools['same'], pools[test]
        some, others = rng.integers(50_000, size=n), 50_000 + rng.integers(50_000, size=300)
        rule = fit_sets(probs[some], labels[some], coverage, kind, LONG_TAIL)
        of_label = np.arange(300), truth[others]
        strict = (set_scores(new[others], kind, LONG_TAIL) <= rule.thresholds)[of_label]
        loose = apply_sets(new[others], rule)[of_label]
        result.append([[each.mean(), *(each[truth[others] == c].mean() if (truth[others] == c).any() else np.nan for c in range(5))]
                       for each in (strict, loose)])
    return np.array(result).transpose(1, 0, 2)


def mean_and_error(values):
    return np.nanmean(values, axis=0), np.nanstd(values, axis=0) / np.sqrt((~np.isnan(values)).sum(axis=0))


@pytest.mark.parametrize('n', [15, 99, 105])
@pytest.mark.parametrize('kind', ['marginal', 'adjusted'])
def test_coverage_of_one_threshold(pools, kind, n):
    (strict, loose) = simulate(pools, kind, n)
    mean, error = mean_and_error(strict[:, 0])
    rank = math.ceil(Fraction('0.9') * (n + 1))
    assert mean == pytest.approx(rank / (n + 1), abs=4 * error)
    assert .9 <= rank / (n + 1) <= .9 + 1 / (n + 1)
    assert mean_and_error(loose[:, 0])[0] >= mean


@pytest.mark.parametrize('test', ['same', 'shifted'])
def test_coverage_of_each_class(pools, test):
    mean, error = mean_and_error(simulate(pools, 'class', 200, test=test)[0])
    assert (mean[1:] >= .9 - 4 * error[1:]).all()
    assert mean[0] >= .9 - 4 * error[0]


def test_coverage_of_one_threshold_falls_when_rare_classes_become_frequent(pools):
    assert mean_and_error(simulate(pools, 'marginal', 200, test='shifted', repetitions=100)[1])[0][0] < .85


@pytest.mark.parametrize('kind', ['marginal', 'adjusted', 'class'])
def test_coverage_with_ties(pools, kind):
    rounded = {name: (np.round(probs, 1), labels) for name, (probs, labels) in pools.items()}
    mean, error = mean_and_error(simulate(rounded, kind, 99)[0])
    assert mean[0] >= .9 - 4 * error[0]


def test_adjusted_sets_cover_rare_classes_better_at_the_same_size(pools):
    probs, labels = (values[:20_000] for values in pools['same'])
    new, truth = (values[50_000:80_000] for values in pools['same'])

    def size_and_coverage(kind, coverage):
        inside = apply_sets(new, fit_sets(probs, labels, coverage, kind))
        covered = inside[np.arange(len(truth)), truth]
        return inside.sum(axis=1).mean(), np.mean([covered[truth == c].mean() for c in range(5)])
    size, adjusted = size_and_coverage('adjusted', .9)
    sizes, macro = np.transpose([size_and_coverage('marginal', coverage) for coverage in np.arange(.7, .999, .01)])
    assert sizes[0] < size < sizes[-1]
    assert adjusted > np.interp(size, sizes, macro) + .02


@pytest.mark.parametrize(('k', 'digits'), CASES)
def test_sets_between_lie_between(k, digits):
    probs, labels = random_probs(300, k, 0, digits)
    new, _ = random_probs(500, k, 1, digits)
    adjusted, between, own = (apply_sets(new, fit_sets(probs, labels, .9, kind)) for kind in ('adjusted', 'between', 'class'))
    assert (adjusted & own <= between).all() and (between <= adjusted | own).all()


def test_thresholds_between():
    probs, labels = random_probs(300, 4, 10)
    rows = np.r_[np.flatnonzero(labels < 3)[:120], np.flatnonzero(labels == 3)[:5]]  # class 3 has no finite threshold
    scores = 1 - probs[rows, labels[rows]] / (np.bincount(labels[rows]) / 125)[labels[rows]]

    def highest(some):  # of the ceil(0.9 (n + 1)) lowest scores
        rank = math.ceil(Fraction('0.9') * (len(some) + 1))
        return sorted(some)[rank - 1] if rank <= len(some) else 1
    expected = [(highest(scores) + highest(scores[labels[rows] == c])) / 2 for c in range(4)]
    assert fit_sets(probs[rows], labels[rows], .9, 'between').thresholds == pytest.approx(expected)


@pytest.mark.parametrize(('k', 'digits'), CASES)
@pytest.mark.parametrize('kind', ['marginal', 'adjusted', 'class'])
def test_sets_by_counting_calibration_images(kind, k, digits):
    probs, labels = random_probs(120, k, 2, digits)
    new, _ = random_probs(60, k, 3, digits)
    frequencies = np.bincount(labels, minlength=k) / len(labels)
    scale = np.ones(k) if kind != 'adjusted' else np.where(frequencies > 0, frequencies, 1)
    expected = np.zeros((60, k), bool)
    for i, p in enumerate(new):
        for c in range(k):
            others = np.flatnonzero(labels == c) if kind == 'class' else np.arange(120)
            fitting_better = sum(1 - probs[j, labels[j]] / scale[labels[j]] < 1 - p[c] / scale[c] for j in others)
            expected[i, c] = fitting_better < Fraction('0.9') * (len(others) + 1) or c == list(p).index(max(p))
    assert (apply_sets(new, fit_sets(probs, labels, .9, kind)) == expected).all()


@pytest.mark.parametrize('coverage', ['0.5', '0.8', '0.9', '0.95', '0.99', '0.999', '0.9999'])
def test_images_needed(coverage):
    n = next(n for n in range(1, 10_001) if conformal_quantile(np.zeros(n), float(coverage)) == 0)
    assert images_needed(float(coverage)) == n == next(n for n in range(1, 10_001) if math.ceil(Fraction(coverage) * (n + 1)) <= n)


@pytest.mark.parametrize('n', [1, 2, 9, 10, 57, 300])
def test_quantile_against_numpy(n):
    rng = np.random.default_rng(n)
    for coverage in rng.uniform(.05, .99, 50):
        scores = rng.normal(size=n).round(1)
        expected = np.quantile(np.append(scores, np.inf), coverage, method='inverted_cdf')
        assert conformal_quantile(scores, coverage) == expected


def test_quantile_of_decimal_coverages():
    for n in range(1, 400):
        rank = math.ceil(Fraction('0.9') * (n + 1))
        assert conformal_quantile(np.arange(1., n + 1), .9) == (rank if rank <= n else math.inf)


def test_quantile_without_scores():
    assert conformal_quantile(np.array([]), .5) == math.inf


@pytest.mark.parametrize(('n', 'coverage'), [(9, .9), (50, .8), (400, .9), (30, .95)])
def test_least_coverage_against_scipy(n, coverage):
    rank = math.ceil(Fraction(str(coverage)) * (n + 1))
    assert least_coverage(n, coverage) == pytest.approx(stats.beta(rank, n + 1 - rank).ppf(.025))


def test_least_coverage_in_a_simulation():
    scores = np.random.default_rng(0).random((4000, 50))  # uniform scores: the threshold is the coverage of new images
    coverage = np.array([conformal_quantile(row, .8) for row in scores])
    assert np.mean(coverage < least_coverage(50, .8)) == pytest.approx(.025, abs=.01)


def test_least_coverage_with_too_few_images():
    assert least_coverage(8, .9) == 1


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(('k', 'digits'), CASES)
def test_the_most_probable_class_is_in_every_set(kind, k, digits):
    probs, labels = random_probs(100, k, 4, digits)
    new, _ = random_probs(200, k, 5, digits)
    inside = apply_sets(new, fit_sets(probs, labels, .3, kind))
    assert inside[np.arange(200), new.argmax(axis=1)].all()


@pytest.mark.parametrize('kind', ['class', 'between'])
def test_classes_with_too_few_images(kind):
    probs, labels = random_probs(400, 4, 6)
    labels = np.r_[labels[labels < 2][:150], [2] * 8, [3] * 9]
    rule = fit_sets(probs[:len(labels)], labels, .9, kind)
    assert rule.too_few == [2] and rule.counts[2:] == (8, 9)
    if kind == 'class':
        assert [math.isinf(threshold) for threshold in rule.thresholds] == [False, False, True, False]
        assert apply_sets(random_probs(300, 4, 7)[0], rule)[:, 2].all()


@pytest.mark.parametrize('kind', ['class', 'between'])
def test_an_absent_class(kind):
    probs, labels = random_probs(300, 3, 8)
    rule = fit_sets(probs[labels < 2], labels[labels < 2], .9, kind)
    assert rule.frequencies[2] == 0 and rule.too_few == [2]
    inside = apply_sets(probs, rule)
    assert kind == 'between' or inside[:, 2].all()


@pytest.mark.parametrize('kind', KINDS)
def test_a_single_image(kind):
    rule = fit_sets(np.array([[.2, .8]]), np.array([1]), .9, kind)
    assert apply_sets(np.array([[0., 1.], [1., 0.], [.5, .5]]), rule).all()


@pytest.mark.parametrize('kind', KINDS)
def test_certain_and_correct_predictions(kind):
    labels = np.repeat([0, 1, 2], 20)
    inside = apply_sets(np.eye(3)[labels], fit_sets(np.eye(3)[labels], labels, .9, kind))
    assert (inside == np.eye(3, dtype=bool)[labels]).all()


@pytest.mark.parametrize('kind', KINDS)
def test_certain_and_wrong_predictions(kind):
    labels = np.repeat([0, 1, 2], 20)
    assert apply_sets(np.eye(3), fit_sets(np.eye(3)[(labels + 1) % 3], labels, .9, kind)).all()


def test_scores_with_frequencies():
    probs, frequencies = np.array([[.5, .3, .2]]), [.25, .75, 0]
    np.testing.assert_allclose(set_scores(probs, 'adjusted', frequencies), [[-1, .6, .8]])
    np.testing.assert_allclose(set_scores(probs, 'marginal', frequencies), [[.5, .7, .8]])


def test_frequencies_are_by_default_those_of_the_calibration_images():
    probs, labels = random_probs(50, 3, 9)
    assert fit_sets(probs, labels, .9, 'adjusted').frequencies == pytest.approx([np.mean(labels == c) for c in range(3)])


def test_the_text_names_the_most_probable_class_first():
    probs = np.array([[.2, .5, .3], [.4, .2, .4], [0, 0, 1]])
    inside = np.array([[True, True, False], [True, False, True], [False, False, True]])
    assert set_text(inside, probs, ['a', 'b', 'c']) == ['b | a', 'a | c', 'c']
