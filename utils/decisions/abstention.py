"""Abstention: leave the least confident images to a person, and compare the errors on the others with the share that is left."""
from typing import NamedTuple

import numpy as np

SHARES = (1., .95, .9, .8, .7, .5)  # of the images, for risk against coverage


class Abstention(NamedTuple):
    """Images whose highest probability is below `threshold` are left undecided; these are `share` of the calibration images."""
    share: float
    threshold: float

    def is_unsure(self, probs: np.ndarray) -> np.ndarray:
        """Whether each image with probabilities (N, K) is left undecided, bool (N,)."""
        return np.asarray(probs).max(axis=1) < self.threshold


def fit_abstention(probs: np.ndarray, share: float) -> Abstention:
    """Choose the threshold for calibration images with probabilities (N, K), so that at most `share` of them are left undecided. Labels
    are not needed."""
    confidence = np.sort(np.asarray(probs, np.float64).max(axis=1))
    return Abstention(share, float(confidence[int(np.floor(share * len(confidence) + 1e-9))]))


def risk_curve(confidence: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Mean error of the i most confident images for i = 1..N, float64 (N,) (El-Yaniv & Wiener, JMLR 2010).

    `confidence` (N,); `errors` (N,): bool or costs. Images of equal confidence count with their mean error, so their order does not matter.
    """
    order = np.argsort(-confidence, kind='stable')
    place = np.unique(-confidence[order], return_inverse=True)[1]
    tied = (np.bincount(place, errors[order]) / np.bincount(place))[place]
    return np.cumsum(tied) / np.arange(1, len(tied) + 1)


def risk_at_coverage(confidence: np.ndarray, errors: np.ndarray) -> tuple[list[tuple[float, float]], float]:
    """-> (share of images, their risk) for each of SHARES, and the mean of `risk_curve` (AURC, Geifman et al., ICLR 2019)"""
    risk = risk_curve(confidence, errors)
    return [(share, float(risk[max(round(share * len(risk)), 1) - 1])) for share in SHARES], float(risk.mean())
