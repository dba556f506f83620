"""Gaussian classes with a known posterior, for simulations."""
import numpy as np
from scipy.special import softmax

LONG_TAIL = np.array([.5, .25, .15, .07, .03])


class Gaussians:
    """Classes with normal features around random centres."""

    def __init__(self, k=5, spread=1.3, seed=0):
        self.centres = np.random.default_rng(seed).normal(0, spread, (k, 2))

    def draw(self, prior, n, seed):
        """-> log p(x | c) up to a constant, (n, K), and labels (n,)"""
        rng = np.random.default_rng(seed)
        labels = rng.choice(len(self.centres), n, p=prior)
        x = rng.normal(size=(n, 2)) + self.centres[labels]
        return -((x[:, None] - self.centres) ** 2).sum(axis=2) / 2, labels


def posterior(likelihood, prior):
    return softmax(likelihood + np.log(prior), axis=1)


def random_probs(n, k, seed, digits=None):
    """Random probabilities and labels. With `digits`, many values are tied, 0 or 1."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(k, .5), n)
    labels = (probs.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return (probs if digits is None else np.round(probs, digits)), labels
