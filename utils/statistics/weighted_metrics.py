"""Predictions -> figures, for any weights of the images: ones give the value itself, bootstrap draws its distribution."""
import re
import warnings
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from scipy.sparse import coo_array

from utils.evaluation import shot_groups
from utils.prediction.predictions import PredictionTable
from utils.statistics.ranking import OPERATING_POINTS, Ranking

# Names of the overall metrics in files, and as people read them; of nll, brier and both ece, smaller is better.
METRIC_NAMES = {'bacc': 'balanced accuracy', 'acc': 'accuracy', 'mcc': 'MCC', 'kappa': 'quadratic kappa', 'f1': 'macro F1',
                'auc': 'macro AUC', 'ap': 'macro average precision', 'nll': 'NLL', 'brier': 'Brier', 'ece': 'ECE',
                'classwise_ece': 'classwise ECE'}
CLASS_METRICS = ('recall', 'precision', 'f1', 'auc', 'ap')
N_BINS = 15
LEVEL = .9  # of the operating points, unless the user wants others
REFERABLE = 2  # retinopathy is referred to an ophthalmologist from this grade on (moderate)


def are_grades(class_names: Sequence[str]) -> bool:
    """Whether the names tell that the classes are ordered: DR0, DR1, ... or grade 0, grade 1, ..."""
    return any(all(re.fullmatch(rf'{word}[ _]?{c}', name, re.I) for c, name in enumerate(class_names)) for word in ('dr', 'grade'))


def is_ordered(class_names: Sequence[str], metric: str | None = None, flag: bool | None = None) -> bool:
    """Whether the classes are grades, so that quadratic kappa and "grade c or worse" have a meaning.

    `flag` (--ordered, --no-ordered) decides where it is not None, then `metric` (of the run, from its --metric), where it is kappa, then
    the names.
    """
    return metric == 'kappa' or are_grades(class_names) if flag is None else flag


def class_groups(class_count: Sequence[int]) -> dict[str, np.ndarray]:
    """{name: classes, bool (K,)}: the shot groups, and the thirds of the classes in the order of their training images."""
    thirds = np.array_split(np.argsort(-np.asarray(class_count), kind='stable'), 3)
    return shot_groups(class_count) | {f'{name} third': np.isin(np.arange(len(class_count)), third)
                                       for name, third in zip(('head', 'medium', 'tail'), thirds, strict=True)}


def chance_levels(count: Sequence[int] | np.ndarray) -> dict[str, float]:
    """{metric: score of answers that know nothing about the image}, fractions; `count`: images of each class, (K,).

    Balanced accuracy: the same answer for all images, or random ones. Accuracy: always the most frequent class. MCC and kappa: 0. AUC: 0.5;
    average precision: the share of the class, as the mean over the classes that AUC is defined for. Other metrics have no such value.
    """
    count = np.asarray(count, np.float64)
    present, ranked = count[count > 0], count[(count > 0) & (count < count.sum())]
    ranks = {'auc': .5, 'ap': float(ranked.mean() / count.sum())} if len(ranked) else {}
    return {'bacc': 1 / len(present), 'acc': float(present.max() / count.sum()), 'mcc': 0., 'kappa': 0.} | ranks


def labels_of(table: PredictionTable) -> np.ndarray:
    """The labels (N,) of a table that must have them; `ValueError` without."""
    if table.labels is None:
        raise ValueError(f'{table.path} has no labels')
    return table.labels


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis without NaN; NaN where nothing is left."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', RuntimeWarning)
        return np.nanmean(values, axis=0)


def confusion_metrics(hits: np.ndarray, true: np.ndarray, predicted: np.ndarray, distance: np.ndarray) -> dict[str, np.ndarray]:
    """Weights of the images of each class that are right, that have this label, that get this answer, each (K, B), and the sum of
    weight x squared distance of label and answer, (B,) -> {'bacc', 'acc', 'mcc', 'kappa': (B,), 'recall', 'precision', 'f1': (K, B)}.

    NaN: recall of an absent class, precision of one never predicted, F1 of one that is neither (scikit-learn leaves it out of
    the macro F1), kappa of a single class. MCC of a constant is 0, as scikit-learn's; kappa is on the scale 0..K-1.
    """
    n, grade = true.sum(axis=0), np.arange(len(true))
    with np.errstate(invalid='ignore', divide='ignore'):
        recall, precision, f1 = hits / true, hits / predicted, 2 * hits / (true + predicted)
        # sum over i, j of (i - j)^2 true_i predicted_j, multiplied out: whole numbers, so exact
        expected = (grade ** 2 @ true * n + n * (grade ** 2 @ predicted) - 2 * (grade @ true) * (grade @ predicted)) / n
        kappa = 1 - distance / expected
        spread = np.sqrt((n ** 2 - (true ** 2).sum(axis=0)) * (n ** 2 - (predicted ** 2).sum(axis=0)))
        mcc = np.where(spread > 0, (hits.sum(axis=0) * n - (true * predicted).sum(axis=0)) / spread, 0)
    return {'bacc': mean_of_defined(recall), 'acc': hits.sum(axis=0) / n, 'mcc': mcc, 'kappa': kappa, 'recall': recall,
            'precision': precision, 'f1': f1}


def bins_of(confidence: np.ndarray) -> np.ndarray:
    """Index of the bin of equal width, closed above: (0, 1/15] is 0 (Guo et al., ICML 2017)."""
    return np.clip(np.ceil(confidence * N_BINS) - 1, 0, N_BINS - 1).astype(np.int64)


class WeightedMetrics:
    """Every figure of one labelled `PredictionTable`. `ordered`: the classes are grades, so that kappa has a meaning (else
    NaN), and `referable` > 0 gives operating points of grade >= referable; `class_count`: TRAINING images (K,), for the
    groups; `levels`: the sensitivities and specificities of the operating points; `unit`: int (N,), the patient of each image,
    numbered from 0 (None: the images are independent).

    What is a sum over images is one sparse product with the weights. NLL clips probabilities at 2.2e-16 (as scikit-learn),
    Brier is the sum over the classes (0..2), ECE takes the confidence in the predicted class.
    """

    def __init__(self, table: PredictionTable, ordered: bool = False, class_count: Sequence[int] | None = None,
                 levels: Sequence[float] = (), referable: int = 0, unit: np.ndarray | None = None) -> None:
        y, preds, probs = labels_of(table), table.preds, table.probs
        n, k = probs.shape
        self.names, self.ordered, self.levels, self.shape = table.class_names, ordered, levels, (n, k)
        self.labels, self.preds, self.referable, self.unit = y, preds, referable, np.arange(n) if unit is None else unit
        self.groups = {} if class_count is None else class_groups(class_count)
        self.rankings = {name: Ranking(probs[:, c], y == c) for c, name in enumerate(self.names)}
        self.points = dict(self.rankings) if levels else {}
        if levels and ordered and 0 < referable < k:
            self.points[f'{self.names[referable]} or worse'] = Ranking(probs[:, referable:].sum(axis=1), y >= referable)
        self.sums, self.parts = self._linear(y, preds, probs)

    @staticmethod
    def _linear(y, preds, probs):
        """-> sparse (R, N), and where in R its parts end: right answers, labels and answers of each class, squared distance of label
        and answer, NLL, Brier, the bins of ECE and of classwise ECE."""
        n, k = probs.shape
        images, one, top, truth, right = np.arange(n), np.zeros(n, np.int64), probs[np.arange(n), preds], np.eye(k)[y], y == preds
        entries = [(k, y[right], images[right], one[right] + 1.),
                   (k, y, images, one + 1.),
                   (k, preds, images, one + 1.),
                   (1, one, images, (y - preds) ** 2.),
                   (1, one, images, -np.log(np.maximum(probs[images, y], np.finfo(float).eps))),
                   (1, one, images, ((probs - truth) ** 2).sum(axis=1)),
                   (N_BINS, bins_of(top), images, top - right),
                   (N_BINS * k, (bins_of(probs) + np.arange(k) * N_BINS).ravel(), images.repeat(k), (probs - truth).ravel())]
        ends = np.cumsum([entry[0] for entry in entries])
        row = np.concatenate([end - size + rows for end, (size, rows, _, _) in zip(ends, entries, strict=True)])
        image, value = (np.concatenate([entry[i] for entry in entries]) for i in (2, 3))
        return coo_array((value, (row, image)), shape=(ends[-1], n)).tocsr(), ends[:-1]

    def __call__(self, weights: np.ndarray) -> dict[tuple, np.ndarray]:
        """Whole-number weights (N, B) -> {('metrics', name) | ('classes', class, metric) | ('groups', group, metric) |
        ('operating_points', positives, name, level): float64 (B,)}, NaN where undefined."""
        return self._figures(weights, np.split(self.sums @ weights, self.parts))

    def with_shrunk(self, weights: np.ndarray) -> tuple[dict[tuple, np.ndarray], dict[tuple, np.ndarray]]:
        """-> the figures of `weights` (N, B), and {key of ECE and of classwise ECE: (B,)}: the same draws around bins whose gaps are
        shrunk by their noise, placed so that without noise they are the ECE of the table.

        ECE is a sum of absolute values, so noise in the gaps makes it larger, and the more so the smaller the gaps are. Draws
        around the gaps as observed understate that bias, since these hold noise already. Draws around shrunk gaps overstate it.
        """
        parts = np.split(self.sums @ weights, self.parts)
        gap, shrunk = self._gaps
        moved = np.abs(np.concatenate(parts[-2:]) / weights.sum(axis=0) + (shrunk - gap)[:, None])
        shift = np.abs(gap) - np.abs(shrunk)
        return self._figures(weights, parts), {
            ('metrics', 'ece'): moved[:N_BINS].sum(axis=0) + shift[:N_BINS].sum(),
            ('metrics', 'classwise_ece'): (moved[N_BINS:].sum(axis=0) + shift[N_BINS:].sum()) / self.shape[1]}

    @cached_property
    def _gaps(self):
        """Mean gap between confidence and accuracy of each bin of ECE and of classwise ECE, and these times 1 - (variance / gap^2),
        at least 0: positive-part James-Stein. The variance is that of a ratio of sums over independent units."""
        n, units = self.shape[0], self.unit.max() + 1
        rows = self.sums[self.parts[-2]:] @ coo_array((np.ones(n), (np.arange(n), self.unit)), shape=(n, units)).tocsr()
        size = np.bincount(self.unit).astype(float)
        gap = rows.sum(axis=1) / n
        variance = (rows.power(2).sum(axis=1) - 2 * gap * (rows @ size) + gap ** 2 * (size ** 2).sum()) / n ** 2
        return gap, gap * np.maximum(1 - variance / np.maximum(gap ** 2, np.finfo(float).tiny), 0)

    def _figures(self, weights, parts):
        k, n = self.shape[1], weights.sum(axis=0)
        hits, true, predicted, distance, nll, brier, gaps, class_gaps = parts
        by_confusion = confusion_metrics(hits, true, predicted, distance[0])
        if not self.ordered:
            by_confusion['kappa'] = np.full(len(n), np.nan)
        ranked = {name: self.rankings[name](weights, n, self.levels) for name in self.names}
        classes = {name: by_confusion[name] for name in ('recall', 'precision', 'f1')} | {
            name: np.stack([ranked[c][name,] for c in self.names]) for name in ('auc', 'ap')}
        overall = {name: by_confusion[name] for name in ('bacc', 'acc', 'mcc', 'kappa')} | {
            name: mean_of_defined(classes[name]) for name in ('f1', 'auc', 'ap')} | {
            'nll': nll[0] / n, 'brier': brier[0] / n, 'ece': np.abs(gaps).sum(axis=0) / n,
            'classwise_ece': np.abs(class_gaps).sum(axis=0) / n / k}
        result: dict[tuple, np.ndarray] = {('metrics', name): overall[name] for name in METRIC_NAMES}
        result |= {('classes', c, name): classes[name][i] for i, c in enumerate(self.names) for name in CLASS_METRICS}
        result |= {('groups', group, name): mean_of_defined(classes[name][mask]) if mask.any() else np.full(len(n), np.nan)
                   for group, mask in self.groups.items() for name in CLASS_METRICS}
        for positives, ranking in self.points.items():
            values = ranked[positives] if positives in ranked else ranking(weights, n, self.levels)
            result |= {('operating_points', positives, *key): value for key, value in values.items() if len(key) == 2}
        return result

    def images(self, key: tuple) -> np.ndarray:
        """Mask (N,) of the images behind a figure: of a class or group, those of it; of a precision, those predicted as it; of a
        sensitivity the positives, of a specificity the negatives."""
        section, name, metric = (*key, None)[:3]
        if section == 'metrics':
            return np.ones(self.shape[0], bool)
        if section == 'operating_points':
            positive = self.labels == self.names.index(name) if name in self.names else self.labels >= self.referable
            return positive if metric == 'sensitivity_at_specificity' else ~positive
        mask = self.groups[name] if section == 'groups' else np.array(self.names) == name
        return mask[self.preds if metric == 'precision' else self.labels]

    def count(self, key: tuple) -> int:
        """The images behind a figure, see `images`."""
        return int(self.images(key).sum())

    def units(self, key: tuple) -> int | None:
        """The independent units (patients, else images) behind a figure that is a proportion of images; None for other figures."""
        section, name, metric = (*key, None)[:3]
        single = section == 'classes' or (section == 'groups' and self.groups[name].sum() == 1)
        if key == ('metrics', 'acc') or metric in OPERATING_POINTS or (single and metric in ('recall', 'precision')):
            return int(np.count_nonzero(np.bincount(self.unit[self.images(key)])))
        return None

    def thresholds(self) -> dict[tuple, float | None]:
        """{('operating_points', positives, name, level): score at or above which an image is called positive, or None}."""
        return {('operating_points', positives, *key): value for positives, ranking in self.points.items()
                for key, value in ranking.thresholds(self.levels).items()}
