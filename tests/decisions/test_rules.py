"""Rules as plain values: there and back through JSON, and errors that name the key."""
import json
import math
import re

import numpy as np
import pytest

from tests.decisions.examples import RULES
from tests.decisions.gaussians import random_probs
from utils.common import InputError
from utils.decisions.abstention import Abstention, fit_abstention
from utils.decisions.operating_points import OperatingPoint, fit_operating_points
from utils.decisions.prediction_sets import KINDS, SetRule, fit_sets
from utils.decisions.rules import Rules, few_images_note, fit_rules, rules_as_json, rules_from_json

NAMES = list('abc')


def through_json(rules, k):
    return rules_from_json(json.loads(json.dumps(rules_as_json(rules), allow_nan=False)), k, 'file')


@pytest.mark.parametrize('rules', [RULES, Rules(), Rules(sets=RULES.sets * 2), Rules(points=RULES.points),
                                   Rules(abstention=RULES.abstention)])
def test_there_and_back(rules):
    assert through_json(rules, 3) == rules


@pytest.mark.parametrize('k', [2, 23])
@pytest.mark.parametrize('frequencies', [None, 'uniform'])
def test_fitted_rules_there_and_back(k, frequencies):
    probs, labels = random_probs(150, k, 0)
    rules = fit_rules(probs, labels, [f'c{c}' for c in range(k)], coverage=.95, kinds=tuple(KINDS), levels=[.9], referable=1, abstain=.2,
                      frequencies=None if frequencies is None else np.full(k, 1 / k))
    assert through_json(rules, k) == rules


def test_infinite_thresholds_are_null():
    assert rules_as_json(RULES)['sets'][0]['thresholds'] == [.5, None, .25]


def test_fitted_rules_are_those_of_each_module():
    probs, labels = random_probs(200, 3, 1)
    rules = fit_rules(probs, labels, NAMES, coverage=.8, kinds=('marginal', 'class'), levels=[.8], referable=2, abstain=.3)
    assert rules == Rules((fit_sets(probs, labels, .8, 'marginal'), fit_sets(probs, labels, .8, 'class')),
                          tuple(fit_operating_points(probs, labels, NAMES, [.8], referable=2)), fit_abstention(probs, .3))


def test_no_rules():
    assert fit_rules(*random_probs(20, 3, 2), NAMES) == Rules()


def edited(**changes):
    """RULES as plain values. changes: section__key=value; the value ... removes the key."""
    saved = json.loads(json.dumps(rules_as_json(RULES)))
    for name, value in changes.items():
        section, _, key = name.partition('__')
        place = saved if not key else saved[section] if section == 'abstention' else saved[section][0]
        if value is ...:
            del place[key or section]
        else:
            place[key or section] = value
    return saved


KEYS = [('sets', name) for name in SetRule._fields] + [('points', name) for name in OperatingPoint._fields] + [
    ('abstention', name) for name in Abstention._fields]


@pytest.mark.parametrize(('section', 'key'), KEYS)
def test_a_missing_key(section, key):
    with pytest.raises(InputError, match=rf"^file, '{section}' is incomplete: it lacks {key}$"):
        rules_from_json(edited(**{f'{section}__{key}': ...}), 3, 'file')


VALUES = [True, 'wrong', None, math.nan, -1, [math.inf], [[1]], []]
VALID = {'name': ['wrong'], 'threshold': [-1], 'kind': [[math.inf], [[1]], []]}  # a kind that is a list: see the next test


@pytest.mark.parametrize(('section', 'key', 'value'), [(*pair, value) for pair in KEYS for value in VALUES
                                                       if value not in VALID.get(pair[1], [])])
def test_a_value_of_another_type(section, key, value):
    with pytest.raises(InputError, match=rf"^file, '{section}': '{key}' must be "):
        rules_from_json(edited(**{f'{section}__{key}': value}), 3, 'file')


@pytest.mark.parametrize('value', [[], {}])
def test_a_kind_that_is_no_text(value):
    with pytest.raises(InputError, match=r"^file, 'sets': 'kind' must be one of marginal, "):
        rules_from_json(edited(sets__kind=value), 3, 'file')


@pytest.mark.parametrize('section', ['sets', 'points', 'abstention'])
def test_a_missing_section(section):
    with pytest.raises(InputError, match=r'^file must be a dictionary with sets, points and abstention$'):
        rules_from_json(edited(**{section: ...}), 3, 'file')


@pytest.mark.parametrize('saved', [None, [], 'text', 3])
def test_no_dictionary(saved):
    with pytest.raises(InputError, match=r'^file must be a dictionary with sets, points and abstention$'):
        rules_from_json(saved, 3, 'file')


@pytest.mark.parametrize(('changes', 'message'), [
    ({'sets': {}}, "'sets' must be a list of dictionaries"), ({'points': [3]}, "'points' must be a list of dictionaries"),
    ({'points': None}, "'points' must be a list of dictionaries"), ({'abstention': []}, "'abstention' must be a dictionary or null"),
    ({'sets__counts': [1, 2]}, "'sets' must have 3 thresholds, frequencies and counts"),
    ({'sets__thresholds': [1] * 4}, "'sets' must have 3 thresholds, frequencies and counts"),
    ({'points__last': 3}, "'points' names a class outside 0..2"),
    ({'points__first': 2, 'points__last': 1}, "'points' names a class outside 0..2")])
def test_content_that_does_not_fit(changes, message):
    with pytest.raises(InputError, match='^file: ' + re.escape(message)):
        rules_from_json(edited(**changes), 3, 'file')


def test_further_keys_are_ignored():
    assert rules_from_json(edited(sets__added=1, points__added=2, abstention__added=3), 3, 'file') == RULES


def test_note_on_few_images():
    assert few_images_note(RULES.sets[0], NAMES) == (
        'too few calibration images of b (3) for a threshold of their own at a coverage of 90 %: at least 9 are needed, so they are in '
        'every set')
    assert few_images_note(RULES.sets[0]._replace(kind='between'), NAMES).endswith('the highest score counts as their own threshold')


@pytest.mark.parametrize('rule', [RULES.sets[0]._replace(kind='marginal'), RULES.sets[0]._replace(counts=(9, 9, 9))])
def test_no_note(rule):
    assert few_images_note(rule, NAMES) is None


def test_a_coverage_of_1():
    with pytest.raises(InputError):
        few_images_note(rules_from_json(edited(sets__coverage=1.), 3, 'file').sets[0], NAMES)
