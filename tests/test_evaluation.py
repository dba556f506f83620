import math
import os

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from utils.evaluation import (
    METRICS,
    confusion_counts,
    confusion_text,
    evaluate_multi_cls,
    is_better,
    performance_text,
    recall_per_class,
    shot_recalls,
    training_is_ahead,
)
from utils.prediction.inference import Predictions


def random_case(seed, n=60, k=6, absent=()):
    rng = np.random.default_rng(seed)
    y = rng.choice([c for c in range(k) if c not in absent], n)
    probs = rng.dirichlet(np.ones(k), n).astype(np.float32)
    probs[np.arange(n), y] += rng.random(n).astype(np.float32)
    probs /= probs.sum(1, keepdims=True)
    return y, probs.argmax(1), probs


def kappa_by_hand(y, pred, k):
    observed = np.zeros((k, k))
    np.add.at(observed, (y, pred), 1 / len(y))
    expected = np.outer(observed.sum(1), observed.sum(0))
    weight = np.subtract.outer(np.arange(k), np.arange(k)) ** 2
    return 1 - (weight * observed).sum() / (weight * expected).sum()


@pytest.mark.parametrize('absent', [(), (2,), (0, 5)])
@pytest.mark.parametrize('seed', range(5))
def test_against_scikit_learn(seed, absent):
    y, pred, probs = random_case(seed, absent=absent)
    m = evaluate_multi_cls(y, pred, probs)
    assert m.mcc == pytest.approx(sk.matthews_corrcoef(y, pred), abs=1e-9)
    assert m.f1 == pytest.approx(sk.f1_score(y, pred, average='macro'), abs=1e-9)
    recalls = [np.mean(pred[y == c] == c) for c in np.unique(y)]
    assert m.bacc == pytest.approx(np.mean(recalls), abs=1e-9)
    assert m.acc == pytest.approx(sk.accuracy_score(y, pred), abs=1e-12)
    assert m.kappa == pytest.approx(kappa_by_hand(y, pred, 6), abs=1e-9)
    aucs = [np.mean([(p > q) + .5 * (p == q) for p in probs[y == c, c] for q in probs[y != c, c]]) for c in np.unique(y)]
    assert m.auc == pytest.approx(np.mean(aucs), abs=1e-9)
    assert len(m.auc_all) == len(m.f1_all) == 6 and all(math.isnan(m.auc_all[c]) for c in absent)


def test_absent_labels_keep_their_place_in_kappa():
    """Confusing 1 and 4 is worse on the scale 0..4 than on a scale without 2 and 3, which is the default of scikit-learn."""
    y, pred = np.array([0, 0, 1, 4, 1]), np.array([0, 1, 4, 4, 1])
    assert evaluate_multi_cls(y, pred, np.eye(5)[pred]).kappa == pytest.approx(kappa_by_hand(y, pred, 5))
    assert kappa_by_hand(y, pred, 5) != pytest.approx(sk.cohen_kappa_score(y, pred, weights='quadratic'))


def test_one_class_and_one_image():
    m = evaluate_multi_cls(np.array([1, 1]), np.array([1, 1]), np.array([[.1, .9], [.2, .8]]))
    assert math.isnan(m.auc) and m.bacc == 1 and m.f1 == 1 and m.mcc == 0
    assert evaluate_multi_cls(np.array([0]), np.array([2]), np.array([[.1, .2, .7]])).bacc == 0


def test_metrics_unpack_into_the_seven_values_of_the_original():
    m = evaluate_multi_cls(*random_case(0))
    auc, kappa, mcc, f1, bacc, auc_all, f1_all = m
    assert (auc, kappa, mcc, f1, bacc, auc_all, f1_all) == (m.auc, m.kappa, m.mcc, m.f1, m.bacc, m.auc_all, m.f1_all)


def test_choices_of_the_metric_flag():
    assert METRICS == ('auc', 'kappa', 'mcc', 'f1', 'bacc', 'acc', 'loss')


def test_direction():
    assert is_better('mcc', .5, .4) and not is_better('mcc', .4, .4) and is_better('loss', .4, .5) and not is_better('loss', .5, .4)
    assert is_better('kappa', -.2, math.nan) and not is_better('kappa', math.nan, -.2) and is_better('mcc', 0., -.1)


def test_training_is_ahead_beyond_chance():
    assert not training_is_ahead('mcc', .53, .50, 319, 319) and training_is_ahead('mcc', .55, .50, 319, 319)
    assert training_is_ahead('kappa', .52, .50, 3500, 3500)
    assert training_is_ahead('loss', .49, .50, 319, 319) and not training_is_ahead('loss', .51, .50, 319, 319)
    difference = np.diff(np.random.default_rng(0).binomial(319, .5, (4000, 2)) / 319)  # equal expectation
    ahead = np.mean([training_is_ahead('bacc', float(d), 0., 319, 319) for d in difference.ravel()])
    assert ahead == pytest.approx(.16, abs=.03)  # probability of a difference above one standard error


def test_shot_groups_by_training_counts():
    recalls = np.array([.9, .8, .6, np.nan, .1])
    assert shot_recalls(recalls, [101, 100, 20, 50, 19]) == {'many': .9, 'medium': pytest.approx(.7), 'few': .1}
    assert shot_recalls(recalls, [200] * 5)['few'] is None


@pytest.mark.parametrize('absent', [(), (2,), (0, 5)])
@pytest.mark.parametrize('n', [1, 60])
def test_confusion_counts_against_scikit_learn(n, absent):
    y, pred, _ = random_case(0, n, absent=absent)
    np.testing.assert_array_equal(confusion_counts(y, pred, 6), sk.confusion_matrix(y, pred, labels=range(6)))


def test_confusion_counts_of_lists():
    assert confusion_counts([0, 1, 1], [0, 1, 0], 2).tolist() == [[1, 0], [1, 1]]


def test_original_confusion_of_eyepacs(real_data):
    """The published confusion matrix of 53,576 images gives the published scores."""
    table = pd.read_csv(os.path.join(real_data, 'labels', 'eyepacs_bmu01_confusion.csv'), index_col=0).to_numpy()
    y, pred = (np.repeat(index.ravel(), table.ravel()) for index in np.indices(table.shape))
    m = evaluate_multi_cls(y, pred, np.eye(5)[pred])
    assert (round(100 * m.kappa, 2), round(100 * m.mcc, 2), round(100 * m.bacc, 2)) == (78.87, 61.70, 52.17)
    np.testing.assert_allclose(recall_per_class(y, pred, 5), table.diagonal() / table.sum(1))


def test_performance_text():
    y, pred, probs = random_case(1, k=3)
    p = Predictions(pred, probs, y, .5, [''] * len(y))
    m = evaluate_multi_cls(y, pred, probs)
    lines = performance_text(m, p, ['a', 'b', 'c'], lr=.01).splitlines()
    assert lines[0] == (f'K={100 * m.kappa:.2f} - BACC={100 * m.bacc:.2f} - MCC={100 * m.mcc:.2f} - F1={100 * m.f1:.2f} - '
                        f'AUC={100 * m.auc:.2f} - Loss=0.5000 - LR=0.01000')
    assert lines[1] == 'AUC: ' + ' - '.join(f'{n}={100 * a:.2f}' for n, a in zip('abc', m.auc_all, strict=True))
    matrix = np.array([[int(cell) for cell in line.split()[1:]] for line in lines[4:7]])
    np.testing.assert_array_equal(matrix, sk.confusion_matrix(y, pred, labels=range(3)))
    assert confusion_text(y, pred, ['a long name'] * 3).splitlines()[0].split() == ['t/p', '0', '1', '2']
