"""Find the best epoch or checkpoint of a run by the metric of the run."""
import math
from collections.abc import Sequence

from utils.evaluation import is_better


def best_index(scores: Sequence[float | None], metric: str) -> int:
    """Return the index of the best of one or more `scores`, the first of equals. Any number beats None and NaN (undefined)."""
    values = [math.nan if score is None else score for score in scores]
    best = 0
    for i, value in enumerate(values):
        if is_better(metric, value, values[best]):
            best = i
    return best


def best_epoch(history: Sequence[dict], metric: str) -> int:
    """Return the best epoch by validation `metric`, counted from 1. `history`: the records of log.jsonl, at least one."""
    return best_index([record['val'].get(metric) for record in history], metric) + 1
