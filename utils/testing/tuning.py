"""What a test chooses on validation images: the strength of a post-hoc correction, and the temperature of the calibration."""
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


class Tuning(NamedTuple):
    """What is done to the logits of a test, and on which csv it was chosen. Nothing, by default."""
    adjust: Adjustment | None = None
    correction: Correction | None = None  # what `adjust` is
    temperature: Temperature | None = None
    csv: str | None = None  # None where nothing was chosen


def chooses(args: argparse.Namespace) -> bool:
    """Whether a strength or temperature is to be chosen on validation images."""
    return args.calibrate or VALIDATION in (args.tau_norm, args.logit_adjust)


def parse_strength(text: str) -> str | float:
    """Value of --tau_norm and --logit_adjust: VALIDATION or a number."""
    return text if text == VALIDATION else float(text)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the corrections and of the calibration."""
    group = parser.add_argument_group('corrections without training', 'at most one of the first three')
    group.add_argument('--tau_norm', nargs='?', const=VALIDATION, type=parse_strength, metavar='TAU',
                       help='divide each class vector of the classifier by its norm to the TAU, after plain training '
                            '(without TAU: chosen on --csv_tune)')
    group.add_argument('--logit_adjust', nargs='?', const=VALIDATION, type=parse_strength, metavar='TAU',
                       help='subtract TAU times the log class frequency, after plain training (without TAU: chosen on --csv_tune)')
    group.add_argument('--target_prior', metavar='train|uniform|FILE',
                       help='expect other class frequencies than those the network learnt: those of the training csv, equal ones, '
                            'or a csv with the columns label (class names or numbers) and prior')
    group.add_argument('--calibrate', action='store_true',
                       help='temperature scaling, fitted on --csv_tune: before --logit_adjust or --target_prior, after --tau_norm; alone '
                            'it keeps the predicted classes, but may change AUC and classwise ECE')
    group.add_argument('--csv_tune', metavar='CSV', help='where strengths and temperature are chosen (default: --csv_val beside a test '
                                                         'csv, else the validation csv of the training)')


def validation_csv(csv_tune: str | None, csvs: Mapping[str, str], config: dict) -> str:
    """Return the csv to choose on. `csvs`: split -> csv to report; `config`: of the checkpoint."""
    if csv_tune:
        return csv_tune
    if 'test' in csvs and 'val' in csvs:
        return csvs['val']
    if not os.path.isfile(config['csv_val']):
        raise InputError(f"the validation csv of the training, {config['csv_val']}, is not here to choose on: name one with --csv_tune")
    return config['csv_val']


def given_correction(args: argparse.Namespace) -> str | None:
    """Return the name of the correction that is asked for, None for none. Raises `InputError` for more than one."""
    given = [name for name in ('tau_norm', 'logit_adjust', 'target_prior') if getattr(args, name) is not None]
    if len(given) > 1:
        raise InputError(f"--{' and --'.join(given)} correct for the class frequencies twice: give one of them")
    return given[0] if given else None


def priors(target_prior: str, info: dict) -> tuple[np.ndarray, np.ndarray]:
    """-> the class prior that a checkpoint with facts `info` has learnt, and the one that --target_prior expects; both float64 (K,)."""
    learnt = implied_prior(info['config'], info['class_count'], last_epoch(info))
    expected = read_prior(target_prior, info['class_count'], info['class_names'])
    if not ((learnt > 0) & (expected > 0)).any():
        raise InputError(f'--target_prior {target_prior}: the network was trained on none of the classes that are expected')
    return learnt, expected


def tune(network: NetworkUnderTest, loaders: Mapping[str, ClassLoader]) -> Tuning:
    """Choose what the flags ask for. `loaders`: split -> loader of the csv to report.

    A shift of the class prior takes logits for log posteriors, so their temperature comes before it, fitted at the prior that they carry.
    Tau-normalisation is no such shift and changes the sharpness itself: there the temperature comes last.
    """
    args = network.args
    name = given_correction(args)
    csv, logits = _images_to_choose_on(network, loaders)
    shown = printable(csv)  # as reports name it
    if name == 'target_prior':
        learnt, expected = priors(args.target_prior, network.info)
    else:
        learnt = np.asarray(network.info['class_count']) / np.sum(network.info['class_count'])  # as logit adjustment assumes
    temperature = adjust = correction = None
    if args.calibrate and name in ('logit_adjust', 'target_prior'):
        temperature = Temperature(*fit_source_temperature(logits, learnt), shown, comes_first=True)
        logits = tempered(logits, temperature.value)
    if name == 'target_prior':
        adjust = prior_changer(learnt, expected)
        correction = Correction(name, prior=printable(args.target_prior), learnt=tuple(learnt.tolist()), expected=tuple(expected.tolist()))
    elif name:
        adjust, correction = _adjust_by_strength(name, network, shown, logits)
    if args.calibrate and temperature is None:
        labels = logits.labels.numpy()
        temperature = Temperature(fit_temperature(to_predictions(logits, adjust).probs, labels), len(labels), shown)
    return Tuning(adjust, correction, temperature, csv)


def _images_to_choose_on(network, loaders):
    """-> the csv to choose on and its `Logits`, both None where nothing is to be chosen. Raises `InputError` where the csv has no labels,
    or images that must not be used."""
    if not chooses(network.args):
        return None, None
    reported = {split: loader.dataset for split, loader in loaders.items()}
    csv = validation_csv(network.args.csv_tune, {split: data.csv_path for split, data in reported.items()}, network.info['config'])
    loader = network.loader(csv, is_tuned_on=True)
    check_tuning(loader.dataset, reported, network.info, network.args.num_workers)
    logits = network.logits(loader, 'tune')
    if (logits.labels < 0).any():
        raise InputError(f'{csv} has no labels to choose a strength or temperature by (--csv_tune)')
    return csv, logits


def _adjust_by_strength(name, network, csv, logits):
    """`name`: tau_norm or logit_adjust, with a number as its value, or VALIDATION to choose it by the `logits` of `csv`. -> the adjustment,
    and the `Correction` that it is"""
    config, tau = network.info['config'], getattr(network.args, name)
    loss, sampling = config['loss_fn'], config['sampling']
    corrected_by = [*([loss] if LOSSES[loss].corrects_prior else []), *([f'--sampling {sampling}'] if sampling != 'instance' else [])]
    if corrected_by:
        print(f"* Warning: {' and '.join(corrected_by)} corrected for the class frequencies in training, and --{name} does it again")
    adjuster = tau_normaliser(network.loaded.model) if name == 'tau_norm' else logit_adjuster(network.info['class_count'])
    chosen = None
    if tau == VALIDATION:
        tau, after, before = choose_strength(adjuster, logits)
        chosen = Choice(csv, before, after)
    return adjuster(tau), Correction(name, tau, chosen)


def corrected(logits: Logits, tuning: Tuning, class_names: list[str]) -> tuple[Predictions, Temperature | None]:
    """Apply `tuning` to the logits of a csv. -> its predictions, and the temperature with its effect on them where they have labels"""
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
