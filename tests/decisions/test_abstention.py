"""Abstention: share of undecided images, and risk against coverage by brute force over all orders of tied images."""
import itertools

import numpy as np
import pytest

from tests.decisions.gaussians import random_probs
from utils.decisions.abstention import SHARES, Abstention, fit_abstention, risk_at_coverage

CASES = [(1, 2, None), (7, 2, 1), (100, 5, None), (100, 5, 1), (333, 23, None), (10, 3, 0)]  # images, classes, digits


@pytest.mark.parametrize('share', [.05, .1, .29, .3, .5, .9, .99])
@pytest.mark.parametrize(('n', 'k', 'digits'), CASES)
def test_share_of_undecided_images(n, k, digits, share):
    probs, _ = random_probs(n, k, 0, digits)
    rule = fit_abstention(probs, share)
    confidence, undecided = probs.max(axis=1), rule.is_unsure(probs)
    assert undecided.sum() <= share * n + 1e-9
    assert rule.share == share and (undecided == [max(p) < rule.threshold for p in probs]).all()
    assert (confidence <= rule.threshold).sum() > share * n - 1e-9  # the next higher threshold leaves too many undecided


@pytest.mark.parametrize('n', [10, 100, 1000])
def test_exact_share_without_ties(n):
    probs, _ = random_probs(n, 4, 1)
    assert fit_abstention(probs, .3).is_unsure(probs).sum() == 3 * n // 10


def test_equal_images_are_all_decided():
    probs = np.full((20, 4), .25)
    assert not fit_abstention(probs, .5).is_unsure(probs).any()


def test_single_precision():
    probs = random_probs(1000, 5, 2)[0].astype(np.float32)
    assert fit_abstention(probs, .2).is_unsure(probs).sum() == 200


def test_the_threshold_itself_is_decided():
    assert Abstention(.5, .6).is_unsure(np.array([[.6, .4], [.59, .41]])).tolist() == [False, True]


@pytest.mark.parametrize('seed', range(5))
def test_risk_is_the_mean_over_all_orders_of_tied_images(seed):
    rng = np.random.default_rng(seed)
    confidence, errors = rng.integers(0, 3, 6) / 10, rng.integers(0, 2, 6).astype(float)
    orders = [order for order in itertools.permutations(range(6)) if (np.diff(confidence[list(order)]) <= 0).all()]
    risks = np.mean([[errors[list(order[:i])].mean() for i in range(1, 7)] for order in orders], axis=0)
    found, area = risk_at_coverage(confidence, errors)
    assert area == pytest.approx(risks.mean())
    assert [risk for _, risk in found] == pytest.approx([risks[max(round(share * 6), 1) - 1] for share in SHARES])


def test_risk_does_not_depend_on_the_order_of_the_images():
    rng = np.random.default_rng(0)
    confidence, costs = rng.random(200).round(1), rng.exponential(size=200)
    order = rng.permutation(200)
    (first, area), (second, same_area) = risk_at_coverage(confidence, costs), risk_at_coverage(confidence[order], costs[order])
    np.testing.assert_allclose(first, second)
    assert area == pytest.approx(same_area)


def test_risk_without_ties_against_sorting():
    rng = np.random.default_rng(1)
    confidence, errors = rng.random(100), rng.random(100) < .3
    expected = [sum(error for _, error in sorted(zip(confidence, errors, strict=True), reverse=True)[:i]) / i for i in range(1, 101)]
    found, area = risk_at_coverage(confidence, errors)
    assert dict(found) == pytest.approx({share: expected[round(100 * share) - 1] for share in SHARES})
    assert area == pytest.approx(np.mean(expected))


def test_area_of_a_perfect_ranking():
    errors = np.r_[np.zeros(70), np.ones(30)]
    expected = sum(i / (70 + i) for i in range(1, 31)) / 100
    assert risk_at_coverage(-np.arange(100.), errors)[1] == pytest.approx(expected)


def test_area_of_a_random_ranking_is_the_error_rate():
    rng = np.random.default_rng(2)
    errors = np.r_[np.zeros(150), np.ones(50)]
    assert np.mean([risk_at_coverage(rng.random(200), errors)[1] for _ in range(400)]) == pytest.approx(.25, abs=.01)


def test_equal_confidence_has_the_error_rate_at_every_share():
    found, area = risk_at_coverage(np.full(8, .5), np.array([1., 0, 0, 0, 0, 0, 1, 0]))
    assert {risk for _, risk in found} == {area} == {.25}


def test_a_single_image():
    assert risk_at_coverage(np.array([.5]), np.array([True])) == ([(share, 1.) for share in SHARES], 1.)
