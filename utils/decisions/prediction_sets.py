"""Prediction sets: the classes that an image may have, with a guaranteed share of sets that contain the true class (split conformal)."""
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

KINDS = {
    'marginal': 'one threshold for all classes',
    'class': 'a threshold for each class',
    'adjusted': 'one threshold for probability / class frequency',
    'between': 'halfway between one threshold and one for each class, for probability / class frequency',
}
HIGHEST = 1.  # of both scores, for a class of probability 0
SLACK = 1e-9  # (n + 1) * 0.9 may be just above a whole number


class SetRule(NamedTuple):
    """Rule for prediction sets of K classes: a set contains class c if the score of c is at most `thresholds[c]`.

    `kind`: a key of KINDS. `coverage`: wanted share of sets that contain the true class. `thresholds`: (K,), infinite for a class that is
    in every set. `frequencies`: class frequencies (K,) of the score of 'adjusted' and 'between'. `counts`: calibration images (K,).
    """
    kind: str
    coverage: float
    thresholds: tuple[float, ...]
    frequencies: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def too_few(self) -> list[int]:
        """Classes whose own threshold needs more calibration images."""
        return [c for c, n in enumerate(self.counts) if n < images_needed(self.coverage)]


def images_needed(coverage: float) -> int:
    """Smallest number of calibration images with a finite threshold: n >= coverage / (1 - coverage)."""
    return math.ceil(coverage / (1 - coverage) * (1 - SLACK))


def conformal_quantile(scores: np.ndarray, coverage: float) -> float:
    """The ceil((n + 1) coverage)-th smallest of the n `scores`; infinite if there are fewer (Vovk et al., 2005)."""
    rank = math.ceil((len(scores) + 1) * coverage - SLACK)
    return float(np.partition(scores, rank - 1)[rank - 1]) if rank <= len(scores) else math.inf


def set_scores(probs: np.ndarray, kind: str, frequencies: Sequence[float]) -> np.ndarray:
    """Score of each class, (N, K), low if the class fits: 1 - p (Sadinle et al., JASA 2019), or 1 - p / frequency for 'adjusted' and
    'between' (Ding et al., arXiv 2507.06867, prevalence-adjusted softmax). A class of frequency 0 has the score of 1 - p."""
    probs = np.asarray(probs, np.float64)
    if kind in ('marginal', 'class'):
        return 1 - probs
    share = np.asarray(frequencies, np.float64)
    return 1 - probs / np.where(share > 0, share, 1)


def fit_sets(probs: np.ndarray, labels: np.ndarray, coverage: float, kind: str, frequencies: Sequence[float] | None = None) -> SetRule:
    """Fit thresholds on calibration images with probabilities (N, K) and `labels` int (N,), which no network was trained on.

    If calibration and new images are exchangeable, the true class is in a set with at least this probability:

    - 'marginal', 'adjusted': `coverage`, on average over all images. 'adjusted' favours rare classes.
    - 'class': `coverage`, for each class, also if the class frequencies change. A class with fewer than `images_needed` is in every set.
    - 'between': 2 `coverage` - 1, on average. Its thresholds are means of those of a single threshold and of one for each class, where an
      infinite one counts as the highest score (Ding et al., INTERP-Q with weight 1/2).

    `frequencies`: class frequencies (K,) that the probabilities assume; by default those of the calibration images. The guarantee of
    'adjusted' is exact only if they do not depend on the calibration images.
    """
    labels = np.asarray(labels)
    counts = np.bincount(labels, minlength=probs.shape[1])
    shares = tuple((counts / counts.sum()).tolist()) if frequencies is None else tuple(frequencies)
    of_label = set_scores(probs, kind, shares)[np.arange(len(labels)), labels]
    single = np.full(len(counts), conformal_quantile(of_label, coverage))
    if kind in ('class', 'between'):
        own = np.array([conformal_quantile(of_label[labels == c], coverage) for c in range(len(counts))])
        thresholds = own if kind == 'class' else (np.minimum(own, HIGHEST) + np.minimum(single, HIGHEST)) / 2
    else:
        thresholds = single
    return SetRule(kind, coverage, tuple(thresholds.tolist()), shares, counts=tuple(counts.tolist()))


def apply_sets(probs: np.ndarray, rule: SetRule) -> np.ndarray:
    """Probabilities (N, K) -> whether each class is in the set, bool (N, K). The most probable class always is, so no set is empty, and the
    coverage may be above the wanted one."""
    inside = set_scores(probs, rule.kind, rule.frequencies) <= np.array(rule.thresholds)
    inside[np.arange(len(inside)), np.asarray(probs).argmax(axis=1)] = True
    return inside


def least_coverage(n: int, coverage: float) -> float:
    """Coverage on new images that 97.5 % of all draws of `n` calibration images exceed: a quantile of the beta distribution with parameters
    k and n + 1 - k, k = ceil((n + 1) coverage) (Vovk, ACML 2012). It is 1 if n is too small for a finite threshold."""
    from scipy.special import betaincinv  # imported here to keep the module light
    rank = math.ceil((n + 1) * coverage - SLACK)
    return float(betaincinv(rank, n + 1 - rank, .025)) if rank <= n else 1.


def set_text(inside: np.ndarray, probs: np.ndarray, class_names: Sequence[str]) -> list[str]:
    """Sets bool (N, K) -> 'DR2 | DR1' for each image, most probable class first. Names with a vertical bar are quoted."""
    names = [f'"{name}"' if '|' in name else name for name in class_names]
    return [' | '.join(names[c] for c in np.argsort(-p, kind='stable') if chosen[c]) for chosen, p in zip(inside, probs, strict=True)]
