"""Choices made on validation images: the strength of a post-hoc correction, and the temperature of the calibration."""
import argparse
import dataclasses
import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from utils.common import InputError, printable
from utils.data.dataset import ClassLoader
from utils.data.leakage import check_tuning
from utils.losses import LOSSES
from utils.prediction.inference import Logits, Predictions, tempered, to_predictions
from utils.runs.results import Choice, Correction, Temperature
from utils.statistics.calibration import figures_of, fit_temperature, scaled
from utils.testing.network import NetworkUnderTest
from utils.testing.post_hoc import (
    Adjustment,
    choose_strength,
    fit_source_temperature,
    implied_prior,
    last_epoch,
    logit_adjuster,
    prior_changer,
    read_prior,
    tau_normaliser,
)

VALIDATION = 'val'  # value of --tau_norm and --logit_adjust without a number
ESTIMATE = 'estimate'  # value of --target_prior: from the predictions of the images


class Tuning(NamedTuple):
    """Corrections of the logits, and the csv on which they were chosen. By default, none."""
    adjust: Adjustment | None = None
    correction: Correction | None = None  # describes `adjust`
    temperature: Temperature | None = None
    csv: str | None = None  # None if nothing was chosen


def chooses(args: argparse.Namespace) -> bool:
    """Whether to choose a strength or a temperature on validation images."""
    return args.calibrate or VALIDATION in (args.tau_norm, args.logit_adjust)


def parse_strength(text: str) -> str | float:
    """Parse the value of --tau_norm and --logit_adjust: VALIDATION or a number."""
    return text if text == VALIDATION else float(text)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the corrections and of the calibration."""
    group = parser.add_argument_group('corrections without training', 'use at most one of the first three')
    add_strength_flags(group)
    add_prior_flag(group)
    group.add_argument('--calibrate', action='store_true',
                       help='temperature scaling, fitted on --csv_tune; applied before --logit_adjust and --target_prior, but after '
                            '--tau_norm')
    group.add_argument('--csv_tune', metavar='CSV', help='csv for choosing TAU and the temperature (default: --csv_val if there is also a '
                                                         'test csv, otherwise the validation csv of the training run)')


def add_strength_flags(group: argparse._ArgumentGroup) -> None:
    """Add --tau_norm and --logit_adjust."""
    for name, what in (('tau_norm', 'tau-normalisation'), ('logit_adjust', 'logit adjustment')):
        group.add_argument(f'--{name}', nargs='?', const=VALIDATION, type=parse_strength, metavar='TAU',
                           help=f'{what} with strength TAU, for networks trained without re-balancing (without TAU: chosen on validation '
                                'images)')


def add_prior_flag(group: argparse._ArgumentGroup) -> None:
    """Add --target_prior."""
    group.add_argument('--target_prior', metavar='train|uniform|estimate|FILE',
                       help='change the class frequencies that the probabilities assume to those of the training csv, to equal ones, to an '
                            'estimate from the predictions of these images, or to those of a csv with the columns label (class names or '
                            'numbers) and prior')


def validation_csv(csv_tune: str | None, csvs: Mapping[str, str], config: dict, flag: str = '--csv_tune') -> str:
    """Return the csv to choose strength and temperature on. `csvs`: split -> csv to report; `config`: of the checkpoint; `flag`: which
    names another csv."""
    if csv_tune:
        return csv_tune
    if 'test' in csvs and 'val' in csvs:
        return csvs['val']
    if not os.path.isfile(config['csv_val']):
        raise InputError(f"the validation csv of the training run, {config['csv_val']}, was not found: give one with {flag}")
    return config['csv_val']


def given_correction(args: argparse.Namespace) -> str | None:
    """Return the name of the requested correction, or None. Raises `InputError` for more than one."""
    given = [name for name in ('tau_norm', 'logit_adjust', 'target_prior') if getattr(args, name) is not None]
    if len(given) > 1:
        raise InputError(f"--{' and --'.join(given)} correct for the class frequencies more than once: use only one of them")
    return given[0] if given else None


def priors(target_prior: str, info: dict) -> tuple[np.ndarray, np.ndarray]:
    """-> the class prior that the network has learnt, and that of --target_prior, float64 (K,). `info`: facts of the checkpoint"""
    learnt = implied_prior(info['config'], info['class_count'], last_epoch(info))
    expected = read_prior(target_prior, info['class_count'], info['class_names'])
    if not ((learnt > 0) & (expected > 0)).any():
        raise InputError(f'--target_prior {target_prior}: the network was not trained on any class with a prior above 0')
    return learnt, expected


def tune(network: NetworkUnderTest, loaders: Mapping[str, ClassLoader]) -> Tuning:
    """Choose the strength and temperature that the flags ask for. `loaders`: split -> loader of the csv to report."""
    csv, logits = _images_to_choose_on(network, loaders)
    return tune_on(network, csv, logits)


def tune_on(network: NetworkUnderTest, csv: str | None, logits: Logits) -> Tuning:
    """Choose the strength and temperature that the flags ask for on the `logits` of the validation images `csv`.

    A change of the class prior assumes that logits are log posteriors, so the temperature is fitted and applied before it, at the learnt
    prior. Tau-normalisation is not a prior shift and changes the confidence, so there the temperature comes last.
    """
    args = network.args
    name = given_correction(args)
    shown = printable(csv)  # for reports
    if name == 'target_prior':
        learnt, expected = priors(args.target_prior, network.info)
    else:
        learnt = np.asarray(network.info['class_count']) / np.sum(network.info['class_count'])  # assumed by logit adjustment
    temperature = adjust = correction = None
    if args.calibrate and name in ('logit_adjust', 'target_prior'):
        temperature = Temperature(*fit_source_temperature(logits, learnt), shown, comes_first=True)
        logits = tempered(logits, temperature.value)
    if name == 'target_prior':
        return changed_prior(args.target_prior, learnt, expected)._replace(temperature=temperature, csv=csv)
    if name:
        adjust, correction = _adjust_by_strength(name, network, shown, logits)
    if args.calibrate and temperature is None:
        labels = logits.labels.numpy()
        temperature = Temperature(fit_temperature(to_predictions(logits, adjust).probs, labels), len(labels), shown)
    return Tuning(adjust, correction, temperature, csv)


def changed_prior(source: str, learnt: np.ndarray, expected: np.ndarray, *, bias: float | np.ndarray = 0.) -> Tuning:
    """Change the class frequencies that logits assume from `learnt` to `expected`, float64 (K,), after adding a `bias`. `source`: where the
    new frequencies come from, for reports."""
    correction = Correction('target_prior', prior=printable(source), learnt=tuple(learnt.tolist()), expected=tuple(expected.tolist()))
    return Tuning(prior_changer(learnt, expected, bias), correction)


def _images_to_choose_on(network, loaders):
    """-> the csv to choose on and its `Logits`; both are None if there is nothing to choose. Raises `InputError` if the csv has no labels
    or contains images that must not be used."""
    if not chooses(network.args):
        return None, None
    reported = {split: loader.dataset for split, loader in loaders.items()}
    csv = validation_csv(network.args.csv_tune, {split: data.csv_path for split, data in reported.items()}, network.info['config'])
    loader = network.loader(csv, is_tuned_on=True)
    check_tuning(loader.dataset, reported, network.info, network.args.num_workers)
    logits = network.logits(loader, 'tune')
    if (logits.labels < 0).any():
        raise InputError(f'{csv} has no labels, which are needed to choose a strength or temperature (--csv_tune)')
    return csv, logits


def _adjust_by_strength(name, network, csv, logits):
    """Adjustment for `name`, tau_norm or logit_adjust. If the value of its flag is VALIDATION, tau is chosen on the `logits` of `csv`.
    -> adjustment, `Correction`"""
    config, tau = network.info['config'], getattr(network.args, name)
    loss, sampling = config['loss_fn'], config['sampling']
    corrected_by = [*([loss] if LOSSES[loss].corrects_prior else []), *([f'--sampling {sampling}'] if sampling != 'instance' else [])]
    if corrected_by:
        print(f"* Warning: {' and '.join(corrected_by)} corrected for the class frequencies in training; --{name} corrects for them again")
    adjuster = tau_normaliser(network.loaded.model) if name == 'tau_norm' else logit_adjuster(network.info['class_count'])
    chosen = None
    if tau == VALIDATION:
        tau, after, before = choose_strength(adjuster, logits)
        chosen = Choice(csv, before, after)
    return adjuster(tau), Correction(name, tau, chosen)


def corrected(logits: Logits, tuning: Tuning, class_names: list[str]) -> tuple[Predictions, Temperature | None]:
    """Apply `tuning` to the logits of a csv. -> predictions, and the temperature; with labels it has the scores before and after"""
    before, temperature = to_predictions(logits, tuning.adjust), tuning.temperature
    if temperature is None:
        return before, None
    if temperature.comes_first:
        after = to_predictions(tempered(logits, temperature.value), tuning.adjust)
    else:
        after = scaled(before, temperature.value)
    if before.labels is None:
        return after, temperature
    old, new = figures_of(before, class_names), figures_of(after, class_names)
    return after._replace(loss=new['nll']), dataclasses.replace(temperature, before=old, after=new)
