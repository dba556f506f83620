"""Points of curves compared with scikit-learn, with ties, absent and constant classes."""
import numpy as np
import pytest
from sklearn import metrics as sk

from tests.factories import random_table
from utils.evaluation import confusion_counts
from utils.statistics import curves
from utils.statistics.bootstrap import bootstrap_metrics


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('seed', range(4))
def test_roc_and_precision_recall(seed, ties):
    table = random_table(seed, ties=ties)
    for c in range(5):
        positive, scores = table.labels == c, table.probs[:, c]
        fpr, tpr, _ = sk.roc_curve(positive, scores, drop_intermediate=False)
        np.testing.assert_allclose(curves.roc_curve(scores, positive), (fpr, tpr), atol=1e-12)
        precision, recall, _ = sk.precision_recall_curve(positive, scores)
        np.testing.assert_allclose(curves.pr_curve(scores, positive), (recall[-2::-1], precision[-2::-1]), atol=1e-12)


def test_undefined_curves():
    scores, none, every = np.array([.1, .2]), np.array([False, False]), np.array([True, True])
    assert curves.roc_curve(scores, none) is None and curves.roc_curve(scores, every) is None and curves.pr_curve(scores, none) is None
    np.testing.assert_array_equal(curves.pr_curve(scores, every), [[.5, 1], [1, 1]])


def test_a_thinned_curve_looks_the_same():
    rng = np.random.default_rng(0)
    positive = rng.random(50_000) < .02
    scores = rng.normal(positive * 1.5)
    x, y = curves.roc_curve(scores, positive)
    fpr, tpr, _ = sk.roc_curve(positive, scores, drop_intermediate=False)
    assert len(x) <= 200 and (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert set(zip(x, y, strict=True)) <= set(zip(fpr, tpr, strict=True))  # a subset of the points of the curve
    assert (np.diff(x) + np.diff(y)).max() < .015  # about 1 % of the plot between neighbouring points
    assert sk.auc(x, y) == pytest.approx(sk.roc_auc_score(positive, scores), abs=2e-3)


@pytest.mark.parametrize('ties', [False, True])
def test_reliability_matches_the_ece(ties):
    table = random_table(1, n=300, ties=ties)
    curve = curves.reliability(table)
    some = curve.counts > 0
    gap = (curve.counts * np.abs(curve.accuracy - curve.confidence))[some].sum() / 300
    assert curve.counts.sum() == 300 and gap == pytest.approx(bootstrap_metrics(table, 100)['metrics']['ece']['value'], abs=1e-12)


def test_rows_of_the_confusion_matrix_sum_to_one():
    table = random_table(2, absent=(3,))
    shares = curves.row_shares(confusion_counts(table.labels, table.preds, 5))
    assert np.isnan(shares[3]).all() and np.delete(shares, 3, 0).sum(1) == pytest.approx(1)


def test_the_most_confident_mistakes_come_first():
    table = random_table(3)
    rows = curves.confident_mistakes(table, 5)
    sure = table.probs.max(1)
    assert (table.preds[rows] != table.labels[rows]).all() and len(rows) == 5
    assert sure[rows].tolist() == sorted(sure[table.preds != table.labels], reverse=True)[:5]
    right = table._replace(preds=table.labels)
    assert len(curves.confident_mistakes(right)) == 0
