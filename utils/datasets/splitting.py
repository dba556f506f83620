"""Stratified splits of a table in which groups of rows, such as the images of a patient, stay together."""
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike


def split_groups(groups: ArrayLike, strata: ArrayLike, fractions: Sequence[float], seed: int) -> np.ndarray:
    """Split off `fractions` of the groups, stratified by the largest stratum of each group.

    `groups`: (N,) group id of each row, of any type; `strata`: int (N,). Returns int64 (N,): the index of each row's fraction, or
    len(fractions) for the rest. If a stratum has at least as many groups as there are parts, each part gets one of them. A single group
    goes to the rest.
    """
    largest = pd.Series(np.asarray(strata)).groupby(np.asarray(groups)).max()
    rng, part = np.random.default_rng(seed), pd.Series(0, largest.index)
    wanted = np.asarray(fractions) > 0
    for _, members in largest.groupby(largest):
        n = len(members)
        edges = np.floor(np.cumsum(fractions) * n + .5).astype(int)
        if n > wanted.sum():
            least = np.cumsum(wanted)
            edges = np.minimum(np.maximum(edges, least), n - 1 - (least[-1] - least))
        part[members.index] = np.searchsorted(edges, rng.permutation(n), side='right')
    return part[np.asarray(groups)].to_numpy(np.int64)


def fold_groups(groups: ArrayLike, strata: ArrayLike, n_folds: int, seed: int) -> np.ndarray:
    """Distribute the groups over `n_folds`, stratified by the largest stratum of each group.

    `groups`, `strata`: as in `split_groups`. Returns int64 (N,): the fold of each row, 0 to n_folds - 1. A stratum has as many groups in
    one fold as in another, or one more.
    """
    largest = pd.Series(np.asarray(strata)).groupby(np.asarray(groups)).max()
    rng, fold, n_before = np.random.default_rng(seed), pd.Series(0, largest.index), 0
    for _, members in largest.groupby(largest):
        fold[members.index] = (n_before + rng.permutation(len(members))) % n_folds
        n_before += len(members)
    return fold[np.asarray(groups)].to_numpy(np.int64)


def rarity(labels: ArrayLike) -> np.ndarray:
    """-> rank of each row's class by size, int64 (N,), highest for the rarest: strata for groups with images of several classes"""
    values, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    rank = np.empty(len(values), np.int64)
    rank[np.argsort(-counts, kind='stable')] = np.arange(len(values))
    return rank[inverse]
