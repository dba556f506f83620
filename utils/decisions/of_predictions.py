"""Decisions on predictions csvs: rules fitted on one csv and measured on another one, and costs."""
import argparse
from collections.abc import Sequence
from typing import Any

from utils.common import InputError, counted
from utils.decisions.costs import QUADRATIC, read_costs
from utils.decisions.prediction_sets import KINDS
from utils.decisions.rules import Rules, fit_rules, rules_from_json
from utils.decisions.scores import cost_decisions, cost_figures, costs_text, figures_as_json, rule_figures, rules_text
from utils.prediction.per_group import parse_per, per_group
from utils.prediction.predictions import PredictionTable, read_labelled
from utils.runs.provenance import results_of
from utils.runs.results import results_path
from utils.statistics.bootstrap import check_classes
from utils.statistics.calibration import apply_temperature, fit_temperature
from utils.statistics.weighted_metrics import labels_of

NEEDED = ('coverage', 'abstain')  # flags that need --calibration


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of decisions to a tool that reads predictions csvs."""
    group = parser.add_argument_group('decisions')
    group.add_argument('--calibration', metavar='VAL.csv',
                       help='predictions of the same network for validation images; fits prediction sets, thresholds and a temperature')
    group.add_argument('--coverage', type=float, metavar='SHARE',
                       help='prediction sets that contain the true class with this probability, such as 0.9')
    group.add_argument('--abstain', type=float, metavar='SHARE', help='leave this share of images undecided, such as 0.1')
    group.add_argument('--costs', metavar=f'{QUADRATIC}|FILE',
                       help='costs of wrong decisions: a csv with a row for each true class and a column for each decision, or '
                            f'{QUADRATIC} for grades')


def check_flags(args: argparse.Namespace) -> None:
    """Raise `InputError` for flags that are out of range or do not fit together."""
    for name in NEEDED:
        value = getattr(args, name)
        if value is not None and not 0 < value < 1:
            raise InputError(f'--{name} {value:g} must be between 0 and 1')
        if value is not None and not args.calibration:
            raise InputError(f'--{name} needs --calibration VAL.csv, predictions of validation images: nothing may be fitted on the images '
                             'that are reported')
    if args.calibration and len(args.csvs) > 1:
        raise InputError('--calibration needs a single predictions csv: evaluate the csvs one by one')
    if args.costs and len(args.csvs) > 1:
        raise InputError('--costs needs a single predictions csv: evaluate the csvs one by one')


def read_calibration(path: str, table: PredictionTable) -> PredictionTable:
    """Read the csv of --calibration for the tested `table`. Raises `InputError` if it has some of the same images, other classes, or
    predictions of another network or test."""
    calibration = read_labelled(path)
    check_classes(calibration, table.class_names, table.path)
    if shared := set(calibration.image_ids) & set(table.image_ids):
        raise InputError(f"--calibration {path} has {counted(len(shared), 'image')} of {table.path}, first {min(shared)}: nothing may be "
                         'fitted on the images that are reported')
    first, second = results_of(path), results_of(table.path)
    if first and second and first.csv and second.csv and first.csv.sha256 == second.csv.sha256:
        raise InputError(f'--calibration {path} has predictions of {second.csv.path}, the images of {table.path}: nothing may be fitted on '
                         'the images that are reported')
    if first and second and first.checkpoint and second.checkpoint:
        if first.checkpoint != second.checkpoint:
            raise InputError(f'--calibration {path} was predicted by another checkpoint, {first.checkpoint.folder}, than {table.path}, '
                             f'{second.checkpoint.folder}')
        ways = [(each.tta, each.correction, each.temperature and each.temperature.value) for each in (first, second)]
        if ways[0] != ways[1]:
            raise InputError(f'--calibration {path} and {table.path} were predicted in different ways ({first.way}; {second.way}): test '
                             'both with --no_decision and the same other flags')
    return calibration


def saved_rules(table: PredictionTable) -> Rules | None:
    """The rules of the decision file with which a test script predicted the file of `table`; None without one."""
    results = results_of(table.path)
    if results is None or results.decision is None:
        return None
    return rules_from_json(results.decision.get('rules'), len(table.class_names), results_path(table.path))


def evaluate_decisions(table: PredictionTable, args: argparse.Namespace, *, levels: Sequence[float], ordered: bool, referable: int,
                       frequencies: Sequence[float] | None) -> tuple[str, dict[str, Any]]:
    """Measure decisions on the labelled `table`, as the flags in `args` say. -> text for the console, and plain values for JSON.

    Rules are fitted on --calibration; without it, they are those of the decision file of the test. `frequencies`: class frequencies (K,)
    that the probabilities assume, for prevalence-adjusted sets; None for those of the calibration images.
    """
    options = {'seed': args.seed, 'stratified': args.stratified}
    parts: list[str] = []
    result: dict[str, Any] = {}
    calibration = read_calibration(args.calibration, table) if args.calibration else None
    if calibration:
        rules = fit_rules(calibration.probs, labels_of(calibration), table.class_names, coverage=args.coverage, kinds=tuple(KINDS),
                          levels=levels, referable=referable if ordered else 0, abstain=args.abstain, frequencies=frequencies)
        source = f'{args.calibration}, {counted(len(calibration.preds), "image")}'
        if both := set(calibration.patient_ids or []) & set(table.patient_ids or []):
            parts.append(f'Note: {counted(len(both), "patient")} of {table.path} also in {args.calibration}: the figures are optimistic.')
    else:
        rules, source = saved_rules(table) or Rules(), 'validation images, in the decision file of the run'
    results = None if calibration else results_of(table.path)
    if results and results.decision and results.decision['note']:
        parts.append(f"Note: {results.decision['note']}.")
    if any(rules):
        figures = rule_figures(table, rules, args.draws, **options)
        parts.append(f'Decisions fitted on {source}\n\n{rules_text(table, rules, figures)}')
        result |= {'calibration': args.calibration, 'rules': figures_as_json(figures),
                   'points': [point._asdict() for point in rules.points]}
    if args.costs:
        costs, calibrated, unit, per = read_costs(args.costs, table.class_names, ordered), None, 'image', parse_per(args.per)
        if calibration:
            temperature = fit_temperature(calibration.probs, labels_of(calibration))
            calibrated = apply_temperature(table.probs, temperature)
        if per:  # one decision for the images of a patient
            unit = 'patient' if per.column == 'patient_id' else 'group'
            calibrated = None if calibrated is None else per_group(table._replace(probs=calibrated), per).probs
            table = per_group(table, per)
        decisions = cost_decisions(table, costs, calibrated)
        of_costs = cost_figures(table, costs, decisions, args.draws, **options)
        parts.append(costs_text(table, of_costs, decisions, source=args.costs, unit=unit))
        result |= {'costs': figures_as_json(of_costs)['costs']}
    return '\n\n'.join(parts), result
