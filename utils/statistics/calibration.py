"""Temperature scaling: one number, fitted on validation predictions, that makes the probabilities of a test honest.

On its own it keeps the predicted class of an image. The order of the images by the probability of a class may change where there are more
than two classes, and with it AUC, average precision and classwise ECE. A correction for the class frequencies takes logits for log
posteriors, so there the temperature comes first, and with it the corrected predictions change as well."""
import numpy as np
from scipy.optimize import brentq

from utils.prediction.inference import Predictions
from utils.prediction.predictions import PredictionTable
from utils.runs.results import CALIBRATED
from utils.statistics.weighted_metrics import WeightedMetrics

SMALLEST = 1e-38  # about the smallest normal float32: what a softmax rounds to 0 is no certainty
RANGE = (.05, 20.)  # of the temperature; validation images without any mistake would ask for 0


def apply_temperature(probs: np.ndarray, temperature: float, shift: float | np.ndarray = 0.) -> np.ndarray:
    """(N, K) -> softmax(log(probs) / temperature + shift), float64; without `shift` (K,) p^(1/T), normalised, and the same classes."""
    logits = np.log(np.maximum(np.asarray(probs, np.float64), SMALLEST)) / temperature + shift
    scaled = np.exp(logits - logits.max(axis=1, keepdims=True))
    return scaled / scaled.sum(axis=1, keepdims=True)


def fit_temperature(probs: np.ndarray, labels: np.ndarray, shift: float | np.ndarray = 0.) -> float:
    """The temperature T in 0.05..20 with the smallest negative log-likelihood of `labels` (N,) under softmax(log(probs) / T + shift)
    (Guo et al., ICML 2017). `shift` (K,) leads from the prior of `probs` to that of the labels; -inf is for classes without labels.

    The likelihood is convex in 1/T, so the root of its slope is the one minimum; without a root in the range, the minimum is the end to
    which the slope leads. Where every T is as good (all probabilities equal) it is 1."""
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
    """`Predictions` with scaled probabilities, of the same classes; their loss is left to the caller."""
    probs = apply_temperature(predictions.probs, temperature)
    return predictions._replace(probs=probs.astype(predictions.probs.dtype))


def figures_of(predictions: Predictions, class_names: list[str]) -> dict[str, float]:
    """Return the scores of labelled `predictions` that a temperature may change: those of CALIBRATED, as fractions, and 'nll'."""
    probs = np.asarray(predictions.probs, np.float64)
    table = PredictionTable(predictions.image_ids, predictions.labels, predictions.preds, probs,
                            class_names=class_names, patient_ids=None, path='')
    values = WeightedMetrics(table)(np.ones((len(probs), 1)))
    return {name: float(values['metrics', name][0]) for name in (*CALIBRATED.values(), 'nll')}
