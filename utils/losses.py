"""The training losses. Adjustments exist in training only: predictions, metrics and validation loss use raw logits."""
import inspect

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .common import InputError


def cross_entropy(logits, targets):
    """Mean cross-entropy of float logits (B, K) with hard targets (int64, (B,)) or soft ones (float, (B, K)).
    A class whose logit is -inf costs nothing where its target is 0 (0 * -inf would be NaN)."""
    if not targets.is_floating_point():
        return F.cross_entropy(logits, targets)
    log_p = logits.log_softmax(dim=1).masked_fill(targets == 0, 0)
    return -(targets * log_p).sum(dim=1).mean()


class CrossEntropy(nn.Module):
    """CE(z, y), and what the other losses share: they change the logits, `adjust(z)`, before the cross-entropy.

    class_count: TRAIN images of each class, (K,). forward(logits (B, K), targets hard (B,) or soft (B, K)) -> scalar.
    """

    def __init__(self, class_count):
        super().__init__()
        self.count = np.asarray(class_count, np.float64)

    def constant(self, values):
        """A per-class constant, computed in float64, as a float32 buffer that moves with the module."""
        self.register_buffer('per_class', torch.tensor(values, dtype=torch.float32), persistent=False)

    def adjust(self, logits):
        return logits

    def forward(self, logits, targets):
        return cross_entropy(self.adjust(logits.float()), targets)


class BalancedSoftmax(CrossEntropy):
    """CE(z + log n, y): the softmax of the training prior (Ren et al., NeurIPS 2020, equation 4). Written with
    log(n_c / N), which is the same softmax. A class without training images gets probability 0."""

    def __init__(self, class_count):
        super().__init__(class_count)
        with np.errstate(divide='ignore'):
            self.constant(np.log(self.count / self.count.sum()))

    def adjust(self, logits):
        return logits + self.per_class


class ClassDependentTemperature(CrossEntropy):
    """CE(z / a, y), a_c = (N_max / n_c)^gamma >= 1, largest for the tail, whose decision values must therefore grow
    (Ye et al., 2020, arXiv 2001.01385, equation 5). gamma 0 is CE; a class without training images has a = inf."""

    def __init__(self, class_count, gamma=0.2):
        super().__init__(class_count)
        with np.errstate(divide='ignore'):
            self.constant((self.count.max() / self.count) ** gamma)

    def adjust(self, logits):
        return logits / self.per_class


LOSSES = {'CE': CrossEntropy, 'BSCE': BalancedSoftmax, 'CDT': ClassDependentTemperature}


def get_loss_fn(name, class_count, **params):
    """The loss `name` (a key of LOSSES, in any case) for TRAIN counts `class_count` (K,); `params` are its hyper-parameters, and one
    that it does not have raises `InputError`."""
    name = name.upper()
    if name not in LOSSES:
        raise InputError(f"unknown loss {name} (there are: {', '.join(LOSSES)})")
    known = list(inspect.signature(LOSSES[name]).parameters)[1:]
    unknown = [param for param in params if param not in known]
    if unknown:
        raise InputError(f"loss {name} has no parameter {', '.join(unknown)} (it has: {', '.join(known) or 'none'})")
    return LOSSES[name](class_count, **params)
