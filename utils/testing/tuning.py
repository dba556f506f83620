"""What a test chooses on validation images: the strength of a post-hoc correction, and the temperature of the calibration."""
import os
from typing import NamedTuple

import numpy as np

from utils.common import InputError
from utils.data.leakage import check_tuning
from utils.losses import LOSSES
from utils.prediction.inference import tempered, to_predictions
from utils.statistics.calibration import Calibration, compared, fit_temperature, scaled
from utils.testing.post_hoc import (
    choose_strength,
    fit_source_temperature,
    implied_prior,
    last_epoch,
    logit_adjuster,
    prior_changer,
    prior_text,
    read_prior,
    tau_normaliser,
)

VALIDATION = 'val'  # value of --tau_norm and --logit_adjust without a number


class Tuning(NamedTuple):
    adjust: object = None  # function of logits, see `to_predictions`
    text: str = ''  # what it is, for the report
    calibration: Calibration | None = None
    csv: str | None = None  # on which something was chosen


def chooses(args):
    """Whether a strength or temperature is to be chosen on validation images."""
    return args.calibrate or VALIDATION in (args.tau_norm, args.logit_adjust)


def parse_strength(text):
    return text if text == VALIDATION else float(text)


def add_flags(parser):
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


def validation_csv(csv_tune, csvs, config):
    """The csv to choose on. `csvs`: split -> csv to report; `config`: of the checkpoint."""
    if csv_tune:
        return csv_tune
    if 'test' in csvs and 'val' in csvs:
        return csvs['val']
    if not os.path.isfile(config['csv_val']):
        raise InputError(f"the validation csv of the training, {config['csv_val']}, is not here to choose on: name one with --csv_tune")
    return config['csv_val']


def given_corrections(args):
    """The names of the corrections that are asked for: one or none. Raises `InputError` for more."""
    given = [name for name in ('tau_norm', 'logit_adjust', 'target_prior') if getattr(args, name) is not None]
    if len(given) > 1:
        raise InputError(f"--{' and --'.join(given)} correct for the class frequencies twice: give one of them")
    return given


def corrected(logits, tuning, class_names):
    """`Logits` of a csv to report -> its `Predictions`, and what was done to them, for the report."""
    predictions, calibration = to_predictions(logits, tuning.adjust), tuning.calibration
    if calibration is None:
        return predictions, tuning.text
    if calibration.comes_first:
        after = to_predictions(tempered(logits, calibration.temperature), tuning.adjust)
    else:
        after = scaled(predictions, calibration.temperature)
    after, line = compared(predictions, after, calibration, class_names)
    return after, tuning.text + line


def priors(target_prior, info):
    """-> the class prior that a checkpoint with facts `info` has learnt, and the one that --target_prior expects; both float64 (K,)."""
    learnt = implied_prior(info['config'], info['class_count'], last_epoch(info))
    expected = read_prior(target_prior, info['class_count'], info['class_names'])
    if not ((learnt > 0) & (expected > 0)).any():
        raise InputError(f'--target_prior {target_prior}: the network was trained on none of the classes that are expected')
    return learnt, expected


def adjust_by_strength(name, tau, loaded, csv, logits):
    """`name`: tau_norm or logit_adjust; `tau`: a number, or VALIDATION to choose it by `logits` of `csv`. -> adjust and text of `Tuning`"""
    loss, sampling = (loaded.info['config'][key] for key in ('loss_fn', 'sampling'))
    corrected_by = [*([loss] if LOSSES[loss].corrects_prior else []), *([f'--sampling {sampling}'] if sampling != 'instance' else [])]
    if corrected_by:
        print(f"* Warning: {' and '.join(corrected_by)} corrected for the class frequencies in training, and --{name} does it again")
    adjuster = tau_normaliser(loaded.model) if name == 'tau_norm' else logit_adjuster(loaded.info['class_count'])
    chosen = ''
    if tau == VALIDATION:
        tau, after, before = choose_strength(adjuster, logits)
        chosen = f', chosen on {csv} (balanced accuracy {100 * before:.2f} -> {100 * after:.2f})'
    return adjuster(tau), f"{'Tau-normalisation' if name == 'tau_norm' else 'Logit adjustment'} with tau {tau:g}{chosen}\n"


def tune(args, loaders, loaded, get_loader, collect):
    """-> Tuning. `loaders`: split -> loader of the csv to report; `get_loader(csv)` -> loader; `collect(loader)` -> its `Logits`.

    A shift of the class prior takes logits for log posteriors, so their temperature comes before it, fitted at the prior that they carry.
    Tau-normalisation is no such shift and changes the sharpness itself: there the temperature comes last.
    """
    given = given_corrections(args)
    info, adjust, text, csv, logits, calibration = loaded.info, None, '', None, None, None
    if chooses(args):
        reported = {split: loader.dataset for split, loader in loaders.items()}
        csv = validation_csv(args.csv_tune, {split: data.csv_path for split, data in reported.items()}, info['config'])
        loader = get_loader(csv)
        check_tuning(loader.dataset, reported, info, args.num_workers)
        logits = collect(loader)
        if (logits.labels < 0).any():
            raise InputError(f'{csv} has no labels to choose a strength or temperature by (--csv_tune)')
    learnt = np.asarray(info['class_count']) / np.sum(info['class_count'])  # as logit adjustment assumes
    if args.target_prior is not None:
        learnt, expected = priors(args.target_prior, info)
        adjust = prior_changer(learnt, expected)
        text = f'Class prior changed to: {args.target_prior}\n' + prior_text(info['class_names'], learnt, expected)
    if args.calibrate and given in (['logit_adjust'], ['target_prior']):
        temperature, n_images = fit_source_temperature(logits, learnt)
        calibration = Calibration(temperature, csv, n_images, comes_first=True)
        logits = tempered(logits, temperature)
    if given in (['tau_norm'], ['logit_adjust']):
        adjust, text = adjust_by_strength(given[0], getattr(args, given[0]), loaded, csv, logits)
    if args.calibrate and calibration is None:
        predictions = to_predictions(logits, adjust)
        calibration = Calibration(fit_temperature(predictions.probs, predictions.labels), csv, len(predictions.labels))
    return Tuning(adjust, text, calibration, csv)
