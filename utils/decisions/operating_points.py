"""Operating points: thresholds for a wanted sensitivity or specificity, chosen on validation images and applied to others."""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from utils.statistics.ranking import Ranking

AIMS = {'specificity_at_sensitivity': 'sensitivity', 'sensitivity_at_specificity': 'specificity'}


class OperatingPoint(NamedTuple):
    """An image is positive if the summed probability of the classes `first`..`last` is at least `threshold`.

    The threshold was chosen to reach `level` of the `aim`, sensitivity or specificity, on `n` calibration images of these classes.
    """
    name: str
    first: int
    last: int
    aim: str
    level: float
    threshold: float
    n: int

    def score(self, probs: np.ndarray) -> np.ndarray:
        """Summed probability of the positive classes, (N,), for probabilities (N, K)."""
        return np.asarray(probs, np.float64)[:, self.first:self.last + 1].sum(axis=1)

    def is_positive(self, labels: np.ndarray) -> np.ndarray:
        """Whether each of the labels (N,) is one of the positive classes."""
        return (labels >= self.first) & (labels <= self.last)


def fit_operating_points(probs: np.ndarray, labels: np.ndarray, class_names: Sequence[str], levels: Sequence[float], *,
                         referable: int = 0) -> list[OperatingPoint]:
    """Choose thresholds on calibration images, for each class against the rest, and for grade >= `referable` unless it is 0.

    For a sensitivity, the highest threshold that reaches it. For a specificity, the one with the highest sensitivity. Left out: classes
    without calibration images or without other images, and levels that no threshold reaches.
    """
    k = len(class_names)
    groups = [(name, c, c) for c, name in enumerate(class_names)]
    if 0 < referable < k:
        groups.append((f'{class_names[referable]} or worse', referable, k - 1))
    found = []
    for name, first, last in groups:
        positive = (labels >= first) & (labels <= last)
        if not 0 < positive.sum() < len(labels):
            continue
        thresholds = Ranking(np.asarray(probs, np.float64)[:, first:last + 1].sum(axis=1), positive).thresholds(levels)
        found += [OperatingPoint(name, first, last, aim=AIMS[key], level=level, threshold=threshold, n=int(positive.sum()))
                  for (key, level), threshold in thresholds.items() if threshold is not None]
    return found
