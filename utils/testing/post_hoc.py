"""Post-hoc corrections of a trained classifier: tau-normalisation, logit adjustment, change of the class prior."""
import argparse
import os
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from models.ensemble import Ensemble
from models.heads import get_head
from utils.common import InputError
from utils.data.read_csv import read_csv
from utils.decisions.prevalence import prior_shift
from utils.evaluation import evaluate_multi_cls
from utils.losses import LOSSES, get_loss_fn, log_prior
from utils.prediction.inference import Logits, to_predictions
from utils.runs.results import Correction
from utils.statistics.calibration import fit_temperature
from utils.training.phases import get_losses, label_shares, n_deferred

ROUNDED = .01  # accepted difference of the sum of priors from 1
STRENGTHS = np.arange(21) / 10  # 0, .1, .. 2, the grid of Kang et al.
Adjustment = Callable[[torch.Tensor], torch.Tensor]  # changes logits (V, N, K), see `to_predictions`
Adjuster = Callable[[float], Adjustment]  # strength -> adjustment


def tau_normaliser(model: torch.nn.Module) -> Adjuster:
    """Tau-normalisation: scale class vectors to w_c / |w_c|^tau and drop the bias (Kang et al., ICLR 2020, section 4.2).

    The classifier is linear, so the logits become (z_c - b_c) / |w_c|^tau. Norms are divided by their geometric mean, which keeps the
    scale of the logits and the confidence. Raises `InputError` if the classifier is not linear or a class vector is zero.
    """
    if isinstance(model, Ensemble):
        raise InputError('--tau_norm needs one network, and this is an ensemble: use --logit_adjust')
    head = get_head(model)
    if not isinstance(head, (torch.nn.Linear, torch.nn.Conv2d)):
        raise InputError(f'--tau_norm needs a linear classifier, but this network has a {type(head).__name__}')
    norm = head.weight.detach().float().cpu().flatten(1).norm(dim=1)
    if not (norm > 0).all():
        raise InputError('--tau_norm: the classifier has a class vector that is all zeros')
    norm = norm / norm.log().mean().exp()
    bias = head.bias.detach().float().cpu() if head.bias is not None else 0.
    return lambda tau: lambda z: (z - bias) / norm ** tau


def logit_adjuster(class_count: Sequence[int]) -> Adjuster:
    """Logit adjustment: z - tau log pi with pi_c = n_c / N (Menon et al., ICLR 2021, equation 9), for networks trained without correction.
    Logits of classes without training images do not change."""
    prior = log_prior(class_count)
    shift = torch.tensor(np.where(np.isfinite(prior), prior, 0), dtype=torch.float32)
    return lambda tau: lambda z: z - tau * shift


def last_epoch(info: dict) -> int:
    """Epoch (from 0) in which the weights of a checkpoint with facts `info` were last trained. In a checkpoint from the middle of an epoch,
    `epoch` is the number of complete epochs."""
    return info['epoch'] if info.get('batches') else info['epoch'] - 1


def implied_prior(config: dict, class_count: Sequence[int], epoch: int) -> np.ndarray:
    """Class prior in the raw logits of a network after `epoch` (from 0) of training, float64 (K,).

    It is the class distribution of the labels in that epoch, after the correction by the loss (`CrossEntropy.implied_prior`). In stage two,
    it depends on the images and flags of stage two. Raises `InputError` if the prior is not known.

    Assumes that the network has adapted to the sampling of the epoch, and that the prior of mixed labels also holds for unmixed images. A
    moving average (--ema) lags by about 1 / (1 - decay) steps, so right after a change of sampling or loss its prior is between both.
    """
    args, count = argparse.Namespace(**config), np.asarray(class_count, np.float64)
    if args.trainable == 'scale':  # scaling factors cannot adapt fixed class vectors to another prior
        raise InputError('--target_prior: a network trained with --trainable scale has no known class prior. Train stage two with '
                         '--trainable classifier or all instead')
    loss = get_losses(args, count)[epoch >= n_deferred(args)]
    prior = loss.implied_prior(label_shares(args, count, epoch))
    if prior is None:
        unequal = np.arange(1., len(count) + 1)
        known = [name for name in LOSSES if get_loss_fn(name, unequal).implied_prior(unequal) is not None]
        params = ', '.join(f'{name}={value:g}' for name, value in args.loss_params.items())
        raise InputError(f'--target_prior: a network trained with {args.loss_fn} ({params}) has no known class prior, because its outputs '
                         f"are not a posterior. --target_prior needs one of {', '.join(known)}")
    return prior / prior.sum()


def read_prior(source: str, class_count: Sequence[int], class_names: Sequence[str]) -> np.ndarray:
    """Class prior of --target_prior, float64 (K,) with sum 1: 'train', 'uniform', or a csv with the columns label (class names or 0..K-1)
    and prior: shares, percent or numbers of images. Raises `InputError` for unknown, missing or repeated classes and invalid priors."""
    count = np.asarray(class_count, np.float64)
    if source == 'uniform':
        return np.full(len(count), 1 / len(count))
    if source == 'train':
        return count / count.sum()
    if not os.path.isfile(source):
        raise InputError(f'--target_prior must be train, uniform, estimate or a csv, but there is no file {source}')
    table, rows = read_csv(source)
    if not {'label', 'prior'} <= set(table.columns):
        raise InputError(f'--target_prior {source} needs the columns label and prior, but has {", ".join(table.columns)}')
    classes = _classes_of(table.label.fillna('').str.strip(), rows, class_names, source)
    prior = np.full(len(count), np.nan)
    values = pd.to_numeric(table.prior.str.strip(), errors='coerce').to_numpy(np.float64)
    for c, value, text, row in zip(classes, values, table.prior, rows, strict=True):
        if not np.isnan(prior[c]):
            raise InputError(f'--target_prior {source}, row {row}: class {class_names[c]} already has a row; remove one')
        if not (np.isfinite(value) and value >= 0):
            raise InputError(f'--target_prior {source}, row {row}: the prior must be a non-negative number, not {text}')
        prior[c] = value
    missing = [class_names[c] for c in np.flatnonzero(np.isnan(prior)).tolist()]
    if missing:
        raise InputError(f"--target_prior {source} has no row for class {', '.join(missing)}: add one for each class")
    total = prior.sum()
    if not total > 0:
        raise InputError(f'--target_prior {source}: all priors are 0')
    are_counts = (prior == prior.round()).all()
    if not are_counts and min(abs(total - 1), abs(total / 100 - 1)) > ROUNDED:
        raise InputError(f'--target_prior {source}: the priors add up to {total:.4g}: they must add up to 1 or to 100 %, or be whole '
                         'numbers of images')
    return prior / prior.sum()


def _classes_of(labels, rows, class_names, source):
    """Class indices of `labels` (N,), which are either all names or all numbers. Raises `InputError` with the row of an unknown label, and
    if a label is the number of one class and the name of another."""
    by_name, by_number = ({name: c for c, name in enumerate(names)} for names in (class_names, map(str, range(len(class_names)))))
    readings = [classes for classes in (by_name, by_number) if set(labels) <= set(classes)]
    if not readings:
        likelier = max((by_name, by_number), key=lambda classes: sum(label in classes for label in labels))
        row, label = next((row, label) for row, label in zip(rows, labels, strict=True) if label not in likelier)
        raise InputError(f"--target_prior {source}, row {row}: '{label}' is not a class; the classes are {', '.join(class_names)}, "
                         f'or 0..{len(class_names) - 1}')
    read = [[classes[label] for label in labels] for classes in readings]
    if read[0] != read[-1]:
        raise InputError(f"--target_prior {source}: '{labels[0]}' is the number of one class and the name of another")
    return read[0]


def prior_changer(learnt: np.ndarray, expected: np.ndarray, bias: float | np.ndarray = 0.) -> Adjustment:
    """Adjustment that adds the `prior_shift`, and a `bias` (K,), to the logits."""
    shift = torch.tensor(bias + prior_shift(learnt, expected), dtype=torch.float32)
    return lambda z: z + shift


def fit_source_temperature(logits: Logits, learnt: np.ndarray) -> tuple[float, int]:
    """Fit the temperature of labelled `Logits` with the class prior `learnt` (K,). -> temperature, number of images that it is fitted on

    The labels may have other class frequencies than `learnt`: the likelihood is that of softmax(z / T - log learnt + log frequencies).
    Images of classes without training images are ignored.
    """
    p, all_labels = to_predictions(logits), logits.labels.numpy()
    trained = learnt[all_labels] > 0
    if not trained.any():
        raise InputError('--calibrate: no image of the tuning csv belongs to a class with training images')
    labels = all_labels[trained]
    shift = prior_shift(learnt, np.bincount(labels, minlength=len(learnt)) / len(labels))
    return fit_temperature(p.probs[trained], labels, shift), len(labels)


def assumed_prior(config: dict, class_count: Sequence[int], epoch: int, correction: Correction | None = None) -> np.ndarray | None:
    """Class frequencies (K,) that the probabilities of a network assume after a `correction`; None if they are not known."""
    if correction is not None and correction.name == 'tau_norm':
        return None
    if correction is not None and correction.expected is not None:
        return np.array(correction.expected)
    try:
        prior = implied_prior(config, class_count, epoch)
    except InputError:  # a loss without a known prior
        return None
    if correction is not None and correction.strength is not None:  # logit adjustment
        log_shares = log_prior(class_count)
        prior = prior * np.exp(-correction.strength * np.where(np.isfinite(log_shares), log_shares, 0))
    return prior / prior.sum()


def prior_text(class_names: Sequence[str], learnt: Sequence[float], expected: Sequence[float]) -> str:
    """Table for the report: frequency of each class before and after the change, in percent."""
    width = max(map(len, ['class', *class_names]))
    lines = [f'  {"class":<{width}}  before %   after %']
    for name, old, new in zip(class_names, learnt, expected, strict=True):
        lines.append(f'  {name:<{width}}  {100 * old:8.2f}  {100 * new:8.2f}')
    return '\n'.join(lines) + '\n'


def choose_strength(adjuster: Adjuster, logits: Logits) -> tuple[float, float, float]:
    """Choose the tau in STRENGTHS with the best balanced accuracy on validation `Logits`; ties go to the smallest. -> tau, balanced
    accuracy with and without the adjustment"""
    def balanced_accuracy(adjust=None):
        p = to_predictions(logits, adjust)
        return evaluate_multi_cls(logits.labels.numpy(), p.preds, p.probs).bacc
    scores = [balanced_accuracy(adjuster(tau)) for tau in STRENGTHS]
    best = int(np.argmax(scores))
    return float(STRENGTHS[best]), scores[best], balanced_accuracy()
