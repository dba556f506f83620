"""Every score compared with scikit-learn or an explicit formula, on random cases with absent classes, ties and weights."""
import itertools
import math

import numpy as np
import pytest
from sklearn import metrics as sk

from tests.factories import GRADES, random_table
from utils.evaluation import evaluate_multi_cls
from utils.statistics.weighted_metrics import WeightedMetrics, are_grades, class_groups, is_ordered

K = 5


def ece(confidence, hit):
    edges, total = np.linspace(0, 1, 16), 0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        total += inside.sum() * abs(confidence[inside].mean() - hit[inside].mean()) if inside.any() else 0
    return total / len(hit)


def reference(y, preds, probs):
    """Scores by scikit-learn, for rows that are repeated by their weight. Scores of a class only if they are defined."""
    classes = range(K)
    present, other = ([c for c in classes if test(y == c)] for test in (np.any, lambda positive: positive.any() and not positive.all()))
    result = {('metrics', 'mcc'): sk.matthews_corrcoef(y, preds), ('metrics', 'f1'): sk.f1_score(y, preds, average='macro'),
              ('metrics', 'kappa'): sk.cohen_kappa_score(y, preds, weights='quadratic', labels=classes),
              ('metrics', 'acc'): sk.accuracy_score(y, preds),
              ('metrics', 'bacc'): np.mean([np.mean(preds[y == c] == c) for c in present]),
              ('metrics', 'nll'): sk.log_loss(y, probs, labels=classes), ('metrics', 'brier'): ((probs - np.eye(K)[y]) ** 2).sum(1).mean(),
              ('metrics', 'ece'): ece(probs.max(1), preds == y),
              ('metrics', 'classwise_ece'): np.mean([ece(probs[:, c], y == c) for c in classes])}
    for c in present:
        result['classes', GRADES[c], 'recall'] = sk.recall_score(y, preds, labels=[c], average=None)[0]
        result['classes', GRADES[c], 'ap'] = sk.average_precision_score(y == c, probs[:, c])
    for c in np.union1d(y, preds):
        result['classes', GRADES[c], 'f1'] = sk.f1_score(y, preds, labels=[c], average=None)[0]
    for c in np.unique(preds):
        result['classes', GRADES[c], 'precision'] = sk.precision_score(y, preds, labels=[c], average=None)[0]
    for c in other:
        result['classes', GRADES[c], 'auc'] = sk.roc_auc_score(y == c, probs[:, c])
    for name in ('auc', 'ap'):
        values = [value for key, value in result.items() if key[-1] == name]
        result['metrics', name] = np.mean(values) if values else np.nan
    return result


@pytest.mark.parametrize('absent', [(), (2,), (0, 4)])
@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('seed', range(4))
def test_against_scikit_learn(seed, ties, absent):
    table = random_table(seed, absent=absent, ties=ties)
    weights = np.random.default_rng(seed).poisson(1, (80, 3)).astype(float)
    weights[:, 0] = 1
    weights[table.labels == 1, 2] = 0  # a resample without this class
    found = WeightedMetrics(table, ordered=True)(weights)
    for draw in range(3):
        rows = np.repeat(np.arange(80), weights[:, draw].astype(int))
        expected = reference(table.labels[rows], table.preds[rows], table.probs[rows])
        assert {key for key, value in found.items() if not np.isnan(value[draw])} == set(expected)
        for key, value in expected.items():
            assert found[key][draw] == pytest.approx(value, abs=1e-9), key


@pytest.mark.parametrize('seed', range(3))
def test_same_as_the_report_of_the_test_scripts(seed):
    table = random_table(seed, absent=(3,))
    found, m = WeightedMetrics(table, ordered=True)(np.ones((80, 1))), evaluate_multi_cls(table.labels, table.preds, table.probs)
    for name in ('auc', 'kappa', 'mcc', 'f1', 'bacc', 'acc'):
        assert found['metrics', name][0] == pytest.approx(getattr(m, name), abs=1e-9)


def test_a_single_certain_prediction():
    table = random_table(0, n=1)._replace(labels=np.array([1]), preds=np.array([1]), probs=np.eye(K)[[1]])
    found = {key: value[0] for key, value in WeightedMetrics(table, ordered=True)(np.ones((1, 1))).items()}
    assert math.isnan(found['metrics', 'auc']) and math.isnan(found['metrics', 'kappa']) and found['metrics', 'mcc'] == 0
    assert found['metrics', 'bacc'] == 1 and found['metrics', 'nll'] == pytest.approx(0, abs=1e-15) and found['metrics', 'ap'] == 1
    wrong = WeightedMetrics(table._replace(labels=np.array([0])))(np.ones((1, 1)))
    assert wrong['metrics', 'nll'][0] == pytest.approx(-math.log(2 ** -52)) and wrong['metrics', 'brier'][0] == 2
    assert wrong['metrics', 'ece'][0] == 1 and math.isnan(wrong['metrics', 'kappa'][0])


def test_groups():
    table = random_table(1, absent=(4,))
    count = [500, 30, 100, 101, 3]
    groups = {name: np.flatnonzero(mask).tolist() for name, mask in class_groups(count).items()}
    assert groups == {'many': [0, 3], 'medium': [1, 2], 'few': [4], 'head third': [0, 3], 'medium third': [1, 2], 'tail third': [4]}
    m = WeightedMetrics(table, class_count=count)
    found = m(np.ones((80, 1)))
    assert found['groups', 'medium', 'recall'][0] == pytest.approx(np.mean([found['classes', f'DR{c}', 'recall'][0] for c in (1, 2)]))
    assert math.isnan(found['groups', 'few', 'recall'][0])
    assert m.count(('groups', 'many', 'recall')) == np.isin(table.labels, [0, 3]).sum()
    assert m.count(('classes', 'DR1', 'precision')) == (table.preds == 1).sum() and m.count(('metrics', 'mcc')) == 80


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('level', [.5, .8, .9, 1.])
def test_operating_points(level, ties):
    table = random_table(2, ties=ties)
    m = WeightedMetrics(table, ordered=True, levels=(level,), referable=2)
    weights = np.random.default_rng(0).poisson(1, (80, 2)).astype(float)
    weights[:, 0] = 1
    found, thresholds = m(weights), m.thresholds()
    scores = {'DR3': (table.probs[:, 3], table.labels == 3), 'DR2 or worse': (table.probs[:, 2:].sum(1), table.labels >= 2)}
    for positives, (score, truth) in scores.items():
        for draw in range(2):
            w = weights[:, draw]
            points = [[(w * truth * (score >= t)).sum() / (w * truth).sum(), (w * ~truth * (score < t)).sum() / (w * ~truth).sum(), t]
                      for t in [*score, 2]]
            sensitivity = max(p[0] for p in points if p[1] >= level - 1e-12)
            specificity = max(p[1] for p in points if p[0] >= level - 1e-12)
            assert found['operating_points', positives, 'sensitivity_at_specificity', level][draw] == pytest.approx(sensitivity)
            assert found['operating_points', positives, 'specificity_at_sensitivity', level][draw] == pytest.approx(specificity)
        for name, of in (('sensitivity_at_specificity', truth), ('specificity_at_sensitivity', ~truth)):
            key = ('operating_points', positives, name, level)
            cut = 2 if thresholds[key] is None else thresholds[key]  # None: no image is called positive
            assert found[key][0] == pytest.approx(((score >= cut) == truth)[of].mean()) and m.count(key) == of.sum()


@pytest.mark.parametrize(('names', 'metric', 'flag', 'ordered'), [
    (GRADES, 'auc', None, True), (GRADES, 'auc', False, False), (['cat', 'dog'], None, None, False), (['cat', 'dog'], 'kappa', None, True),
    (['cat', 'dog'], 'kappa', False, False), (['cat', 'dog'], 'bacc', True, True)])
def test_what_makes_classes_ordered(names, metric, flag, ordered):
    assert is_ordered(names, metric, flag) is ordered


def test_grades_by_name():
    assert are_grades(GRADES) and are_grades(['Grade 0', 'grade 1']) and not are_grades(['C0', 'C1']) and not are_grades(['DR1', 'DR2'])
