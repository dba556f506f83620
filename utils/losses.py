"""Cross-entropy on hard or soft targets, and what all the losses share."""
import inspect
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from utils.common import InputError


class CrossEntropy(nn.Module):
    """CE(z, (1 - epsilon) y + epsilon / K): with `epsilon`, label smoothing (Szegedy et al., CVPR 2016). The base of the other losses.

    class_count: TRAIN images of each class, (K,). forward(logits (B, K), targets) -> scalar; targets are hard (integers, (B,)) or
    soft (floats, (B, K)). float64 logits are computed in float64, all other types in float32.
    Every loss is linear in its targets, sum_c y_c l_c(z) with l_c the loss of the hard target c, times a
    weight w_c in some; the mean is over the images of the batch, so that the weight of an image does not depend on its neighbours.
    """
    drw = True  # under --defer: class weights are switched on late (the others start with equal counts instead)
    corrects_prior = False  # makes up for the class frequencies; class-balanced sampling as well would do it twice
    head = 'linear'  # the kind of last layer it needs, a key of models.heads.HEADS
    # Parameter of this class's __init__ -> (least, largest) value, both allowed; others take any finite number. Subclasses list their own.
    ranges: ClassVar[dict[str, tuple[float, float]]] = {'epsilon': (0, 1)}

    def __init__(self, class_count, epsilon=0.):
        super().__init__()
        self.exact = {}  # name of a constant -> its float64 values
        self.count = np.asarray(class_count, np.float64)
        self.epsilon = epsilon
        self.class_weight = None

    def constant(self, name, values):
        """A per-class constant, computed in float64: a buffer that moves with the module, in the type that the loss is computed in."""
        self.exact[name] = np.asarray(values, np.float64)
        self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    def in_precision(self, logits, targets):
        """The arguments of `forward` in the type that the loss is computed in; hard targets as int64. The constants are made again where
        their type changes: MPS has no float64, so that they cannot be kept in it, and float32 values are not exact enough for it."""
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        for name, values in self.exact.items():
            if getattr(self, name).dtype != dtype:
                setattr(self, name, torch.tensor(values, dtype=dtype, device=logits.device))
        return logits.to(dtype), targets.to(dtype) if targets.is_floating_point() else targets.long()

    def set_class_weight(self, values):
        del self.class_weight
        self.constant('class_weight', values)

    def adjust(self, logits):
        """The logits that the loss sees."""
        return logits

    def implied_prior(self, seen):
        """The class prior of the posterior that the raw logits are at the optimum, after training on classes in the shares `seen` (K,),
        up to a factor. None where the optimum is no posterior: its softmax then differs from one by more than a prior."""
        if self.epsilon:
            return None
        return seen if self.class_weight is None else seen * self.class_weight.cpu().double().numpy()

    def class_losses(self, logits):
        """(B, K): the loss of each image for each class that could be its target."""
        return -self.adjust(logits).log_softmax(dim=1)

    def smooth(self, targets):
        return (1 - self.epsilon) * targets + self.epsilon / len(self.count) if self.epsilon else targets

    def forward(self, logits, targets):
        logits, targets = self.in_precision(logits, targets)
        losses = self.class_losses(logits)
        if self.class_weight is not None:
            losses = losses * self.class_weight
        if not targets.is_floating_point():
            if not self.epsilon:
                return losses.gather(1, targets[:, None]).mean()
            targets = nn.functional.one_hot(targets, len(self.count)).to(losses)
        targets = self.smooth(targets)
        # A class without training images may cost inf, which must not meet a target of 0 (0 * inf is NaN).
        return (targets * losses.masked_fill(targets == 0, 0)).sum(dim=1).mean()


class TargetDependent(CrossEntropy):
    """A softmax cross-entropy whose logits are changed in a way that depends on the target class."""

    def implied_prior(self, seen):
        return None

    def adjust_for(self, logits, classes):
        """Logits (M, K) as the loss sees them when the targets are `classes` (M,)."""
        raise NotImplementedError

    def forward(self, logits, targets):
        logits, targets = self.in_precision(logits, targets)
        weight = logits.new_full((len(logits),), 1 / len(logits))
        if targets.is_floating_point():  # one row for each class that an image is, by its share
            rows, classes = targets.nonzero(as_tuple=True)
            weight, logits = weight[rows] * targets[rows, classes], logits[rows]
        else:
            classes = targets
        if self.class_weight is not None:
            weight = weight * self.class_weight[classes]
        losses = nn.functional.cross_entropy(self.adjust_for(logits, classes), classes, reduction='none')
        return (weight * losses).sum()


from utils.loss_families.adjusted import (  # noqa: E402
    LADE,
    LDAM,
    BalancedSoftmax,
    ClassDependentTemperature,
    LogitAdjustment,
    VectorScaling,
)
from utils.loss_families.suppressing import Equalisation, Seesaw  # noqa: E402
from utils.loss_families.weighted import (  # noqa: E402
    ClassBalanced,
    ClassBalancedFocal,
    Focal,
    LabelAwareSmoothing,
    Ordinal,
    WeightedCrossEntropy,
    effective_number_weights,
)

LOSSES: dict[str, type[CrossEntropy]] = {
    'CE': CrossEntropy, 'WCE': WeightedCrossEntropy, 'FOCAL': Focal, 'CB': ClassBalanced, 'CBFOCAL': ClassBalancedFocal,
    'BSCE': BalancedSoftmax, 'LA': LogitAdjustment, 'CDT': ClassDependentTemperature, 'VS': VectorScaling, 'LDAM': LDAM,
    'LAS': LabelAwareSmoothing, 'LADE': LADE, 'SEQL': Equalisation, 'SEESAW': Seesaw, 'ORDINAL': Ordinal,
}  # To add a loss: a class and its name here. The class holds its parameters (__init__), their ranges, and what it is (`CrossEntropy`).


def loss_parameters(name):
    """{parameter: published default} of the loss `name`."""
    return {p.name: p.default for p in list(inspect.signature(LOSSES[name]).parameters.values())[1:]}


def get_loss_fn(name, class_count, **params):
    """The loss `name` (a key of LOSSES, in any case) for TRAIN counts `class_count` (K,); `params` are its hyper-parameters, and one
    that it does not have, or a value without meaning, raises `InputError`."""
    name = name.upper()
    if name not in LOSSES:
        raise InputError(f"unknown loss {name} (there are: {', '.join(LOSSES)})")
    known = loss_parameters(name)
    unknown = [param for param in params if param not in known]
    if unknown:
        raise InputError(f"loss {name} has no parameter {', '.join(unknown)} (it has: {', '.join(known) or 'none'})")
    if missing := [param for param, default in known.items() if default is inspect.Parameter.empty and param not in params]:
        raise InputError(f"loss {name} needs a value for {', '.join(missing)}: --loss_params {missing[0]}=NUMBER")
    for param, value in params.items():
        # of this class alone: a parameter of an own loss may be called as one of its base
        least, largest = vars(LOSSES[name]).get('ranges', {}).get(param, (-np.inf, np.inf))
        if not np.isfinite(value):
            raise InputError(f'loss {name}: {param} must be a finite number, got {value}')
        if not least <= value <= largest:
            raise InputError(f'loss {name}: {param} must lie between {least:g} and {largest}, got {value}')
    return LOSSES[name](class_count, **params)


def get_deferred_loss_fns(name, class_count, rebalance=True, **params):
    """The losses before and after the switch of deferred re-balancing (Cao et al., NeurIPS 2019, algorithm 1).

    CE, FOCAL, LDAM and other losses without class weights of their own get those of the effective number late (DRW), unless
    `rebalance` is False (the sampler is what is deferred); those that depend on the counts start as if these were equal.
    """
    after = get_loss_fn(name, class_count, **params)
    if not after.drw:
        return get_loss_fn(name, (np.asarray(class_count) > 0).astype(int), **params), after
    if rebalance:
        after.set_class_weight(effective_number_weights(class_count))
    return get_loss_fn(name, class_count, **params), after
