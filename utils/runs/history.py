"""Find the best epoch or checkpoint of a run by the metric of the run."""
import math
from collections.abc import Mapping, Sequence
from typing import Any

from utils.evaluation import is_better


def best_index(scores: Sequence[float | None], metric: str) -> int:
    """Return the index of the best of one or more `scores`, the first of equals. Any number beats None and NaN (undefined)."""
    values = [math.nan if score is None else score for score in scores]
    best = 0
    for i, value in enumerate(values):
        if is_better(metric, value, values[best]):
            best = i
    return best


def n_deferred(config: Mapping[str, Any]) -> int:
    """Number of epochs before re-balancing begins (--defer)."""
    return round(config.get('defer', 0) * config['n_epochs'])


def comparable_scores(epochs: Sequence[int], scores: Sequence[float | None], config: Mapping[str, Any]) -> list[float]:
    """Return `scores` with NaN for epochs before re-balancing, if one of the others is after it. `epochs` are counted from 1.

    Otherwise the best epoch of a run with --defer may be one that was trained without re-balancing.
    """
    first = n_deferred(config)
    deferred = first if any(epoch > first for epoch in epochs) else 0
    return [math.nan if score is None or epoch <= deferred else score for epoch, score in zip(epochs, scores, strict=True)]


def best_epoch(history: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> int:
    """Return the best epoch by the validation metric of `config`, counted from 1. `history`: records of log.jsonl, at least one.

    Epochs before re-balancing (--defer) are chosen only if there are no others.
    """
    scores = [record['val'].get(config['metric']) for record in history]
    return best_index(comparable_scores(range(1, len(scores) + 1), scores, config), config['metric']) + 1
