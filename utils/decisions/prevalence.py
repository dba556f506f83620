"""Class frequencies of a population: change probabilities to them, and estimate them from unlabelled images.

All of it assumes label shift: the classes look the same as before, only their frequencies differ.
"""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from utils.common import InputError, counted, preview, progress
from utils.evaluation import confusion_counts
from utils.statistics.bootstrap import unit_of_images, weights_of_draws, wilson
from utils.statistics.calibration import SMALLEST, apply_temperature, fit_bias_corrected

MOST_STEPS, PRECISION = 1000, 1e-9  # of EM; precision: difference of the mean log-likelihood from its maximum
FLOOR = 1e-6  # of a frequency after an extrapolation, from which it can grow again
APART = 1e-3  # smaller differences of two estimates are rounding errors
REFITS = 100  # resamples of the calibration images
NEARLY_SINGULAR = .1  # smallest singular value of the confusion rates; errors are amplified up to 10 times
MIXED_UP = .5  # share of the largest entry of the singular vector, above which a class is named
FEW, LEAST = 30, 5  # images or patients: a warning, an error


class Source(NamedTuple):
    """Probabilities softmax(log(p) / temperature + bias) that are calibrated at the class frequencies (K,) of the calibration images.

    `refits`: (temperature, *bias) for resamples of the calibration images, at the same `frequencies`. `confusion` (K, K): calibration
    images by true class (rows) and most probable class of these probabilities.
    """
    temperature: float
    bias: tuple[float, ...]
    frequencies: tuple[float, ...]
    refits: tuple[tuple[float, ...], ...]
    confusion: tuple[tuple[int, ...], ...]

    def calibrated(self, probs: np.ndarray) -> np.ndarray:
        """Raw probabilities (N, K) of the network -> calibrated ones at `frequencies`, float64."""
        return apply_temperature(probs, self.temperature, np.array(self.bias, np.float64))


class Prevalence(NamedTuple):
    """Estimated class frequencies (K,) of unlabelled images.

    `low`, `high`: ends of 95 % intervals, which cover the sampling of these images and of the calibration images. `bbse`: the estimate by
    the confusion matrix, clipped to 0 and normalised; None if the matrix is singular. `warnings`: sentences.
    """
    frequencies: np.ndarray
    low: np.ndarray
    high: np.ndarray
    bbse: np.ndarray | None
    n_images: int
    warnings: tuple[str, ...] = ()


def fit_source(probs: np.ndarray, labels: np.ndarray, patient_ids: list | None = None, *, refits: int = REFITS, seed: int = 0) -> Source:
    """Calibrate raw probabilities (N, K) of labelled images with a temperature and a bias for each class (`fit_bias_corrected`).

    A temperature alone leaves errors in the mean probability of each class, which EM multiplies (Alexandari et al., ICML 2020). Images or
    patients are resampled within each class.
    """
    k = probs.shape[1]
    temperature, bias = fit_bias_corrected(probs, labels)
    counts, start, again = np.bincount(labels, minlength=k), np.append(1 / temperature, bias), []
    bar = progress(refits, 'refits of the calibration', unit='resample')
    for block in weights_of_draws(labels, patient_ids, refits, seed, stratified=True):
        for weights in block.T:
            bar.update()
            t, b = fit_bias_corrected(probs, labels, weights, start)
            drawn = np.bincount(labels, weights, minlength=k)
            again.append((t, *np.where(drawn > 0, b + prior_shift(drawn / drawn.sum(), counts / counts.sum()), bias).tolist()))
    bar.close()
    predicted = apply_temperature(probs, temperature, bias).argmax(axis=1)
    return Source(temperature, tuple(bias.tolist()), tuple((counts / counts.sum()).tolist()), tuple(again),
                  confusion=tuple(map(tuple, confusion_counts(labels, predicted, k).tolist())))


def prior_shift(learnt: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """log expected - log learnt, float64 (K,): the shift of the logits by Bayes' rule when the class prior changes (Saerens et al., Neural
    Computation 2002, equation 2.4). Classes with a prior of 0 in either get -inf, which is probability 0."""
    known = (learnt > 0) & (expected > 0)
    return np.where(known, np.log(np.where(known, expected, 1) / np.where(known, learnt, 1)), -np.inf)


def em_frequencies(probs: np.ndarray, learnt: np.ndarray, weights: np.ndarray | None = None, start: np.ndarray | None = None) -> np.ndarray:
    """Class frequencies (K,) that maximise the likelihood of unlabelled images, by expectation maximisation (Saerens et al., 2002).

    `probs` (N, K): calibrated probabilities at the class frequencies `learnt`. `weights` (N,): how often each image counts. `start`: first
    guess (default: `learnt`). A class with a frequency of 0 in `learnt` stays at 0. The likelihood is concave in the frequencies, but flat
    if classes overlap: two steps of EM are therefore extrapolated (SQUAREM, Varadhan & Roland, Scand. J. Stat. 2008, scheme S3).
    """
    known = learnt > 0
    ratios = np.maximum(np.asarray(probs, np.float64)[:, known], SMALLEST) / learnt[known]
    weights = np.full(len(probs), 1 / len(probs)) if weights is None else weights / weights.sum()

    def step(frequencies):
        """-> the next frequencies, the mean log-likelihood of these ones, and a bound of its difference from the maximum"""
        mixed = ratios @ frequencies
        gradient = (weights / mixed) @ ratios  # at most 1 at the maximum, by the conditions of Karush, Kuhn and Tucker
        return frequencies * gradient, float(weights @ np.log(mixed)), float(gradient.max()) - 1

    def allowed(frequencies):
        positive = np.maximum(frequencies, FLOOR)
        return positive / positive.sum()
    found = allowed((learnt if start is None else start)[known])
    for _ in range(MOST_STEPS):
        first, before, gap = step(found)
        if gap < PRECISION:
            break
        second = step(first)[0]
        change, bend = first - found, second - 2 * first + found
        length = float(np.linalg.norm(change)) / max(float(np.linalg.norm(bend)), SMALLEST)
        jumped = allowed(found + 2 * length * change + length ** 2 * bend) if length > 1 else second
        after, likelihood, _ = step(jumped)
        found = after if likelihood >= before else second
    result = np.zeros(len(learnt))
    result[known] = found / found.sum()
    return result


def confusion_rates(confusion: np.ndarray) -> np.ndarray:
    """Counts (K, K), true classes in rows -> share of the images of class j that are predicted as i, (K, K), at [i, j]; 0 for a class
    without images."""
    counts = np.asarray(confusion, np.float64)
    return (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).T


def bbse_frequencies(predicted: np.ndarray, confusion: np.ndarray) -> np.ndarray | None:
    """Class frequencies (K,) that explain the shares `predicted` (K,) of the predicted classes, by the confusion matrix of labelled images
    (Lipton et al., ICML 2018, black box shift estimation). Negative values are set to 0. None if the matrix is singular."""
    try:
        solved = np.linalg.solve(confusion_rates(confusion), predicted)
    except np.linalg.LinAlgError:
        return None
    solved = np.maximum(solved, 0)
    return solved / solved.sum() if np.isfinite(solved).all() and solved.sum() > 0 else None


def _singular_warning(confusion, class_names):
    """-> warning if the confusion matrix is nearly singular, with the classes that it mixes up; None otherwise"""
    absent = [name for name, n in zip(class_names, np.sum(confusion, axis=1), strict=True) if not n]
    if absent:
        return f'no validation image of {preview(absent)}, so the frequencies cannot be checked by the confusion matrix'
    _, values, vectors = np.linalg.svd(confusion_rates(confusion))
    if values[-1] >= NEARLY_SINGULAR:
        return None
    direction = np.abs(vectors[-1])
    mixed = [class_names[c] for c in np.flatnonzero(direction >= MIXED_UP * direction.max()).tolist()]
    which = f"{preview(mixed)} with other classes, so {'its frequency is' if len(mixed) == 1 else 'their frequencies are'}"
    return f'the network often confuses {which} unreliable (the confusion matrix is nearly singular, {values[-1]:.2g})'


def estimate_prevalence(probs: np.ndarray, source: Source, class_names: Sequence[str], *, patient_ids: list | None = None,
                        draws: int = 200, seed: int = 0) -> Prevalence:
    """Estimate the class frequencies of unlabelled images with raw probabilities (N, K), by a network with the calibration `source`.

    The estimate is that of EM. Its intervals are percentiles over resamples of these images (or patients) and of the calibration images,
    and at least Wilson intervals, as if each image showed its class. BBSE checks the estimate. Warnings: the confusion matrix is nearly
    singular, few images, or EM and BBSE disagree, as if more than the frequencies had changed. Raises `InputError` for fewer than LEAST
    images or patients.
    """
    n, k = probs.shape
    unit = unit_of_images(patient_ids, n)
    if unit.max() + 1 < LEAST:
        raise InputError(f"--target_prior estimate needs at least {LEAST} {'images' if patient_ids is None else 'patients'}, and there are "
                         f'{unit.max() + 1}')
    learnt, confusion = np.array(source.frequencies), np.array(source.confusion)
    calibrated = source.calibrated(probs)
    found, predicted = em_frequencies(calibrated, learnt), calibrated.argmax(axis=1)
    rng = np.random.default_rng([seed, 1])
    drawn: list[np.ndarray] = []
    checks: list[np.ndarray | None] = []
    bar = progress(draws, 'class frequencies', unit='resample')
    for block in weights_of_draws(np.zeros(n, np.int64), patient_ids, draws, seed):
        for weights in block.T:
            temperature, *bias = source.refits[rng.integers(len(source.refits))]
            refitted = apply_temperature(probs, temperature, np.array(bias, np.float64))
            drawn.append(em_frequencies(refitted, learnt, weights, start=(found + 1 / k) / 2))
            shares = np.bincount(predicted, weights, minlength=k) / weights.sum()
            checks.append(bbse_frequencies(shares, _resampled(confusion, rng)))
            bar.update()
    bar.close()
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    least = np.array([wilson(share, unit.max() + 1) for share in found])  # resamples never have a class that no image has
    low, high = np.minimum(low, least[:, 0]), np.maximum(high, least[:, 1])
    bbse = bbse_frequencies(np.bincount(predicted, minlength=k) / n, confusion)
    warnings = [_singular_warning(confusion, class_names)]
    if bbse is not None and warnings == [None]:
        lowest, highest = np.percentile([each for each in checks if each is not None], (2.5, 97.5), axis=0)
        apart = [class_names[c] for c in np.flatnonzero((lowest > high + APART) | (highest < low - APART)).tolist()]
        if apart:
            warnings.append(f'the estimates by EM and by the confusion matrix differ for {preview(apart)}: these images may differ from '
                            'the validation images in more than the class frequencies')
    if unit.max() + 1 < FEW:
        warnings.append(f"only {counted(int(unit.max()) + 1, 'image' if patient_ids is None else 'patient')}: the estimate is rough")
    return Prevalence(found, low, high, bbse, n_images=n, warnings=tuple(filter(None, warnings)))


def _resampled(confusion, rng):
    """Draw each row of the `confusion` counts again. Smoothed, since a rate of 0 or 1 is uncertain, too."""
    counts = confusion.sum(axis=1)
    rates = (confusion + 1 / len(confusion)) / (counts + 1)[:, None]
    return rng.multinomial(counts, rates)


def prevalence_text(found: Prevalence, source: Source, class_names: Sequence[str]) -> str:
    """Table of the estimate in percent, and its warnings."""
    width = max(map(len, ['class', *class_names]))
    lines = [f'Estimated class frequencies of {counted(found.n_images, "image")} in percent [95 % interval]',
             f'  {"class":<{width}}  estimate              validation images  by confusion matrix']
    for c, name in enumerate(class_names):
        shown = f'{100 * found.frequencies[c]:.1f} [{100 * found.low[c]:.1f}, {100 * found.high[c]:.1f}]'
        check = '-' if found.bbse is None else f'{100 * found.bbse[c]:.1f}'
        lines.append(f'  {name:<{width}}  {shown:<20}  {100 * source.frequencies[c]:>17.1f}  {check:>19}')
    return '\n'.join([*lines, *(f'* Warning: {warning}' for warning in found.warnings)])
