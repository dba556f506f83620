"""Corrections of a trained classifier at test, without training: tau-normalisation, logit adjustment, another class prior."""
import argparse
import os
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from models.heads import get_head
from utils.common import InputError
from utils.data.read_csv import read_csv
from utils.evaluation import evaluate_multi_cls
from utils.losses import LOSSES, get_loss_fn, log_prior
from utils.prediction.inference import Logits, to_predictions
from utils.statistics.calibration import fit_temperature
from utils.training.phases import get_losses, label_shares, n_deferred

STRENGTHS = np.arange(21) / 10  # 0, .1, .. 2, the grid of Kang et al.
Adjustment = Callable[[torch.Tensor], torch.Tensor]  # of logits (V, N, K), see `to_predictions`
Adjuster = Callable[[float], Adjustment]  # strength -> adjustment


def tau_normaliser(model: torch.nn.Module) -> Adjuster:
    """Class vectors scaled to w_c / |w_c|^tau, without bias (Kang et al., ICLR 2020, section 4.2). The classifier is linear, so it follows
    from the logits: (z_c - b_c) / |w_c|^tau. Norms are relative to their geometric mean, so that the logits keep their size and the
    probabilities their sharpness. Raises `InputError` for a classifier that is not linear, or has a class vector of zeros."""
    head = get_head(model)
    if not isinstance(head, (torch.nn.Linear, torch.nn.Conv2d)):
        raise InputError(f'--tau_norm needs a linear classifier, and this network has a {type(head).__name__}')
    norm = head.weight.detach().float().cpu().flatten(1).norm(dim=1)
    if not (norm > 0).all():
        raise InputError('--tau_norm: the classifier has a class vector of zeros')
    norm = norm / norm.log().mean().exp()
    bias = head.bias.detach().float().cpu() if head.bias is not None else 0.
    return lambda tau: lambda z: (z - bias) / norm ** tau


def logit_adjuster(class_count: Sequence[int]) -> Adjuster:
    """z - tau log pi, pi_c = n_c / N (Menon et al., ICLR 2021, equation 9), for networks trained without correction. A class without
    training images keeps its logit."""
    prior = log_prior(class_count)
    shift = torch.tensor(np.where(np.isfinite(prior), prior, 0), dtype=torch.float32)
    return lambda tau: lambda z: z - tau * shift


def last_epoch(info: dict) -> int:
    """The epoch (from 0) in which the weights of the checkpoint with facts `info` were last trained; in a checkpoint of an epoch that was
    interrupted, `epoch` counts those before it."""
    return info['epoch'] if info.get('batches') else info['epoch'] - 1


def implied_prior(config: dict, class_count: Sequence[int], epoch: int) -> np.ndarray:
    """The class prior that the raw logits of a network carry after `epoch` (from 0) of its training, float64 (K,): the shares of the
    classes in the labels of that epoch, as its loss corrects them (`CrossEntropy.implied_prior`). In stage two these are the images
    and flags of stage two. Raises `InputError` where no prior is known.

    Assumes that the network has followed the epoch's sampling, and that images seen unmixed carry the prior of the mixed labels. A moving
    average (--ema) trails by about 1 / (1 - decay) steps: just after a change of sampling or loss its prior lies between both.
    """
    args, count = argparse.Namespace(**config), np.asarray(class_count, np.float64)
    if args.trainable == 'scale':  # the factors of a network trained at one prior cannot express another
        raise InputError('--target_prior: a network trained with --trainable scale has no known class prior, its factors cannot adapt one: '
                         'use a stage two with --trainable classifier or all')
    loss = get_losses(args, count)[epoch >= n_deferred(args)]
    prior = loss.implied_prior(label_shares(args, count, epoch))
    if prior is None:
        unequal = np.arange(1., len(count) + 1)
        known = [name for name in LOSSES if get_loss_fn(name, unequal).implied_prior(unequal) is not None]
        params = ', '.join(f'{name}={value:g}' for name, value in args.loss_params.items())
        raise InputError(f'--target_prior: a network trained with {args.loss_fn} ({params}) has no known class prior, its outputs are no '
                         f"posterior: it needs one of {', '.join(known)}")
    return prior / prior.sum()


def read_prior(source: str, class_count: Sequence[int], class_names: Sequence[str]) -> np.ndarray:
    """'train', 'uniform', or a csv with the columns label (names of the classes, or 0..K-1) and prior (any positive scale)
    -> float64 (K,), of sum 1. Raises `InputError` for a class that is unknown, missing or repeated, and for a prior that is none."""
    count = np.asarray(class_count, np.float64)
    if source == 'uniform':
        return np.full(len(count), 1 / len(count))
    if source == 'train':
        return count / count.sum()
    if not os.path.isfile(source):
        raise InputError(f'--target_prior takes train, uniform or a csv, and there is no file {source}')
    table, rows = read_csv(source)
    if not {'label', 'prior'} <= set(table.columns):
        raise InputError(f'--target_prior {source}: the columns label and prior are needed, the file has {", ".join(table.columns)}')
    classes = _classes_of(table.label.fillna('').str.strip(), rows, class_names, source)
    prior = np.full(len(count), np.nan)
    values = pd.to_numeric(table.prior.str.strip(), errors='coerce').to_numpy(np.float64)
    for c, value, text, row in zip(classes, values, table.prior, rows, strict=True):
        if not np.isnan(prior[c]):
            raise InputError(f'--target_prior {source}, row {row}: class {class_names[c]} has a row already, remove one')
        if not (np.isfinite(value) and value >= 0):
            raise InputError(f'--target_prior {source}, row {row}: a prior must be a number of 0 or more, not {text}')
        prior[c] = value
    missing = [class_names[c] for c in np.flatnonzero(np.isnan(prior)).tolist()]
    if missing:
        raise InputError(f"--target_prior {source}: a row is missing for class {', '.join(missing)}")
    if not prior.sum() > 0:
        raise InputError(f'--target_prior {source}: all priors are 0')
    return prior / prior.sum()


def _classes_of(labels, rows, class_names, source):
    """Numbers of the classes that `labels` (N,) name: all by name, or all by number. Raises `InputError` for an unknown one, naming its
    row, and where numbers could be names of other classes."""
    by_name, by_number = ({name: c for c, name in enumerate(names)} for names in (class_names, map(str, range(len(class_names)))))
    readings = [classes for classes in (by_name, by_number) if set(labels) <= set(classes)]
    if not readings:
        likelier = max((by_name, by_number), key=lambda classes: sum(label in classes for label in labels))
        row, label = next((row, label) for row, label in zip(rows, labels, strict=True) if label not in likelier)
        raise InputError(f"--target_prior {source}, row {row}: '{label}' is no class; the classes are {', '.join(class_names)}, "
                         f'or 0..{len(class_names) - 1}')
    read = [[classes[label] for label in labels] for classes in readings]
    if read[0] != read[-1]:
        raise InputError(f"--target_prior {source}: '{labels[0]}' is the number of one class and the name of another")
    return read[0]


def prior_shift(learnt: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """log expected - log learnt, float64 (K,): what Bayes' rule adds to logits when the class frequencies change (Saerens et al., Neural
    Computation 2002, equation 2.4). A class that is not expected, or one never trained on, gets -inf: probability 0."""
    known = (learnt > 0) & (expected > 0)
    return np.where(known, np.log(np.where(known, expected, 1) / np.where(known, learnt, 1)), -np.inf)


def prior_changer(learnt: np.ndarray, expected: np.ndarray) -> Adjustment:
    """z + `prior_shift`."""
    shift = torch.tensor(prior_shift(learnt, expected), dtype=torch.float32)
    return lambda z: z + shift


def fit_source_temperature(logits: Logits, learnt: np.ndarray) -> tuple[float, int]:
    """The temperature of labelled `Logits` that carry the prior `learnt` (K,), and the number of images it is fitted on. Their labels may
    have other frequencies: the likelihood is that of softmax(z / T - log learnt + log frequencies). Images of classes that were never
    trained on are left out."""
    p, all_labels = to_predictions(logits), logits.labels.numpy()
    trained = learnt[all_labels] > 0
    if not trained.any():
        raise InputError('--calibrate: none of the images is of a class with training images')
    labels = all_labels[trained]
    shift = prior_shift(learnt, np.bincount(labels, minlength=len(learnt)) / len(labels))
    return fit_temperature(p.probs[trained], labels, shift), len(labels)


def prior_text(class_names: Sequence[str], learnt: Sequence[float], expected: Sequence[float]) -> str:
    """A table for the report: the frequencies of each class in percent, as the network learnt them and as they are expected."""
    width = max(map(len, ['class', *class_names]))
    lines = [f'  {"class":<{width}}  learnt %  expected %']
    for name, old, new in zip(class_names, learnt, expected, strict=True):
        lines.append(f'  {name:<{width}}  {100 * old:8.2f}  {100 * new:10.2f}')
    return '\n'.join(lines) + '\n'


def choose_strength(adjuster: Adjuster, logits: Logits) -> tuple[float, float, float]:
    """The tau of STRENGTHS with the best balanced accuracy on validation `Logits`; of equal ones the smallest. -> tau, that accuracy,
    and the one without adjustment."""
    def balanced_accuracy(adjust=None):
        p = to_predictions(logits, adjust)
        return evaluate_multi_cls(logits.labels.numpy(), p.preds, p.probs).bacc
    scores = [balanced_accuracy(adjuster(tau)) for tau in STRENGTHS]
    best = int(np.argmax(scores))
    return float(STRENGTHS[best]), scores[best], balanced_accuracy()
