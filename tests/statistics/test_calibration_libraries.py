"""Calibration scores and temperatures of this project beside those of torchmetrics, netcal and scikit-learn.

The libraries agree with Guo et al. (ICML 2017) and with this project, except for these conventions. The tests below avoid them, or compare
with the definition of the paper instead.

| case | paper and this project | torchmetrics | netcal |
|---|---|---|---|
| confidence on the edge of two bins | lower bin, (a, b] | upper bin, [a, b) | upper bin, [a, b) |
| confidence of exactly 1 | last bin | a 16th bin of its own | last bin |
| two classes, or labels of two classes only | confidence of the predicted class | the same | probability of class 1, or an error |
| precision | float64 | float32 | that of the input |

A probability of exactly 0 is in no bin of the paper. All three put it into the first one. For labels of two classes, netcal is given the
confidence and whether the prediction is right, which is the same question.
"""
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.metrics import brier_score_loss, log_loss

from tests.factories import random_table
from utils.prediction.predictions import PredictionTable
from utils.statistics.calibration import SMALLEST, fit_temperature
from utils.statistics.weighted_metrics import N_BINS, WeightedMetrics

SEEDS = range(4)
FLOAT32, FLOAT64 = 2e-6, 1e-12  # tolerances


def predictions(seed, n_classes=5, absent=(), power=1.5):
    """Random predictions of 400 images; `power` makes them too certain."""
    table = random_table(seed, n=400, absent=absent, names=[f'C{c}' for c in range(n_classes)])
    probs = table.probs ** power
    return table._replace(probs=probs / probs.sum(1, keepdims=True))


def table_of(probs, labels):
    probs = np.asarray(probs, float)
    return PredictionTable([str(i) for i in range(len(probs))], np.array(labels), probs.argmax(1), probs,
                           [f'C{c}' for c in range(probs.shape[1])], None, 'x.csv')


def rounded(seed):
    """Predictions of three classes with probabilities of exactly 0 and 1, and no other edge of two bins. Some true classes have 0."""
    rng = np.random.default_rng(seed)
    probs = rng.permuted(np.array([[1, 0, 0], [.72, .28, 0], [.5, .31, .19]])[rng.integers(0, 3, 300)], axis=1)
    drawn = (probs.cumsum(1) < rng.random((300, 1))).sum(1)
    return table_of(probs, np.where(rng.random(300) < .02, rng.integers(0, 3, 300), drawn))


CASES = [*(pytest.param(lambda seed=seed: predictions(seed), id=f'seed {seed}') for seed in SEEDS),
         *(pytest.param(lambda seed=seed: predictions(seed, absent=(1,)), id=f'absent class, seed {seed}') for seed in SEEDS[:2]),
         *(pytest.param(lambda seed=seed: predictions(seed, 3, absent=(2,)), id=f'labels of 2 of 3 classes, seed {seed}')
           for seed in SEEDS[:2]),
         *(pytest.param(lambda seed=seed: predictions(seed, 2), id=f'two classes, seed {seed}') for seed in SEEDS[:2]),
         pytest.param(lambda: predictions(0, 40), id='40 classes'), pytest.param(lambda: predictions(0, power=.2), id='uncertain')]
CERTAIN = [pytest.param(lambda seed=seed: rounded(seed), id=f'0 and 1, seed {seed}') for seed in SEEDS[:2]]


def score(table, name):
    return WeightedMetrics(table)(np.ones((len(table.probs), 1)))['metrics', name][0]


def one_hot(table):
    return np.eye(table.probs.shape[1])[table.labels]


# The libraries. netcal imports pyro, and both take seconds: they are imported by the tests that run, not when pytest collects them.

def torchmetrics_ece(table):
    from torchmetrics.functional.classification import multiclass_calibration_error
    probs = torch.from_numpy(table.probs)
    return multiclass_calibration_error(probs, torch.from_numpy(table.labels), probs.shape[1], n_bins=15, norm='l1').item()


def torchmetrics_classwise_ece(table):
    from torchmetrics.functional.classification import binary_calibration_error
    return np.mean([binary_calibration_error(torch.tensor(p), torch.tensor(y), n_bins=15, norm='l1').item()
                    for p, y in zip(table.probs.T, one_hot(table).T.astype(int), strict=True)])


def netcal_ece(table):
    from netcal.metrics import ECE
    if len(np.unique(table.labels)) > 2:
        return ECE(15).measure(table.probs, table.labels)
    return ECE(15).measure(table.probs.max(1), (table.preds == table.labels).astype(int))


def netcal_classwise_ece(table):
    from netcal.metrics import ECE
    return np.mean([ECE(15).measure(p, y) for p, y in zip(table.probs.T, one_hot(table).T.astype(int), strict=True)])


def netcal_temperature(table):
    from netcal.scaling import TemperatureScaling
    scaling = TemperatureScaling()
    scaling.fit(table.probs, table.labels)
    return 1 / scaling.temperature.item()  # netcal fits the factor of the logits


def ece_of_the_paper(confidences, correct):
    """Sum over the bins B_m = ((m - 1) / 15, m / 15] of |B_m| / n |acc(B_m) - conf(B_m)|, for Fractions. Equations 2 to 4 of the paper."""
    total = Fraction(0)
    for m in range(1, 16):
        members = [i for i, p in enumerate(confidences) if Fraction(m - 1, 15) < p <= Fraction(m, 15)]
        total += abs(sum(correct[i] for i in members) - sum(confidences[i] for i in members))
    return float(total / len(confidences))


def test_the_number_of_bins_is_that_of_the_paper():
    assert N_BINS == 15


@pytest.mark.parametrize('case', CASES)
def test_ece_is_that_of_torchmetrics(case):
    assert score(case(), 'ece') == pytest.approx(torchmetrics_ece(case()), abs=FLOAT32)


@pytest.mark.parametrize('case', [*CASES, *CERTAIN])
def test_ece_is_that_of_netcal(case):
    assert score(case(), 'ece') == pytest.approx(netcal_ece(case()), abs=FLOAT64)


@pytest.mark.parametrize('case', CASES)
def test_classwise_ece_is_that_of_torchmetrics(case):
    assert score(case(), 'classwise_ece') == pytest.approx(torchmetrics_classwise_ece(case()), abs=FLOAT32)


@pytest.mark.parametrize('case', [*CASES, *CERTAIN])
def test_classwise_ece_is_that_of_netcal(case):
    assert score(case(), 'classwise_ece') == pytest.approx(netcal_classwise_ece(case()), abs=FLOAT64)


# Bin edges

def on_edges(seed):
    """Confidences of exactly m / 15 for two classes, m = 8..15, as Fractions, and whether each prediction is correct."""
    rng = np.random.default_rng(seed)
    return [Fraction(int(m), 15) for m in rng.integers(8, 16, 300)], rng.random(300) < .7


def table_on_edges(seed):
    confidences, correct = on_edges(seed)
    return table_of([[float(p), float(1 - p)] for p in confidences], np.where(correct, 0, 1))


@pytest.mark.parametrize('seed', SEEDS)
def test_ece_on_bin_edges_is_that_of_the_paper(seed):
    confidences, correct = on_edges(seed)
    assert score(table_on_edges(seed), 'ece') == pytest.approx(ece_of_the_paper(confidences, correct.astype(int).tolist()), abs=FLOAT64)


@pytest.mark.parametrize('seed', SEEDS)
def test_ece_with_probabilities_of_0_and_1_is_that_of_the_paper(seed):
    table = rounded(seed)
    confidences, correct = [Fraction(p) for p in table.probs.max(1)], (table.preds == table.labels).astype(int).tolist()
    assert score(table, 'ece') == pytest.approx(ece_of_the_paper(confidences, correct), abs=FLOAT64)


def test_a_confidence_on_an_edge_belongs_to_the_lower_bin():
    table = table_of([[.75, .25], [.8, .2]], [0, 1])  # one bin, (11/15, 12/15]: |1 - 1.55| / 2
    assert score(table, 'ece') == pytest.approx(.275, abs=FLOAT64)


@pytest.mark.parametrize('ece', [torchmetrics_ece, netcal_ece])
def test_libraries_put_it_into_the_upper_bin(ece):
    table = table_of([[.75, .25], [.8, .2]], [0, 1])  # two bins: (|1 - .75| + |0 - .8|) / 2
    assert ece(table) == pytest.approx(.525, abs=FLOAT32)


def test_a_confidence_of_1_belongs_to_the_last_bin():
    table = table_of([[1, 0], [.95, .05]], [1, 0])  # |1 - 1.95| / 2
    assert score(table, 'ece') == pytest.approx(.475, abs=FLOAT64)


def test_torchmetrics_gives_a_confidence_of_1_a_bin_of_its_own():
    table = table_of([[1, 0], [.95, .05]], [1, 0])  # (|0 - 1| + |1 - .95|) / 2
    assert torchmetrics_ece(table) == pytest.approx(.525, abs=FLOAT32)


# Brier score and NLL

@pytest.mark.parametrize('case', [*CASES, *CERTAIN])
def test_brier_score_is_that_of_scikit_learn(case):
    table = case()
    labels = range(table.probs.shape[1])
    probs = table.probs if len(labels) > 2 else table.probs[:, 1]
    assert score(table, 'brier') == pytest.approx(
        brier_score_loss(table.labels, probs, labels=labels, scale_by_half=False), abs=FLOAT64)


@pytest.mark.parametrize('case', [*CASES, *CERTAIN])
def test_brier_score_is_the_squared_error_of_torchmetrics(case):
    from torchmetrics.functional import mean_squared_error
    table = case()
    found = mean_squared_error(torch.from_numpy(table.probs), torch.from_numpy(one_hot(table)), num_outputs=table.probs.shape[1])
    assert score(table, 'brier') == pytest.approx(found.sum().item(), abs=FLOAT64)


@pytest.mark.parametrize('case', [*CASES, *CERTAIN])
def test_nll_is_that_of_scikit_learn(case):
    table = case()
    assert score(table, 'nll') == pytest.approx(log_loss(table.labels, table.probs, labels=range(table.probs.shape[1])), abs=1e-10)


@pytest.mark.parametrize('case', CASES)
def test_nll_is_the_log_perplexity_of_torchmetrics(case):
    from torchmetrics.functional.text import perplexity
    table = case()
    found = perplexity(torch.from_numpy(np.log(table.probs))[None], torch.from_numpy(table.labels)[None])
    assert score(table, 'nll') == pytest.approx(found.log().item(), abs=FLOAT32)


# Temperature

@pytest.mark.parametrize('case', CASES)
def test_temperature_is_that_of_netcal(case):
    """netcal minimises over 1/T with L-BFGS-B and numerical gradients, so its temperature has about four digits."""
    table = case()
    assert fit_temperature(table.probs, table.labels) == pytest.approx(netcal_temperature(table), rel=3e-4)


@pytest.mark.parametrize('case', CASES)
def test_nll_at_the_temperature_is_at_most_that_of_netcal(case):
    table = case()

    def nll(temperature):
        return log_loss(table.labels, softmax(np.log(table.probs) / temperature, axis=1), labels=range(table.probs.shape[1]))
    assert nll(fit_temperature(table.probs, table.labels)) <= nll(netcal_temperature(table)) + FLOAT64


@pytest.mark.parametrize('seed', SEEDS)
def test_temperature_with_probabilities_of_0_is_the_minimum(seed):
    """No comparison with netcal: it replaces 0 by 2e-16 and this project by 1e-38, which gives other temperatures."""
    table = rounded(seed)
    logits, t = np.log(np.maximum(table.probs, SMALLEST)), fit_temperature(table.probs, table.labels)
    nll = [-log_softmax(logits / s, axis=1)[np.arange(300), table.labels].mean() for s in t * np.array([.99, 1, 1.01])]
    assert nll[1] < nll[0] and nll[1] < nll[2]
