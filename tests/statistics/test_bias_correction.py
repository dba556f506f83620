"""Bias-corrected temperature scaling: conditions of the maximum, other optimisers, weights, and classes that are absent or separated."""
import warnings

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from utils.statistics.calibration import RANGE, RIDGE, apply_temperature, fit_bias_corrected

CASES = [(2, 100), (3, 500), (5, 2000), (23, 3000)]


def network(k, n, seed=0, sharpness=3.):
    """Overconfident and biased probabilities, labels that are drawn from the true posterior, and the biases."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 2, (n, k)) - 1.5 * np.log(np.arange(1, k + 1))
    bias = rng.normal(size=k)
    labels = (softmax(z, axis=1).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, k - 1)
    return softmax(sharpness * z + bias, axis=1), labels, bias


def objective(parameters, probs, labels, weights=None):
    log_p = log_softmax(parameters[0] * np.log(probs) + parameters[1:], axis=1)[np.arange(len(labels)), labels]
    return -(log_p if weights is None else weights * log_p).sum() + RIDGE / 2 * (parameters[1:] ** 2).sum()


@pytest.mark.parametrize(('k', 'n'), CASES)
def test_mean_probabilities_are_the_class_frequencies(k, n):
    probs, labels, _ = network(k, n)
    temperature, bias = fit_bias_corrected(probs, labels)
    found = apply_temperature(probs, temperature, bias).mean(axis=0)
    assert found == pytest.approx(np.bincount(labels, minlength=k) / n, abs=1e-4)


@pytest.mark.parametrize(('k', 'n'), CASES)
def test_mean_log_probabilities_are_those_of_the_labels(k, n):
    probs, labels, _ = network(k, n)
    temperature, bias = fit_bias_corrected(probs, labels)
    expected = (apply_temperature(probs, temperature, bias) * np.log(probs)).sum(axis=1).mean()
    assert expected == pytest.approx(np.log(probs[np.arange(n), labels]).mean(), abs=1e-3)


@pytest.mark.parametrize(('k', 'n'), CASES[:3])
def test_against_another_optimiser(k, n):
    probs, labels, _ = network(k, n, seed=1)
    temperature, bias = fit_bias_corrected(probs, labels)
    found = minimize(objective, np.append(1., np.zeros(k)), (probs, labels), method='BFGS', options={'gtol': 1e-4})
    assert 1 / temperature == pytest.approx(found.x[0], rel=1e-3)
    assert bias == pytest.approx(found.x[1:], abs=3e-3)


def test_finds_the_true_temperature_and_biases():
    probs, labels, true_bias = network(4, 20_000)
    temperature, bias = fit_bias_corrected(probs, labels)
    expected = -true_bias / 3
    assert temperature == pytest.approx(3, rel=.03)
    assert bias - bias.mean() == pytest.approx(expected - expected.mean(), abs=.1)


def test_no_small_step_is_better():
    probs, labels, _ = network(5, 400, seed=2)
    temperature, bias = fit_bias_corrected(probs, labels)
    best, rng = np.append(1 / temperature, bias), np.random.default_rng(0)
    value = objective(best, probs, labels)
    assert all(objective(best + rng.normal(0, .02, 6), probs, labels) > value for _ in range(50))


@pytest.mark.parametrize('absent', [0, 3])
def test_an_absent_class(absent):
    probs, labels, _ = network(4, 800, seed=3)
    rows, others = labels != absent, np.arange(4) != absent
    temperature, bias = fit_bias_corrected(probs[rows], labels[rows])
    kept = probs[rows][:, others]
    expected = fit_bias_corrected(kept / kept.sum(axis=1, keepdims=True), np.unique(labels[rows], return_inverse=True)[1])
    assert bias[absent] == 0 and temperature == pytest.approx(expected[0], rel=1e-3)
    assert bias[others] - bias[others].mean() == pytest.approx(expected[1] - expected[1].mean(), abs=1e-2)


@pytest.mark.parametrize('n', [1, 50])
def test_a_single_class(n):
    temperature, bias = fit_bias_corrected(network(3, n)[0], np.full(n, 2))
    assert RANGE[0] <= temperature <= RANGE[1] and np.isfinite(bias).all()


@pytest.mark.parametrize('certainty', [.5, .999, 1.])
def test_separated_classes_stay_finite(certainty):
    labels = np.repeat([0, 1, 2], [100, 20, 1])
    temperature, bias = fit_bias_corrected(certainty * np.eye(3)[labels] + (1 - certainty) / 3, labels)
    assert RANGE[0] <= temperature <= RANGE[1] and np.abs(bias).max() < 50


def test_constant_probabilities_become_the_class_frequencies():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    probs = np.full((100, 3), 1 / 3)
    assert apply_temperature(probs, *fit_bias_corrected(probs, labels)) == pytest.approx(np.tile([.6, .3, .1], (100, 1)), abs=1e-3)


def test_certain_and_wrong_predictions_are_flattened():
    labels = np.repeat([0, 1, 2], 50)
    probs = np.eye(3)[np.r_[labels[:-30], (labels[-30:] + 1) % 3]]
    temperature, bias = fit_bias_corrected(probs, labels)
    assert apply_temperature(probs, temperature, bias).mean(axis=0) == pytest.approx(np.full(3, 1 / 3), abs=1e-3)


def test_weights_repeat_images():
    probs, labels, _ = network(4, 500, seed=4)
    weights = np.random.default_rng(0).integers(0, 4, 500)
    temperature, bias = fit_bias_corrected(probs, labels, weights.astype(float))
    expected = fit_bias_corrected(np.repeat(probs, weights, axis=0), np.repeat(labels, weights))
    assert temperature == pytest.approx(expected[0], rel=1e-3) and bias == pytest.approx(expected[1], abs=1e-3)


def test_the_start_does_not_matter():
    probs, labels, _ = network(4, 500, seed=5)
    temperature, bias = fit_bias_corrected(probs, labels)
    other = fit_bias_corrected(probs, labels, start=np.array([2., 1, -1, 2, 0]))
    assert other[0] == pytest.approx(temperature, rel=1e-3)
    assert other[1] - other[1].mean() == pytest.approx(bias - bias.mean(), abs=3e-3)  # a constant changes no probability


@pytest.mark.parametrize('seed', range(3))
def test_a_class_of_weight_0_is_as_an_absent_class(seed):
    probs, labels, _ = network(4, 400, seed=seed)
    weights, rows = np.where(labels == 2, 0., np.random.default_rng(0).poisson(1, 400)), labels != 2
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        temperature, bias = fit_bias_corrected(probs, labels, weights)
    expected = fit_bias_corrected(probs[rows], labels[rows], weights[rows])
    assert temperature == pytest.approx(expected[0], rel=1e-3) and bias == pytest.approx(expected[1], abs=3e-3)


def test_single_precision():
    probs, labels, _ = network(3, 400, seed=6)
    temperature, bias = fit_bias_corrected(probs.astype(np.float32), labels)
    expected = fit_bias_corrected(probs, labels)
    assert temperature == pytest.approx(expected[0], rel=1e-3) and bias == pytest.approx(expected[1], abs=1e-3)
