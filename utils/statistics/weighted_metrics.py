"""Scores of predictions for weighted images. Weights of 1 give the score itself, bootstrap weights its distribution."""
import re
import warnings
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from scipy.sparse import coo_array

from utils.evaluation import shot_groups
from utils.prediction.predictions import PredictionTable
from utils.statistics.ranking import OPERATING_POINTS, Ranking

# Names of the overall metrics in files, and in text. Smaller is better for nll, brier and both ece.
METRIC_NAMES = {'bacc': 'balanced accuracy', 'acc': 'accuracy', 'mcc': 'MCC', 'kappa': 'quadratic kappa', 'f1': 'macro F1',
                'auc': 'macro AUC', 'ap': 'macro average precision', 'nll': 'NLL', 'brier': 'Brier', 'ece': 'ECE',
                'classwise_ece': 'classwise ECE'}
CLASS_METRICS = ('recall', 'precision', 'f1', 'auc', 'ap')
N_BINS = 15
LEVEL = .9  # default sensitivity and specificity of the operating points
REFERABLE = 2  # referable retinopathy: moderate (this grade) or worse


def are_grades(class_names: Sequence[str]) -> bool:
    """Whether the names are those of ordered classes: DR0, DR1, ... or grade 0, grade 1, ..."""
    return any(all(re.fullmatch(rf'{word}[ _]?{c}', name, re.I) for c, name in enumerate(class_names)) for word in ('dr', 'grade'))


def is_ordered(class_names: Sequence[str], metric: str | None = None, flag: bool | None = None) -> bool:
    """Whether the classes are grades, so that quadratic kappa and "grade c or worse" are meaningful.

    `flag` (--ordered, --no-ordered) decides unless it is None. Otherwise classes are ordered if `metric` (--metric of the run) is kappa, or
    if their names say so.
    """
    return metric == 'kappa' or are_grades(class_names) if flag is None else flag


def class_groups(class_count: Sequence[int]) -> dict[str, np.ndarray]:
    """{name: mask of its classes, bool (K,)}: the shot groups, and thirds of the classes sorted by their number of training images."""
    thirds = np.array_split(np.argsort(-np.asarray(class_count), kind='stable'), 3)
    return shot_groups(class_count) | {f'{name} third': np.isin(np.arange(len(class_count)), third)
                                       for name, third in zip(('head', 'medium', 'tail'), thirds, strict=True)}


def chance_levels(count: Sequence[int] | np.ndarray) -> dict[str, float]:
    """{metric: score of a prediction that ignores the image}, as fractions. `count`: images of each class, (K,).

    Balanced accuracy: constant or random predictions. Accuracy: always the most frequent class. MCC and kappa: 0. AUC: 0.5. Average
    precision: the class frequency, as a mean over the classes with a defined AUC. Other metrics have no chance level.
    """
    count = np.asarray(count, np.float64)
    present, ranked = count[count > 0], count[(count > 0) & (count < count.sum())]
    ranks = {'auc': .5, 'ap': float(ranked.mean() / count.sum())} if len(ranked) else {}
    return {'bacc': 1 / len(present), 'acc': float(present.max() / count.sum()), 'mcc': 0., 'kappa': 0.} | ranks


def labels_of(table: PredictionTable) -> np.ndarray:
    """The labels (N,) of a table. Raises `ValueError` if it has none."""
    if table.labels is None:
        raise ValueError(f'{table.path} has no labels')
    return table.labels


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis, ignoring NaN; NaN where all values are NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', RuntimeWarning)
        return np.nanmean(values, axis=0)


def confusion_metrics(hits: np.ndarray, true: np.ndarray, predicted: np.ndarray, distance: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of the confusion matrix: {'bacc', 'acc', 'mcc', 'kappa': (B,), 'recall', 'precision', 'f1': (K, B)}.

    `hits`, `true`, `predicted` (K, B): summed weights of the images of each class that are predicted correctly, that have this label, and
    that are predicted as this class. `distance` (B,): sum of weight x squared distance between label and prediction.

    NaN: recall of an absent class, precision of a class that is never predicted, F1 of a class that is neither (scikit-learn leaves it out
    of macro F1), kappa of a single class. The MCC of constant predictions is 0, as in scikit-learn. Kappa uses the scale 0..K-1.
    """
    n, grade = true.sum(axis=0), np.arange(len(true))
    with np.errstate(invalid='ignore', divide='ignore'):
        recall, precision, f1 = hits / true, hits / predicted, 2 * hits / (true + predicted)
        # sum over i, j of (i - j)^2 true_i predicted_j, multiplied out; all terms are integers, so it is exact
        expected = (grade ** 2 @ true * n + n * (grade ** 2 @ predicted) - 2 * (grade @ true) * (grade @ predicted)) / n
        kappa = 1 - distance / expected
        spread = np.sqrt((n ** 2 - (true ** 2).sum(axis=0)) * (n ** 2 - (predicted ** 2).sum(axis=0)))
        mcc = np.where(spread > 0, (hits.sum(axis=0) * n - (true * predicted).sum(axis=0)) / spread, 0)
    return {'bacc': mean_of_defined(recall), 'acc': hits.sum(axis=0) / n, 'mcc': mcc, 'kappa': kappa, 'recall': recall,
            'precision': precision, 'f1': f1}


def bins_of(confidence: np.ndarray) -> np.ndarray:
    """Index of the equal-width bin of each value; upper ends are inclusive: (0, 1/15] is bin 0 (Guo et al., ICML 2017)."""
    return np.clip(np.ceil(confidence * N_BINS) - 1, 0, N_BINS - 1).astype(np.int64)


class WeightedMetrics:
    """All scores of one labelled `PredictionTable`.

    `ordered`: the classes are grades; otherwise kappa is NaN. With `ordered` and `referable` > 0, there are operating points for
    grade >= referable. `class_count`: TRAINING images (K,), for the groups. `levels`: sensitivities and specificities of the operating
    points. `unit`: int (N,), number of the patient of each image, from 0; None for independent images.

    All sums over images are computed by one sparse product with the weights. NLL clips probabilities at 2.2e-16, as scikit-learn does. The
    Brier score is summed over the classes (0..2). ECE uses the confidence in the predicted class.
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
        """-> sparse matrix (R, N), and the ends of its parts in R: correct predictions, labels and predictions of each class, squared
        distance between label and prediction, NLL, Brier, the bins of ECE and of classwise ECE"""
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
        """Integer weights (N, B) -> {('metrics', name) | ('classes', class, metric) | ('groups', group, metric) |
        ('operating_points', positives, name, level): float64 (B,)}, NaN where undefined"""
        return self._figures(weights, np.split(self.sums @ weights, self.parts))

    def with_shrunk(self, weights: np.ndarray) -> tuple[dict[tuple, np.ndarray], dict[tuple, np.ndarray]]:
        """-> the scores for `weights` (N, B), and {key of ECE and of classwise ECE: (B,)} for the same weights with shrunk bin gaps

        ECE is a sum of absolute gaps, so noise increases it, and more so if the gaps are small. Resampling around the observed gaps
        underestimates this bias, because they contain noise already; resampling around shrunk gaps overestimates it. The shrunk values
        are shifted so that they equal the ECE of the table if nothing is resampled.
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
        """Mean gap between confidence and accuracy in each bin of ECE and of classwise ECE, and the same gaps shrunk by the factor
        max(0, 1 - variance / gap^2) (positive-part James-Stein). The variance is that of a ratio of sums over independent units."""
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
        """Mask (N,) of the images that a score is computed from: those of the class or group, for precision those predicted as it, for
        sensitivity the positives, for specificity the negatives."""
        section, name, metric = (*key, None)[:3]
        if section == 'metrics':
            return np.ones(self.shape[0], bool)
        if section == 'operating_points':
            positive = self.labels == self.names.index(name) if name in self.names else self.labels >= self.referable
            return positive if metric == 'sensitivity_at_specificity' else ~positive
        mask = self.groups[name] if section == 'groups' else np.array(self.names) == name
        return mask[self.preds if metric == 'precision' else self.labels]

    def count(self, key: tuple) -> int:
        """Number of `images` that a score is computed from."""
        return int(self.images(key).sum())

    def units(self, key: tuple) -> int | None:
        """Number of independent units (patients, otherwise images) of a score that is a proportion of images; None for other scores."""
        section, name, metric = (*key, None)[:3]
        single = section == 'classes' or (section == 'groups' and self.groups[name].sum() == 1)
        if key == ('metrics', 'acc') or metric in OPERATING_POINTS or (single and metric in ('recall', 'precision')):
            return int(np.count_nonzero(np.bincount(self.unit[self.images(key)])))
        return None

    def thresholds(self) -> dict[tuple, float | None]:
        """{('operating_points', positives, name, level): threshold at or above which an image is called positive, or None}"""
        return {('operating_points', positives, *key): value for positives, ranking in self.points.items()
                for key, value in ranking.thresholds(self.levels).items()}
