"""The training losses, one table. Adjustments exist in training only: predictions, metrics and validation loss use raw logits."""
import inspect

import numpy as np

from utils.common import InputError

from .adjusted import LADE, LDAM, BalancedSoftmax, ClassDependentTemperature, LogitAdjustment, VectorScaling
from .base import CrossEntropy
from .suppressing import Equalisation, Seesaw
from .weighted import (
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
