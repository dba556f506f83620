"""The decision rules of a network: prediction sets, operating points and abstention, fitted together and stored as plain values."""
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from utils.common import InputError, preview
from utils.decisions.abstention import Abstention, fit_abstention
from utils.decisions.operating_points import OperatingPoint, fit_operating_points
from utils.decisions.prediction_sets import KINDS, SetRule, fit_sets, images_needed
from utils.runs.formats import COUNT, COUNTS, NUMBER, TEXT, Kind, are, check_keys

SHARE = Kind('a number between 0 and 1', lambda value: NUMBER.fits(value) and 0 <= value <= 1)
SHARES = Kind('a list of numbers between 0 and 1', are(SHARE.fits))
THRESHOLDS = Kind('a list of numbers or null', are(lambda value: value is None or NUMBER.fits(value)))
SETS = {'kind': Kind(f"one of {', '.join(KINDS)}", lambda value: isinstance(value, str) and value in KINDS),
        'coverage': Kind('a number above 0 and below 1', lambda value: NUMBER.fits(value) and 0 < value < 1), 'thresholds': THRESHOLDS,
        'frequencies': SHARES, 'counts': COUNTS}
POINT = {'name': TEXT, 'first': COUNT, 'last': COUNT, 'aim': Kind('sensitivity or specificity',
         lambda value: value in ('sensitivity', 'specificity')), 'level': SHARE, 'threshold': NUMBER, 'n': COUNT}
ABSTENTION = {'share': SHARE, 'threshold': NUMBER}


class Rules(NamedTuple):
    """Fitted rules. Only the first of `sets` is used for predictions; the others are for comparison."""
    sets: tuple[SetRule, ...] = ()
    points: tuple[OperatingPoint, ...] = ()
    abstention: Abstention | None = None


def fit_rules(probs: np.ndarray, labels: np.ndarray, class_names: Sequence[str], *, coverage: float | None = None,
              kinds: Sequence[str] = (), levels: Sequence[float] = (), referable: int = 0, abstain: float | None = None,
              frequencies: Sequence[float] | None = None) -> Rules:
    """Fit the wanted rules on calibration images with probabilities (N, K) and labels int (N,): see `fit_sets`, `fit_operating_points`
    and `fit_abstention`."""
    sets = tuple(fit_sets(probs, labels, coverage, kind, frequencies=frequencies) for kind in kinds) if coverage else ()
    points = fit_operating_points(probs, labels, class_names, levels, referable=referable)
    return Rules(sets, tuple(points), fit_abstention(probs, abstain) if abstain else None)


def rules_as_json(rules: Rules) -> dict[str, Any]:
    """`Rules` -> plain values; infinite thresholds are null."""
    return {'sets': [rule._asdict() | {'thresholds': [None if math.isinf(t) else t for t in rule.thresholds]} for rule in rules.sets],
            'points': [point._asdict() for point in rules.points],
            'abstention': rules.abstention and rules.abstention._asdict()}


def rules_from_json(saved: Any, n_classes: int, source: str) -> Rules:
    """Reverse `rules_as_json`. Raises `InputError` naming `source` and the key for values that are missing or invalid."""
    if not isinstance(saved, dict) or not {'sets', 'points', 'abstention'} <= saved.keys():
        raise InputError(f'{source} must be a dictionary with sets, points and abstention')

    def parts(key, kinds):
        found = saved[key]
        if not isinstance(found, list) or not all(isinstance(part, dict) for part in found):
            raise InputError(f"{source}: '{key}' must be a list of dictionaries")
        for part in found:
            check_keys(part, f"{source}, '{key}'", kinds)
        return [{name: part[name] for name in kinds} for part in found]
    sets, points = parts('sets', SETS), parts('points', POINT)
    for part in sets:
        if {len(part[name]) for name in ('thresholds', 'frequencies', 'counts')} != {n_classes}:
            raise InputError(f"{source}: 'sets' must have {n_classes} thresholds, frequencies and counts")
    for part in points:
        if not part['first'] <= part['last'] < n_classes:
            raise InputError(f"{source}: 'points' names a class outside 0..{n_classes - 1}")
    if saved['abstention'] is not None:
        if not isinstance(saved['abstention'], dict):
            raise InputError(f"{source}: 'abstention' must be a dictionary or null")
        check_keys(saved['abstention'], f"{source}, 'abstention'", ABSTENTION)
    return Rules(tuple(SetRule(**part | {'thresholds': tuple(math.inf if t is None else t for t in part['thresholds']),
                                         'frequencies': tuple(part['frequencies']), 'counts': tuple(part['counts'])}) for part in sets),
                 tuple(OperatingPoint(**part) for part in points),
                 Abstention(**{name: saved['abstention'][name] for name in ABSTENTION}) if saved['abstention'] else None)


def few_images_note(rule: SetRule, class_names: Sequence[str]) -> str | None:
    """Sentence that names the classes with too few calibration images for a threshold of their own, and the number that they need."""
    if rule.kind not in ('class', 'between') or not rule.too_few:
        return None
    needed = images_needed(rule.coverage)
    shown = preview([f'{class_names[c]} ({rule.counts[c]})' for c in rule.too_few])
    what = 'they are in every set' if rule.kind == 'class' else 'the highest score counts as their own threshold'
    return (f'too few calibration images of {shown} for a threshold of their own at a coverage of {100 * rule.coverage:g} %: at least '
            f'{needed} are needed, so {what}')
