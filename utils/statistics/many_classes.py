"""What a reader sees of many classes: figures show a choice of them and say so, tables hold all."""
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from utils.evaluation import MOST_CLASSES

MOST_CURVES = 12  # classes in a figure of curves where there are more than MOST_CLASSES


class Choice(NamedTuple):
    classes: np.ndarray  # int64 (M,), rising
    note: str  # how many of how many classes are shown, and which; '' if all are


def choose(k: int, which: str, *orders: np.ndarray, most: int = MOST_CLASSES) -> Choice:
    """The classes that a figure shows out of `k`: all of up to MOST_CLASSES, otherwise `most`.

    `orders`: class indices, each (up to K,), the most interesting first. The choice takes one class from each order in turn.
    `which` completes the note: '... of ... classes, those with ...'.
    """
    if k <= MOST_CLASSES:
        return Choice(np.arange(k), '')
    in_turn = dict.fromkeys(int(c) for place in zip_longest(*orders) for c in place if c is not None)
    classes = np.sort(list(in_turn)[:most])
    return Choice(classes, f' Shown: {len(classes)} of {k} classes, {which}.')


def smallest_first(values: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Classes in the rising order of `values` (K,), without those that are NaN. Of equals, the class with more `images` (K,) is first."""
    order = np.lexsort((-np.asarray(images), values))
    return order[~np.isnan(np.asarray(values, float)[order])]


def extremes(values: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two orders for `choose`: the classes with the smallest `values` first, and those with the largest first."""
    return smallest_first(values, images), smallest_first(-np.asarray(values), images)
