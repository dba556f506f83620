"""One-vs-rest ranking metrics for weighted images: AUC, average precision, operating points."""
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array

OPERATING_POINTS = ('sensitivity_at_specificity', 'specificity_at_sensitivity')
SLACK = 1e-6  # absorbs the rounding of level * weight; the weights themselves are integers


class Ranking:
    """`score`: float (N,), higher is more positive; `positive`: bool (N,).

    Going down the ranking, the metrics change only at groups of equal scores that contain a positive. For each of these groups, one sparse
    product sums the weights of its positives, of its negatives, and of the negatives between it and the previous group. All later arrays
    are therefore at most as long as the number of positives, which adds up to N over all classes.
    """

    def __init__(self, score: np.ndarray, positive: np.ndarray) -> None:
        self.n_positive = int(positive.sum())
        order = np.argsort(-score, kind='stable')
        score, positive = score[order], positive[order]
        tie = np.cumsum(np.append(0, score[1:] != score[:-1]))
        groups, first = np.unique(tie[positive], return_index=True)
        self.scores = score[positive][first]  # of each group, in descending order
        row = np.searchsorted(groups, tie)
        above = row < len(groups)  # images below the last positive do not matter
        row, tie, positive, order = row[above], tie[above], positive[above], order[above]
        kind = np.where(positive, 0, np.where(groups[row] == tie, 1, 2))
        self.gather = coo_array((np.ones(len(row)), (kind * len(groups) + row, order)), shape=(3 * len(groups), len(score))).tocsr()

    def _curve(self, weights):
        """-> positives and negatives of each group, then true and false positives down to and including it, all (groups, B)."""
        pos, tied, between = (self.gather @ weights).reshape(3, len(self.scores), -1)
        return pos, tied, np.cumsum(pos, axis=0), np.cumsum(between + tied, axis=0)

    def __call__(self, weights: np.ndarray, total: np.ndarray, levels: Sequence[float] = ()) -> dict[tuple, np.ndarray]:
        """Integer weights (N, B), their sums `total` (B,) -> {('auc',), ('ap',), ('sensitivity_at_specificity', level) and
        ('specificity_at_sensitivity', level) for each of `levels`: (B,)}. Values are NaN without positives; AUC and operating points
        also without negatives. Average precision is the sum of precision x increase in recall, as in scikit-learn."""
        names = [('auc',), ('ap',), *((name, level) for level in levels for name in OPERATING_POINTS)]
        if not len(self.scores):
            return dict.fromkeys(names, np.full(weights.shape[1], np.nan))
        pos, tied, tp, fp = self._curve(weights)
        n_pos, draws = tp[-1], np.arange(weights.shape[1])
        n_neg = total - n_pos
        with np.errstate(invalid='ignore', divide='ignore'):
            values = [np.einsum('gb,gb->b', pos, n_neg - fp + tied / 2) / (n_pos * n_neg),
                      np.einsum('gb,gb->b', pos, tp / np.maximum(tp + fp, 1)) / n_pos]
            for level in levels:
                last, first = self._groups_at(tp, fp, n_pos, n_neg, level=level)
                found = np.where(last >= 0, tp[last, draws], 0) / n_pos
                values += [np.where(n_neg > 0, found, np.nan), np.where(n_pos > 0, 1 - fp[first, draws] / n_neg, np.nan)]
        return dict(zip(names, values, strict=True))

    @staticmethod
    def _groups_at(tp, fp, n_pos, n_neg, level):
        """Last group with specificity >= `level` (-1: none) and first group with sensitivity >= `level`, (B,) each."""
        last = (fp <= (1 - level) * n_neg + SLACK).sum(axis=0) - 1
        return last, np.minimum((tp < level * n_pos - SLACK).sum(axis=0), len(tp) - 1)

    def thresholds(self, levels: Sequence[float]) -> dict[tuple[str, float], float | None]:
        """{(name, level): threshold}: images with at least this score are called positive. None if no threshold reaches the level."""
        if not len(self.scores):
            return {}
        _, _, tp, fp = self._curve(np.ones((self.gather.shape[1], 1)))
        result = {}
        for level in levels:
            last, first = self._groups_at(tp, fp, tp[-1], self.gather.shape[1] - tp[-1], level=level)
            result['sensitivity_at_specificity', level] = float(self.scores[last[0]]) if last[0] >= 0 else None
            result['specificity_at_sensitivity', level] = float(self.scores[first[0]])
        return result
