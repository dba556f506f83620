"""Apply the decision file of a run to the logits of its network: corrections, class frequencies, prediction sets, abstention."""
import argparse
import dataclasses
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from utils.common import InputError, preview
from utils.decisions.decision_file import Decision, decision_of
from utils.decisions.prediction_sets import apply_sets, set_text
from utils.decisions.prevalence import Prevalence, estimate_prevalence
from utils.decisions.rules import Rules
from utils.prediction.inference import Logits, Predictions, to_predictions
from utils.prediction.predictions import NOT_SURE, PREDICTION_SET
from utils.runs.results import Correction
from utils.statistics.calibration import figures_of
from utils.testing.post_hoc import Adjustment, logit_adjuster, read_prior, tau_normaliser
from utils.testing.tuning import ESTIMATE, Tuning, changed_prior, corrected, priors

REPLACED = ('calibrate', 'tau_norm', 'logit_adjust', 'csv_tune')  # flags whose effect is in the decision file


class Decided(NamedTuple):
    """Predictions of a set of images after all corrections.

    `columns`: PREDICTION_SET and NOT_SURE of each image, if the decision file has these rules; None without a decision file. `rules`: those
    that can be measured with the probabilities of `predictions`.
    """
    predictions: Predictions
    tuning: Tuning
    columns: pd.DataFrame | None = None
    rules: Rules = Rules()
    prevalence: Prevalence | None = None


def add_decision_flag(group: argparse._ArgumentGroup) -> None:
    group.add_argument('--no_decision', action='store_true', help='ignore decision.json of the run, which tools.calibrate writes')


def read_own_decision(args: argparse.Namespace, given: Collection[str], info: dict) -> Decision | None:
    """The decision file to use for the checkpoint with facts `info`; None if there is none, or with --no_decision.

    Sets the flags of test-time augmentation to those of the file, unless they are `given` on the command line. Raises `InputError` for
    flags that contradict the file.
    """
    decision = None if args.no_decision else decision_of(info)
    if decision is None:
        if args.target_prior == ESTIMATE:
            raise InputError(f'--target_prior {ESTIMATE} needs calibrated probabilities, but this run has no decision file (or '
                             f"--no_decision was given): run python -m tools.calibrate --load_path {info['folder']} first")
        return None
    for flag, value in (('dihedral_tta', decision.tta.dihedral), ('zoom_tta', list(decision.tta.zoom))):
        if flag in given and getattr(args, flag) != value:
            shown = ' '.join(f'{each:g}' for each in (value if isinstance(value, list) else [value]))
            raise InputError(f'{decision.path} was fitted with --{flag} {shown}: leave out the flag, run tools.calibrate with your value, '
                             'or add --no_decision')
        if getattr(args, flag) != value:
            print(f"* Test-time augmentation as in {decision.path}: {decision.tta.words or 'none'}")
        setattr(args, flag, value)
    if found := [flag for flag in REPLACED if flag in given]:
        raise InputError(f'--{found[0]}: the corrections of this network are in {decision.path}: leave out the flag, or add --no_decision')
    absent = [name for name, share in zip(info['class_names'], decision.source.frequencies, strict=True) if not share]
    if args.target_prior is not None and absent:
        ignore = '' if args.target_prior == ESTIMATE else ', or add --no_decision'
        raise InputError(f'--target_prior: {decision.path} was fitted without an image of {preview(absent)}: run tools.calibrate with a '
                         f'csv that has every class{ignore}')
    return decision


def check_prior(target_prior: str | None, info: dict, decision: Decision | None) -> None:
    """Raise `InputError` if --target_prior is invalid for the network with facts `info`, before images are decoded."""
    if decision is None and target_prior is not None:
        priors(target_prior, info)
    elif target_prior not in (None, ESTIMATE):
        read_prior(str(target_prior), info['class_count'], info['class_names'])


def decision_tuning(decision: Decision, model: torch.nn.Module, info: dict) -> Tuning:
    """The corrections of the decision file for a network with facts `info`."""
    correction, adjust = decision.correction, None
    if correction is not None:
        adjust = _adjustment(correction, model, info)
    return Tuning(adjust, correction, decision.temperature)


def _adjustment(correction: Correction, model: torch.nn.Module, info: dict) -> Adjustment:
    assert correction.strength is not None  # `read_decision` checks it
    adjuster = tau_normaliser(model) if correction.name == 'tau_norm' else logit_adjuster(info['class_count'])
    return adjuster(correction.strength)


def prior_tuning(target_prior: str, info: dict, decision: Decision | None, logits: Logits, *,
                 patient_ids: list | None = None) -> tuple[Tuning, Prevalence | None]:
    """The change of the class frequencies to --target_prior.

    With a decision file, probabilities are first calibrated at the class frequencies of its images. Otherwise they are those that the
    network has learnt. With `estimate`, the frequencies are those of the images of `logits`, and of one more image with the frequencies of
    the calibration images, so that no class is ruled out.
    """
    if decision is None:
        return changed_prior(target_prior, *priors(target_prior, info)), None
    source, prevalence = decision.source, None
    before = np.array(source.frequencies)
    if target_prior == ESTIMATE:
        probs = to_predictions(logits).probs
        prevalence = estimate_prevalence(probs, source, info['class_names'], patient_ids=patient_ids)
        expected = (len(probs) * prevalence.frequencies + before) / (len(probs) + 1)
    else:
        expected = read_prior(target_prior, info['class_count'], info['class_names'])
    name = 'estimated from these images, with one more at the validation frequencies' if prevalence else target_prior
    temperature = dataclasses.replace(decision.temperature, value=source.temperature, comes_first=True)
    return changed_prior(name, before, expected, bias=np.array(source.bias))._replace(temperature=temperature), prevalence


def decide(logits: Logits, info: dict, tuning: Tuning, decision: Decision | None, *, target_prior: str | None = None,
           patient_ids: list | None = None) -> Decided:
    """Apply all corrections and rules to `logits`. `tuning`: from `tune` or `decision_tuning`; `target_prior`: a change after it.

    Prediction sets and operating points use the probabilities before a change to --target_prior, for which they were fitted. The predicted
    class, which is then added to the set, and abstention use those after it. Raises `InputError` for probabilities that are not numbers.
    """
    names = info['class_names']
    before, temperature = corrected(logits, tuning, names)
    final, used, prevalence = before, tuning._replace(temperature=temperature), None
    if target_prior is not None:
        changed, prevalence = prior_tuning(target_prior, info, decision, logits, patient_ids=patient_ids)
        final, temperature = corrected(logits, changed, names)
        if temperature is not None and final.labels is not None:  # otherwise `before` would have the bias, but not the temperature
            temperature = dataclasses.replace(temperature, before=figures_of(to_predictions(logits), names))
        used = changed._replace(temperature=temperature)
    if not np.isfinite(final.probs).all():
        raise InputError('the corrections give probabilities that are not numbers: run tools.calibrate again, or add --no_decision')
    if decision is None:
        return Decided(final, used, prevalence=prevalence)
    rules, columns = decision.rules, pd.DataFrame(index=range(len(final.preds)))
    abstention = rules.abstention if target_prior is None else decision.prior_abstention
    if rules.sets:
        inside = apply_sets(before.probs, rules.sets[0])
        inside[np.arange(len(inside)), final.preds] = True
        columns[PREDICTION_SET] = set_text(inside, before.probs, names)
    if abstention:
        columns[NOT_SURE] = np.where(abstention.is_unsure(final.probs), 'yes', 'no')
    measured = rules if target_prior is None else Rules(abstention=abstention)
    return Decided(final, used, columns, measured, prevalence=prevalence)
