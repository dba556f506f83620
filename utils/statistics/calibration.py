"""Temperature scaling: calibrate probabilities with one number that is fitted on validation predictions.

On its own, it does not change the predicted classes. With more than two classes, it can change how images rank by the probability of a
class, and therefore AUC, average precision and classwise ECE. Corrections of the class prior assume that logits are log posteriors, so the
temperature is applied before them and affects the corrected predictions."""
import numpy as np

from utils.prediction.inference import Predictions
from utils.prediction.predictions import PredictionTable
from utils.runs.results import CALIBRATED
from utils.statistics.weighted_metrics import WeightedMetrics

SMALLEST = 1e-38  # about the smallest normal float32; replaces probabilities that softmax has rounded to 0
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


def scaled(predictions: Predictions, temperature: float) -> Predictions:
    """`Predictions` with scaled probabilities and the same classes. The caller updates their loss."""
    probs = apply_temperature(predictions.probs, temperature)
    return predictions._replace(probs=probs.astype(predictions.probs.dtype))


def figures_of(predictions: Predictions, class_names: list[str]) -> dict[str, float]:
    """Return the scores of labelled `predictions` that a temperature may change: those of CALIBRATED, as fractions, and 'nll'."""
    probs = np.asarray(predictions.probs, np.float64)
    table = PredictionTable(predictions.image_ids, predictions.labels, predictions.preds, probs,
                            class_names=class_names, patient_ids=None, path='')
    values = WeightedMetrics(table)(np.ones((len(probs), 1)))
    return {name: float(values['metrics', name][0]) for name in (*CALIBRATED.values(), 'nll')}
