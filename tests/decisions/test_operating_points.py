"""Operating points: thresholds against brute force and scikit-learn, and the sensitivity on new images in a simulation."""
import math
from fractions import Fraction

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from tests.decisions.gaussians import Gaussians, posterior, random_probs
from utils.decisions.operating_points import OperatingPoint, fit_operating_points

LEVELS = [.5, .8, .9, .95, 1 / 3]
CASES = [(2, 40, None), (5, 300, None), (5, 300, 1), (23, 200, 2), (3, 12, 1)]  # classes, images, digits of the probabilities


def points_of(k, n, digits, referable=0):
    probs, labels = random_probs(n, k, k, digits)
    names = [f'c{c}' for c in range(k)]
    return probs, labels, fit_operating_points(probs, labels, names, LEVELS, referable=referable)


def shares(score, positive, threshold):
    """-> sensitivity and specificity as exact fractions"""
    called = score >= threshold
    return Fraction(int((called & positive).sum()), int(positive.sum())), Fraction(int((~called & ~positive).sum()), int((~positive).sum()))


def exact(level):
    return Fraction(1, 3) if level == 1 / 3 else Fraction(str(level))


@pytest.mark.parametrize(('k', 'n', 'digits'), CASES)
def test_the_highest_threshold_with_the_sensitivity(k, n, digits):
    probs, labels, points = points_of(k, n, digits, referable=1)
    for point in (point for point in points if point.aim == 'sensitivity'):
        score, positive = point.score(probs), point.is_positive(labels)
        expected = max(t for t in score if shares(score, positive, t)[0] >= exact(point.level))
        assert point.threshold == expected


@pytest.mark.parametrize(('k', 'n', 'digits'), CASES)
def test_the_highest_sensitivity_at_the_specificity(k, n, digits):
    probs, labels, points = points_of(k, n, digits, referable=1)
    for point in (point for point in points if point.aim == 'specificity'):
        score, positive = point.score(probs), point.is_positive(labels)
        reached = [t for t in score if shares(score, positive, t)[1] >= exact(point.level)]
        found = shares(score, positive, point.threshold)
        assert found[1] >= exact(point.level) and found[0] == max(shares(score, positive, t)[0] for t in reached)
        assert point.threshold == min(t for t in reached if t in score[positive])


@pytest.mark.parametrize(('k', 'n', 'digits'), CASES)
def test_sensitivity_thresholds_against_scikit_learn(k, n, digits):
    probs, labels, points = points_of(k, n, digits)
    for point in (point for point in points if point.aim == 'sensitivity'):
        _, sensitivity, thresholds = roc_curve(labels == point.first, probs[:, point.first], drop_intermediate=False)
        assert point.threshold == thresholds[np.argmax(sensitivity >= point.level - 1e-9)]


@pytest.mark.parametrize(('k', 'n', 'digits'), CASES)
def test_levels_that_are_left_out_cannot_be_reached_with_any_sensitivity(k, n, digits):
    probs, labels, points = points_of(k, n, digits)
    found = {(point.first, point.level) for point in points if point.aim == 'specificity'}
    for c in np.unique(labels):
        positive, score = labels == c, probs[:, c]
        for level in LEVELS:
            best = max((shares(score, positive, t)[0] for t in score if shares(score, positive, t)[1] >= exact(level)), default=0)
            assert ((c, level) in found) == (best > 0)


def test_grade_or_worse():
    probs, labels, points = points_of(5, 300, None, referable=2)
    point = next(point for point in points if point.name == 'c2 or worse')
    assert (point.first, point.last, point.n) == (2, 4, (labels >= 2).sum())
    np.testing.assert_allclose(point.score(probs), 1 - probs[:, 0] - probs[:, 1], atol=1e-12)
    assert (point.is_positive(labels) == np.isin(labels, [2, 3, 4])).all()


def test_the_worst_grade_or_worse_is_the_worst_grade():
    points = points_of(5, 300, None, referable=4)[2]
    assert [point[1:] for point in points if point.name == 'c4 or worse'] == [point[1:] for point in points if point.name == 'c4']


@pytest.mark.parametrize('referable', [0, 5, 6])
def test_no_grade_or_worse(referable):
    assert {point.name for point in points_of(5, 300, None, referable=referable)[2]} == {f'c{c}' for c in range(5)}


def test_absent_classes_are_left_out():
    probs, labels = random_probs(200, 4, 0)
    keep = (labels == 0) | (labels == 3)
    assert {point.name for point in fit_operating_points(probs[keep], labels[keep], list('abcd'), LEVELS)} == {'a', 'd'}


def test_one_class_has_no_operating_point():
    probs, _ = random_probs(20, 3, 0)
    assert fit_operating_points(probs, np.zeros(20, int), list('abc'), LEVELS, referable=1) == []


def test_a_single_image_has_no_operating_point():
    assert fit_operating_points(np.array([[.5, .5]]), np.array([1]), ['a', 'b'], LEVELS) == []


def test_scores_do_not_depend_on_the_layout_of_the_array():
    probs, _ = random_probs(500, 23, 1)
    point = OperatingPoint('x', 3, 22, aim='sensitivity', level=.9, threshold=.5, n=1)
    np.testing.assert_allclose(point.score(np.asfortranarray(probs)), point.score(probs), rtol=1e-14)


def test_sensitivity_on_new_images():
    classes, prior, sensitivity = Gaussians(3), np.array([.6, .3, .1]), []
    likelihood, labels = classes.draw(prior, 60_000, 0)
    probs, rng = posterior(likelihood, prior), np.random.default_rng(1)
    rare, others = np.flatnonzero(labels == 2), np.flatnonzero(labels != 2)
    new = rare[3000:]
    for _ in range(600):
        some = np.r_[rng.choice(rare[:3000], 40), rng.choice(others, 100)]
        points = fit_operating_points(probs[some], labels[some], list('abc'), [.9])
        point = next(point for point in points if point.name == 'c' and point.aim == 'sensitivity')
        sensitivity.append(np.mean(point.score(probs[new]) >= point.threshold))
    expected = math.ceil(.9 * 40) / 41  # of a new positive among 40 exchangeable ones
    assert np.mean(sensitivity) == pytest.approx(expected, abs=.008)
