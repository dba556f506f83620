"""Bootstrap intervals of ratios: means over some of the images, such as the coverage of prediction sets for one class."""
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from utils.common import progress
from utils.prediction.predictions import PredictionTable
from utils.statistics.bootstrap import BootstrapResult, unit_of_images, weights_of_draws
from utils.statistics.weighted_metrics import labels_of, mean_of_defined


class Ratio(NamedTuple):
    """The mean of `values`, float (N,), over the images where `of`, bool (N,), is true. `is_share`: values are 0 or 1."""
    values: np.ndarray
    of: np.ndarray
    is_share: bool = True


def bootstrap_ratios(table: PredictionTable, ratios: Mapping[tuple, Ratio], means: Mapping[tuple, Sequence[tuple]] | None = None,
                     draws: int = 1000, *, seed: int = 0, stratified: bool = False) -> BootstrapResult:
    """Resample the images or patients of the labelled `table` (`weights_of_draws`), and compute each of the `ratios` by its key.

    `means`: key -> keys of ratios whose mean it is, ignoring undefined ones. Keys are tuples as in `WeightedMetrics`. A ratio without an
    image is NaN. Shares get Wilson intervals, others percentiles (see `BootstrapResult.cell`). With `stratified`, a share over several
    classes is a weighted mean of shares, and gets percentiles, too.
    """
    n, means = len(table.preds), means or {}
    unit = unit_of_images(table.patient_ids, n)
    above, below = _rows(ratios, n, lambda ratio, of: ratio.values[of]), _rows(ratios, n, lambda ratio, of: np.ones(len(of)))

    def computed(weights):
        with np.errstate(invalid='ignore', divide='ignore'):
            values = dict(zip(ratios, (above @ weights) / (below @ weights), strict=True))
        return values | {key: mean_of_defined(np.stack([values[part] for part in parts])) for key, parts in means.items()}
    values = {key: float(value[0]) for key, value in computed(np.ones((n, 1))).items()}
    blocks = []
    with progress(draws, 'bootstrap of the decisions', unit='resample') as bar:
        for weights in weights_of_draws(labels_of(table), table.patient_ids, draws, seed, stratified=stratified):
            blocks.append(computed(weights))
            bar.update(weights.shape[1])
    counts = {key: int(ratio.of.sum()) for key, ratio in ratios.items()}
    counts |= {key: sum(counts[part] for part in parts) for key, parts in means.items()}
    return BootstrapResult(values, {key: np.concatenate([block[key] for block in blocks]) for key in values}, counts, {},
                           units={key: len(np.unique(unit[ratio.of])) for key, ratio in ratios.items() if ratio.is_share and not (
                               stratified and len(np.unique(labels_of(table)[ratio.of])) > 1)})


def _rows(ratios, n, values):
    """-> sparse matrix (ratios, n) with `values(ratio, images)` at the images of each ratio"""
    images = [np.flatnonzero(ratio.of) for ratio in ratios.values()]
    ends = np.concatenate([[0], np.cumsum([len(of) for of in images])]).astype(np.int64)
    data = [np.asarray(values(ratio, of), float) for ratio, of in zip(ratios.values(), images, strict=True)]
    return csr_array((np.concatenate([*data, []]), np.concatenate([*images, []]).astype(np.int64), ends), shape=(len(ratios), n))
