"""Corrections of a trained classifier at test, without training: tau-normalisation, logit adjustment, another class prior."""
import os

import numpy as np
import pandas as pd
import torch

from models.heads import get_head

from .common import InputError
from .evaluation import evaluate_multi_cls
from .inference import to_predictions
from .losses import get_deferred_loss_fns, get_loss_fn
from .sampling import get_sampling_probabilities

STRENGTHS = np.arange(21) / 10  # 0, .1, .. 2, the grid of Kang et al.


def tau_normaliser(model):
    """-> function(tau) -> function of logits: class vectors scaled to w_c / |w_c|^tau, without bias (Kang et al., ICLR 2020,
    section 4.2). Logits being linear, it follows from those at hand: (z_c - b_c) / |w_c|^tau. Norms are relative to their
    geometric mean, so that the logits keep their size and the probabilities their sharpness."""
    head = get_head(model)
    if not isinstance(head, (torch.nn.Linear, torch.nn.Conv2d)):
        raise InputError(f'--tau_norm needs a linear classifier, and this network has a {type(head).__name__}')
    norm = head.weight.detach().float().cpu().flatten(1).norm(dim=1)
    if not (norm > 0).all():
        raise InputError('--tau_norm: the classifier has a class vector of zeros')
    norm = norm / norm.log().mean().exp()
    bias = head.bias.detach().float().cpu() if head.bias is not None else 0.
    return lambda tau: lambda z: (z - bias) / norm ** tau


def logit_adjuster(class_count):
    """-> function(tau) -> function of logits: z - tau log pi, pi_c = n_c / N (Menon et al., ICLR 2021, equation 9), for networks
    trained without correction. A class without training images keeps its logit."""
    count = np.asarray(class_count, np.float64)
    log_prior = torch.tensor(np.where(count > 0, np.log(np.maximum(count, 1) / count.sum()), 0), dtype=torch.float32)
    return lambda tau: lambda z: z - tau * log_prior


def implied_prior(config, class_count):
    """The class prior that the raw logits of a network carry, float64 (K,): the shares of the classes in the batches at the end of its
    training, as its loss corrects them (`CrossEntropy.implied_prior`). Raises `InputError` where the loss leaves no known prior."""
    count = np.asarray(class_count, np.float64)
    n = config['n_epochs']
    seen = count * get_sampling_probabilities(count, config['sampling'], n - 1, n)
    mixing, alpha = config.get('mixing'), config.get('mix_alpha') or config['do_mixup']
    if (mixing == 'balanced_mixup' or config['do_mixup']) and not config.get('mixup_off_epochs'):
        balanced = count * get_sampling_probabilities(count, 'class')
        seen = (seen + alpha * balanced) / (1 + alpha)  # the mean of Beta(alpha, 1) is alpha / (1 + alpha)
    name, params = config['loss_fn'], config.get('loss_params') or {}
    if config.get('defer'):
        loss = get_deferred_loss_fns(name, count, config['sampling'] == 'instance', **params)[1]
    else:
        loss = get_loss_fn(name, count, **params)
    prior = loss.implied_prior(seen)
    if prior is None:
        raise InputError(f'--target_prior: a network trained with {name} has no known class prior (CE, FOCAL, ORDINAL, LAS, WCE, CB, '
                         'CBFOCAL, BSCE, LA and LADE have)')
    return prior / prior.sum()


def read_prior(source, class_count):
    """'train', 'uniform', or a csv with the columns label (0..K-1) and prior (any positive scale) -> float64 (K,), of sum 1."""
    count = np.asarray(class_count, np.float64)
    if source == 'uniform':
        return np.full(len(count), 1 / len(count))
    if source == 'train':
        return count / count.sum()
    if not os.path.isfile(source):
        raise InputError(f'--target_prior takes train, uniform or a csv, and there is no file {source}')
    table = pd.read_csv(source)
    if not {'label', 'prior'} <= set(table.columns) or sorted(table.label) != list(range(len(count))):
        raise InputError(f'--target_prior {source}: the columns label and prior are needed, with a row for each class 0..{len(count) - 1}')
    prior = table.sort_values('label').prior.to_numpy(np.float64)
    if not (np.isfinite(prior).all() and (prior >= 0).all() and prior.sum() > 0):
        raise InputError(f'--target_prior {source}: priors must be numbers of 0 or more')
    return prior / prior.sum()


def prior_changer(config, class_count, source):
    """Function of logits: z - log(implied prior) + log(target prior), Bayes' rule for a shift of the class frequencies (Saerens et
    al., Neural Computation 2002, equation 2.4). A class of target prior 0, or one never trained on, gets probability 0."""
    old, new = implied_prior(config, class_count), read_prior(source, class_count)
    known = (old > 0) & (new > 0)
    shift = np.where(known, np.log(np.where(known, new, 1) / np.where(known, old, 1)), -np.inf)
    shift = torch.tensor(shift, dtype=torch.float32)
    return lambda z: z + shift


def choose_strength(adjuster, logits):
    """The tau of STRENGTHS with the best balanced accuracy on validation `Logits`; of equal ones the smallest. -> tau, that accuracy,
    and the one without adjustment."""
    scores = []
    for tau in STRENGTHS:
        p = to_predictions(logits, adjuster(tau))
        scores.append(evaluate_multi_cls(p.labels, p.preds, p.probs).bacc)
    best = int(np.argmax(scores))
    p = to_predictions(logits)
    return float(STRENGTHS[best]), scores[best], evaluate_multi_cls(p.labels, p.preds, p.probs).bacc
