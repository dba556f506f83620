"""Points of the curves and plots for one predictions csv. The scores themselves are in weighted_metrics.py."""
from typing import NamedTuple

import numpy as np

from utils.prediction.predictions import PredictionTable
from utils.statistics.weighted_metrics import N_BINS, bins_of


class Reliability(NamedTuple):
    confidence: np.ndarray  # mean confidence of each bin, (N_BINS,), NaN where the bin is empty
    accuracy: np.ndarray  # of the images in each bin
    counts: np.ndarray  # images in each bin
    edges: np.ndarray  # (N_BINS + 1,)


def row_shares(counts: np.ndarray) -> np.ndarray:
    """Each row divided by its sum; NaN for a class without images."""
    with np.errstate(invalid='ignore'):
        return counts / counts.sum(axis=1, keepdims=True)


def _thresholds(scores, positive):
    """Numbers of positives and of images at or above each distinct score, from the highest down: (T,), (T,)."""
    order = np.argsort(-scores, kind='stable')
    last_of_equals = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    return np.cumsum(positive[order])[last_of_equals], last_of_equals + 1


def thin(x: np.ndarray, y: np.ndarray, most: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Keep about `most` points, spread evenly along the line, including its ends: more cannot be seen in a plot."""
    if len(x) <= most:
        return x, y
    length = np.concatenate([[0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    keep = np.unique(np.append(np.searchsorted(length, np.linspace(0, length[-1], most - 1)), len(x) - 1))
    return x[keep], y[keep]


def roc_curve(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """`scores` (N,), `positive` bool (N,) -> false and true positive rates from (0, 0) to (1, 1); None unless there are positives and
    negatives."""
    n_positive = positive.sum()
    if n_positive in (0, len(positive)):
        return None
    true, called = _thresholds(scores, positive)
    return thin(np.append(0., (called - true) / (len(positive) - n_positive)), np.append(0., true / n_positive))


def pr_curve(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """-> recall and precision, from the highest threshold down; None without positives"""
    if not positive.any():
        return None
    true, called = _thresholds(scores, positive)
    return thin(true / positive.sum(), true / called)


def reliability(table: PredictionTable) -> Reliability:
    """Reliability of the confidence in the predicted class, in bins of equal width: see `bins_of`."""
    top, right = table.probs[np.arange(len(table.preds)), table.preds], table.preds == table.labels
    of_bin = bins_of(top)
    counts = np.bincount(of_bin, minlength=N_BINS)
    with np.errstate(invalid='ignore'):
        confidence, accuracy = (np.bincount(of_bin, values, N_BINS) / counts for values in (top, right))
    return Reliability(confidence, accuracy, counts, np.linspace(0, 1, N_BINS + 1))


def confident_mistakes(table: PredictionTable, most: int = 24) -> np.ndarray:
    """Row numbers of wrong predictions, sorted by the probability of the predicted class, highest first."""
    wrong = np.flatnonzero(table.preds != table.labels)
    return wrong[np.argsort(-table.probs[wrong, table.preds[wrong]], kind='stable')][:most]
