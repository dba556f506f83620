"""Rows of a table -> parts, group by group (the images of a patient stay together), stratified."""
import numpy as np
import pandas as pd


def split_groups(groups, strata, fractions, seed):
    """Cut `fractions` of the groups off, stratified by the largest of a group's `strata`.

    groups: (N,) an id of any kind per row; strata: (N,) integers. -> int64 (N,): the index of each row's fraction, len(fractions) for
    the rest. A stratum with at least as many groups as there are parts has a group in each; a single group is in the rest.
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


def rarity(labels):
    """(N,) classes -> (N,) ranks of their size, the rarest highest: strata for groups with images of several classes."""
    values, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    rank = np.empty(len(values), np.int64)
    rank[np.argsort(-counts, kind='stable')] = np.arange(len(values))
    return rank[inverse]
