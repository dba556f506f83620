"""Figures of decision rules and costs against direct computation, with and without patients, and the rows of their tables."""
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, recall_score

from tests.decisions.gaussians import random_probs
from tests.factories import random_table
from utils.decisions.abstention import risk_at_coverage
from utils.decisions.costs import least_cost
from utils.decisions.prediction_sets import KINDS, apply_sets
from utils.decisions.rules import Rules, fit_rules
from utils.decisions.scores import (
    OF_ABSTENTION,
    OF_SETS,
    abstention_rows,
    cost_decisions,
    cost_figures,
    cost_rows,
    costs_text,
    figures_as_json,
    point_rows,
    recall_rows,
    risk_text,
    rule_figures,
    rules_text,
    set_class_rows,
    set_notes,
    set_rows,
    summary_lines,
)

NAMES = list('abcd')
COSTS = np.array([[0., 1, 1, 1], [5, 0, 1, 1], [5, 2, 0, 1], [40, 9, 3, 0]])


def rules_of(names=NAMES):
    calibration = random_table(1, n=150, names=names)
    return fit_rules(calibration.probs, calibration.labels, names, coverage=.9, kinds=tuple(KINDS), levels=[.8, .9], referable=2,
                     abstain=.25)


@pytest.fixture(scope='module', params=['images', 'patients', 'absent class', 'one class', 'ties'])
def table(request):
    absent = {'absent class': (2,), 'one class': (0, 2, 3)}.get(request.param, ())
    table = random_table(0, n=120, names=NAMES, absent=absent, ties=request.param == 'ties')
    return table._replace(patient_ids=[str(i // 3) for i in range(120)]) if request.param == 'patients' else table


@pytest.fixture(scope='module')
def rules():
    return rules_of()


@pytest.fixture(scope='module')
def figures(table, rules):
    return rule_figures(table, rules, 60)


def mean(values):
    """Mean, None for no values."""
    return float(np.mean(values)) if len(values) else None


def same(figures, key, expected):
    cell = figures.cell(key)
    assert cell['value'] is None if expected is None else cell['value'] == pytest.approx(expected)
    return True


@pytest.mark.parametrize('number', range(4))
def test_sets(table, rules, figures, number):
    rule, y = rules.sets[number], table.labels
    inside = apply_sets(table.probs, rule)
    covered = [inside[i, c] for i, c in enumerate(y)]
    assert same(figures, ('sets', rule.kind, 'coverage'), mean(covered))
    assert same(figures, ('sets', rule.kind, 'set_size'), mean([row.sum() for row in inside]))
    assert same(figures, ('sets', rule.kind, 'single'), mean([row.sum() == 1 for row in inside]))
    macro = recall_score(y, np.where(covered, y, -1), labels=np.unique(y), average='macro', zero_division=0)
    assert same(figures, ('sets', rule.kind, 'macro_coverage'), macro)


@pytest.mark.parametrize('c', range(4))
def test_sets_of_each_class(table, rules, figures, c):
    for rule in rules.sets:
        inside = apply_sets(table.probs[table.labels == c], rule)
        assert same(figures, ('set_classes', NAMES[c], 'coverage', rule.kind), mean(inside[:, c]))
        assert same(figures, ('set_classes', NAMES[c], 'set_size', rule.kind), mean(inside.sum(axis=1)))
        assert figures.counts['set_classes', NAMES[c], 'coverage', rule.kind] == (table.labels == c).sum()


def test_operating_points(table, rules, figures):
    assert {point.name for point in rules.points} == {*NAMES, 'c or worse'}
    for i, point in enumerate(rules.points):
        classes = [NAMES.index(point.name)] if point.name in NAMES else [2, 3]
        called, positive = sum(table.probs[:, c] for c in classes) >= point.threshold, np.isin(table.labels, classes)
        assert same(figures, ('points', str(i), 'sensitivity'), mean(called[positive]))
        assert same(figures, ('points', str(i), 'specificity'), mean(~called[~positive]))


def test_abstention(table, rules, figures):
    unsure, y, preds = table.probs.max(axis=1) < rules.abstention.threshold, table.labels, table.preds
    expected = {'undecided': unsure.mean(), 'acc': mean((preds == y)[~unsure]), 'acc_all': mean(preds == y),
                'bacc': recall_score(y[~unsure], preds[~unsure], labels=np.unique(y[~unsure]), average='macro'),
                'bacc_all': recall_score(y, preds, labels=np.unique(y), average='macro')}
    assert expected.keys() == OF_ABSTENTION.keys()
    assert all(same(figures, ('abstention', 'all', name), value) for name, value in expected.items())
    for c, name in enumerate(NAMES):
        of = y == c
        assert same(figures, ('undecided_classes', name, 'undecided'), mean(unsure[of]))
        assert same(figures, ('undecided_classes', name, 'recall'), mean(preds[of & ~unsure] == c))
        assert same(figures, ('undecided_classes', name, 'recall_all'), mean(preds[of] == c))


def test_balanced_accuracy_is_that_of_scikit_learn(rules):
    table = random_table(4, n=300, names=NAMES)
    sure = ~rules.abstention.is_unsure(table.probs)
    expected = balanced_accuracy_score(table.labels[sure], table.preds[sure])
    assert same(rule_figures(table, rules, 20), ('abstention', 'all', 'bacc'), expected)


def test_intervals_hold_the_values(figures):
    for key in figures.values:
        cell = figures.cell(key)
        assert cell['low'] is None or cell['low'] - 1e-9 <= cell['value'] <= cell['high'] + 1e-9, key


def test_costs(table):
    calibrated = random_probs(120, 4, 5)[0]
    decisions = cost_decisions(table, COSTS, calibrated)
    figures = cost_figures(table, COSTS, decisions, 60)
    paid = {name: 1000 * sum(COSTS[y, j] for y, j in zip(table.labels, chosen, strict=True)) / 120 for name, chosen in decisions.items()}
    for name, value in paid.items():
        assert same(figures, ('costs', name, 'cost'), value)
        assert name == 'predicted class' or same(figures, ('costs', name, 'saved'), paid['predicted class'] - value)
    assert ('costs', 'predicted class', 'saved') not in figures.values
    cells = [figures.cell(key) for key in figures.values]
    assert all(cell['low'] is None or cell['low'] - 1e-9 <= cell['value'] <= cell['high'] + 1e-9 for cell in cells)


def test_interval_of_saved_costs_is_paired():
    table = random_table(0, n=400, names=NAMES)
    decisions = {'first': table.preds, 'second': least_cost(table.probs, COSTS)}
    cell = cost_figures(table, COSTS, decisions, 2000).cell(('costs', 'second', 'saved'))
    saved = 1000 * (COSTS[table.labels, decisions['first']] - COSTS[table.labels, decisions['second']])
    assert cell['high'] - cell['low'] == pytest.approx(2 * 1.96 * saved.std() / 20, rel=.1)


def test_decisions_by_costs(table):
    calibrated = random_probs(120, 4, 6)[0]
    plain, both = cost_decisions(table, COSTS), cost_decisions(table, COSTS, calibrated)
    cheapest = [min(range(4), key=lambda j, p=p: p.mean(axis=0) @ COSTS[:, j]) for p in (table.probs, calibrated)]
    assert list(plain) == ['predicted class', 'least expected cost', f'always {NAMES[cheapest[0]]} (best constant)']
    assert list(both) == ['predicted class', 'least expected cost', 'least expected cost, calibrated',
                          f'always {NAMES[cheapest[1]]} (best constant)']
    assert (both['predicted class'] == table.preds).all() and (both[f'always {NAMES[cheapest[1]]} (best constant)'] == cheapest[1]).all()
    assert (both['least expected cost, calibrated'] == least_cost(calibrated, COSTS)).all()


def test_tables_have_a_row_for_each_class(table, rules, figures):
    overall, classes = abstention_rows(figures, NAMES)
    decisions = cost_decisions(table, COSTS)
    for rows in (classes, set_class_rows(figures, rules, NAMES), set_class_rows(figures, rules, NAMES, 'set_size'),
                 recall_rows(table, decisions)):
        assert [row[0] for row in rows[1:]] == NAMES and len({len(row) for row in rows}) == 1
    assert [row[0] for row in overall[1:]] == list(OF_ABSTENTION.values())


def test_tables_of_rules(table, rules, figures):
    rows = set_rows(figures, rules)
    assert rows[0][1:] == list(OF_SETS.values()) and [row[0] for row in rows[1:]] == list(KINDS)
    assert [row[0] for row in point_rows(figures, rules)[1:]] == [point.name for point in rules.points]
    shown = f"{100 * figures.values['sets', 'class', 'coverage']:.1f}"
    assert rows[1 + list(KINDS).index('class')][1].startswith(shown)


def test_counts_in_the_table_of_classes(table, rules, figures):
    rows = set_class_rows(figures, rules, NAMES)[1:]
    assert [row[1:3] for row in rows] == [[str(rules.sets[0].counts[c]), str((table.labels == c).sum())] for c in range(4)]


def test_table_of_costs(table):
    decisions = cost_decisions(table, COSTS)
    rows = cost_rows(cost_figures(table, COSTS, decisions, 40))
    assert [row[0] for row in rows[1:]] == list(decisions) and rows[1][2] == '-' and rows[2][2] != '-'


def test_table_of_recalls(table):
    rows = recall_rows(table, {'predicted class': table.preds})[1:]
    for c, row in enumerate(rows):
        of = table.labels == c
        assert row[1:] == [str(of.sum()), f'{100 * (table.preds[of] == c).mean():.1f}' if of.any() else '-']


def test_text_of_rules(table, rules, figures):
    text = rules_text(table, rules, figures)
    assert all(part in text for part in ('Prediction sets for a coverage of 90 %', 'Operating points', 'Undecided below a probability of',
                                         'leaves out 25 % of the calibration images', 'Note: with 150 calibration images'))


def test_text_of_no_rules(table):
    assert rules_text(table, Rules(), rule_figures(table, Rules(), 5)) == '' and set_notes(Rules(), NAMES) == []


def test_text_of_costs(table):
    decisions = cost_decisions(table, COSTS)
    text = costs_text(table, cost_figures(table, COSTS, decisions, 20), decisions, source='costs.csv', unit='image')
    assert text.startswith('Costs (costs.csv) per 1,000 images, from 120 images.')


def test_text_of_risks(table):
    found, area = risk_at_coverage(table.probs.max(axis=1), table.preds != table.labels)
    assert f'100 %: {100 * found[0][1]:.1f}, ' in risk_text(table) and risk_text(table).endswith(f'(AURC): {100 * area:.1f}')


def test_summary(table, rules):
    lines, inside = summary_lines(table, rules), apply_sets(table.probs, rules.sets[0])
    covered = inside[np.arange(120), table.labels]
    worst = min((covered[table.labels == c].mean(), c) for c in np.unique(table.labels))
    assert f'{100 * covered.mean():.1f} % contain the true class (lowest: {NAMES[worst[1]]}, {100 * worst[0]:.1f} %)' in lines[0]
    assert lines[1].startswith(f'Left undecided: {100 * rules.abstention.is_unsure(table.probs).mean():.1f} %')


@pytest.mark.parametrize('k', [2, 23])
def test_few_and_many_classes(k):
    names = [f'c{c}' for c in range(k)]
    table, rules = random_table(2, n=60, names=names), rules_of(names)
    figures = rule_figures(table, rules, 20)
    assert len(set_class_rows(figures, rules, names)) == k + 1 and rules_text(table, rules, figures)


def test_a_single_image(rules):
    table = random_table(3, n=1, names=NAMES)
    figures = rule_figures(table, rules, 10)
    assert figures.cell(('sets', 'class', 'coverage'))['value'] in (0, 1) and rules_text(table, rules, figures)


def test_everything_undecided(rules):
    table = random_table(3, n=10, names=NAMES)
    none = Rules(abstention=rules.abstention._replace(threshold=2.))
    figures = rule_figures(table, none, 10)
    assert figures.cell(('abstention', 'all', 'acc'))['value'] is None
    assert summary_lines(table, none) == ['Left undecided: 100.0 %'] and rules_text(table, none, figures)


def test_figures_as_plain_values(figures):
    saved = figures_as_json(figures)
    assert saved['sets']['class']['coverage'] == figures.cell(('sets', 'class', 'coverage'))
    assert saved['set_classes']['b']['set_size']['adjusted'] == figures.cell(('set_classes', 'b', 'set_size', 'adjusted'))
    assert set(saved) == {'sets', 'set_classes', 'points', 'abstention', 'undecided_classes'}
