"""Selection of the classes to plot if there are many. Tables contain all classes."""
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from utils.evaluation import MOST_CLASSES

MOST_CURVES = 12  # classes in a plot of curves if there are more than MOST_CLASSES


class Choice(NamedTuple):
    classes: np.ndarray  # int64 (M,), ascending
    note: str  # sentence on which classes are shown; '' if all are


def choose(k: int, which: str, *orders: np.ndarray, most: int = MOST_CLASSES) -> Choice:
    """Choose which of `k` classes to plot: all if there are at most MOST_CLASSES, otherwise `most` of them.

    `orders`: class indices, each (up to K,), the most interesting first. Classes are taken from each order in turn.
    `which` completes the note: '... of ... classes, those with ...'.
    """
    if k <= MOST_CLASSES:
        return Choice(np.arange(k), '')
    in_turn = dict.fromkeys(int(c) for place in zip_longest(*orders) for c in place if c is not None)
    classes = np.sort(list(in_turn)[:most])
    return Choice(classes, f' Shown: {len(classes)} of {k} classes, {which}.')


def smallest_first(values: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Classes sorted by `values` (K,), ascending, without NaN. Among equal values, the class with more `images` (K,) comes first."""
    order = np.lexsort((-np.asarray(images), values))
    return order[~np.isnan(np.asarray(values, float)[order])]


def extremes(values: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two orders for `choose`: classes with the smallest `values` first, and classes with the largest first."""
    return smallest_first(values, images), smallest_first(-np.asarray(values), images)
