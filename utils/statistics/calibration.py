"""Temperature scaling: calibrate probabilities with one number that is fitted on validation predictions.

On its own, it does not change the predicted classes. With more than two classes, it can change how images rank by the probability of a
class, and therefore AUC, average precision and classwise ECE. Corrections of the class prior assume that logits are log posteriors, so the
temperature is applied before them and affects the corrected predictions."""
from typing import TYPE_CHECKING

import numpy as np

from utils.prediction.predictions import PredictionTable
from utils.runs.results import CALIBRATED
from utils.statistics.weighted_metrics import WeightedMetrics

if TYPE_CHECKING:  # its import of torch takes seconds
    from utils.prediction.inference import Predictions

SMALLEST = 1e-38  # about the smallest normal float32; replaces probabilities that softmax has rounded to 0
RIDGE = .01  # precision of the normal prior of biases
RANGE = (.05, 20.)  # of the temperature; without any error on the validation images, the optimum would be 0


def apply_temperature(probs: np.ndarray, temperature: float, shift: float | np.ndarray = 0.) -> np.ndarray:
    """(N, K) -> softmax(log(probs) / temperature + shift), float64. Without `shift` (K,), this is p^(1/T), normalised, and the predicted
    classes do not change."""
    logits = np.log(np.maximum(np.asarray(probs, np.float64), SMALLEST)) / temperature + shift
    scaled = np.exp(logits - logits.max(axis=1, keepdims=True))
    return scaled / scaled.sum(axis=1, keepdims=True)


def fit_temperature(probs: np.ndarray, labels: np.ndarray, shift: float | np.ndarray = 0.) -> float:
    """Find the temperature T in 0.05..20 that minimises the negative log-likelihood of `labels` (N,) under softmax(log(probs) / T + shift)
    (Guo et al., ICML 2017). `shift` (K,) changes the prior of `probs` to that of the labels; it is -inf for classes without labels.

    The negative log-likelihood is convex in 1/T, so a root of its derivative is the only minimum. Without a root in the range, the minimum
    is at one of its ends. If every T is equally good (all probabilities are equal), the result is 1."""
    from scipy.optimize import brentq  # imported here: few tests calibrate
    labels = np.asarray(labels)
    logits = np.log(np.maximum(np.asarray(probs, np.float64), SMALLEST))
    of_label = logits[np.arange(len(labels)), labels].mean()

    def slope(log_t):
        return (apply_temperature(probs, np.exp(log_t), shift) * logits).sum(axis=1).mean() - of_label

    low, high = np.log(RANGE)
    ends = slope(low), slope(high)
    if max(map(abs, ends)) < 1e-12:
        return 1.
    if ends[0] <= 0 or ends[1] >= 0:
        return RANGE[0] if ends[0] <= 0 else RANGE[1]
    return float(np.exp(brentq(slope, low, high, xtol=1e-10)))


def fit_bias_corrected(probs: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None,
                       start: np.ndarray | None = None) -> tuple[float, np.ndarray]:
    """Fit softmax(log(probs) / T + bias): a temperature T and a bias for each class, (K,), by maximum likelihood (bias-corrected
    temperature scaling, Alexandari et al., ICML 2020). The mean probability of each class is then nearly its frequency in `labels` (N,).

    `weights` (N,): how often each image counts; `start`: (1 / T, biases), a first guess. The likelihood is concave in 1 / T and the biases.
    A weak normal prior keeps biases finite if classes are separated perfectly. Absent classes get the bias 0, which means nothing.
    """
    from scipy.optimize import minimize  # imported here: few tests calibrate
    labels = np.asarray(labels)
    logits = np.log(np.maximum(np.asarray(probs, np.float64), SMALLEST))
    weights = np.ones(len(labels)) if weights is None else weights
    labels, logits, weights = (each[weights > 0] for each in (labels, logits, weights))
    present = np.bincount(labels, minlength=logits.shape[1]) > 0
    truth = np.eye(logits.shape[1])[labels]

    def loss(parameters):
        inverse, bias = parameters[0], parameters[1:]
        z = np.where(present, inverse * logits + bias, -np.inf)
        z = z - z.max(axis=1, keepdims=True)
        total = np.exp(z).sum(axis=1, keepdims=True)
        error = (np.exp(z) / total - truth) * weights[:, None]
        value = -(weights * (z[np.arange(len(labels)), labels] - np.log(total[:, 0]))).sum() + RIDGE / 2 * (bias ** 2).sum()
        return value, np.append((error * logits).sum(), error.sum(axis=0) + RIDGE * bias)
    first = np.append(1., np.zeros(len(present))) if start is None else start
    found = minimize(loss, first, jac=True, method='L-BFGS-B', bounds=[(1 / RANGE[1], 1 / RANGE[0])] + [(None, None)] * len(present))
    return float(1 / found.x[0]), np.where(present, found.x[1:], 0.)


def scaled(predictions: 'Predictions', temperature: float) -> 'Predictions':
    """`Predictions` with scaled probabilities and the same classes. The caller updates their loss."""
    probs = apply_temperature(predictions.probs, temperature)
    return predictions._replace(probs=probs.astype(predictions.probs.dtype))


def figures_of(predictions: 'Predictions', class_names: list[str]) -> dict[str, float]:
    """Return the scores of labelled `predictions` that a temperature may change: those of CALIBRATED, as fractions, and 'nll'."""
    probs = np.asarray(predictions.probs, np.float64)
    table = PredictionTable(predictions.image_ids, predictions.labels, predictions.preds, probs,
                            class_names=class_names, patient_ids=None, path='')
    values = WeightedMetrics(table)(np.ones((len(probs), 1)))
    return {name: float(values['metrics', name][0]) for name in (*CALIBRATED.values(), 'nll')}
