"""Draws of images and of patients, intervals against what is known of them, paired differences, and the real size."""
import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from utils.bootstrap import align, bootstrap_figures, bootstrap_metrics, combine, nested, weights_of_draws
from utils.common import InputError
from utils.prediction_table import PredictionTable

from .test_statistics import random_table


def drawn(*args, **kwargs):
    return np.concatenate(list(weights_of_draws(*args, **kwargs)), axis=1)


def test_draws_keep_the_size_of_each_class():
    labels = np.repeat([0, 1, 2], [50, 10, 1])
    weights = drawn(labels, draws=400)
    assert weights.shape == (61, 400) and (weights == np.round(weights)).all()
    for c, n in enumerate((50, 10, 1)):
        assert (weights[labels == c].sum(axis=0) == n).all()
    np.testing.assert_allclose(weights[:50].mean(), 1)
    assert weights[:50].var() == pytest.approx(1 - 1 / 50, abs=.02)  # multinomial
    np.testing.assert_array_equal(weights, drawn(labels, draws=400))
    assert (weights != drawn(labels, draws=400, seed=1)).any()


def test_draws_of_patients():
    labels, patients = np.array([0, 0, 0, 1, 0, 2, 1, 1, 0, 0]), list('aabbccddef')
    weights = drawn(labels, patients, draws=300)
    for patient in 'abcd':
        one = weights[[p == patient for p in patients]]
        assert (one[0] == one[1]).all()
    assert (weights[5] == 1).all()  # the only patient with the rarest class is in every draw
    assert (weights[[2, 6]].sum(axis=0) == 2).all() and (weights[[0, 8, 9]].sum(axis=0) == 3).all()  # b or d; a, e or f


def test_one_image_a_patient_is_the_bootstrap_of_images():
    table = random_table(0)
    alone = bootstrap_metrics(table._replace(patient_ids=[f'{i:03}' for i in range(80)]), draws=50)
    assert alone == bootstrap_metrics(table, draws=50)


def test_copies_of_an_image_in_one_patient_prove_nothing_more():
    table = random_table(0)
    twice = table._replace(image_ids=list(map(str, range(160))), patient_ids=[f'{i % 80:03}' for i in range(160)],
                           **{name: np.concatenate([getattr(table, name)] * 2) for name in ('labels', 'preds', 'probs')})
    alone, copied = (bootstrap_metrics(t, draws=100, ordered=True)['metrics'] for t in (table, twice))
    for name, cell in alone.items():
        assert [copied[name][end] for end in ('value', 'low', 'high')] == pytest.approx([cell[end] for end in ('value', 'low', 'high')])
    narrower = bootstrap_metrics(twice._replace(patient_ids=None), draws=100)['metrics']['bacc']
    assert narrower['high'] - narrower['low'] < .85 * (alone['bacc']['high'] - alone['bacc']['low'])


def test_interval_of_a_recall_is_binomial():
    labels = np.repeat([0, 1], [200, 40])
    preds = np.where(np.arange(240) % 4 == 0, 1 - labels, labels)
    table = PredictionTable(list(map(str, range(240))), labels, preds, np.eye(2)[preds], ['a', 'b'], None, 'x')
    result = bootstrap_metrics(table, draws=4000)
    recall = result['classes']['b']['recall']
    assert (recall['value'], recall['n']) == (.75, 40)
    assert (recall['low'], recall['high']) == pytest.approx(binom.ppf([.025, .975], 40, .75) / 40, abs=.026)  # one image of 40
    bacc = result['metrics']['bacc']
    half = 1.96 * np.sqrt(.75 * .25 / 200 + .75 * .25 / 40) / 2
    assert (bacc['low'], bacc['high']) == pytest.approx((.75 - half, .75 + half), abs=.0125 / 2 + .001)  # half an image of 40


def test_undefined_and_single_images():
    table = random_table(3, absent=(2,))
    labels, preds = table.labels.copy(), np.zeros(80, int)
    labels[labels == 4], labels[0] = 0, 4
    result = bootstrap_metrics(table._replace(labels=labels, preds=preds), draws=100)
    nothing = {'value': None, 'low': None, 'high': None}
    assert result['classes']['DR2']['recall'] == nothing | {'n': 0} and result['classes']['DR1']['precision'] == nothing | {'n': 0}
    assert result['classes']['DR4']['recall'] == {'value': 0., 'low': None, 'high': None, 'n': 1}  # one image, no interval
    assert result['metrics']['kappa'] == nothing | {'n': 80} and result['groups'] == {} and result['operating_points'] == {}


def test_paired_difference():
    a = random_table(1)
    order = np.random.default_rng(0).permutation(80)
    same = a._replace(image_ids=[a.image_ids[i] for i in order], labels=a.labels[order], preds=a.preds[order], probs=a.probs[order])
    difference = nested(combine(bootstrap_figures([a, same], draws=50), (1, -1)))
    assert all(cell['value'] == cell['low'] == cell['high'] == 0 for name, cell in difference['metrics'].items() if name != 'kappa')
    worse = a._replace(preds=np.where(np.arange(80) < 4, (a.preds + 1) % 5, a.preds))
    difference, alone = nested(combine(bootstrap_figures([a, worse]), (1, -1)))['metrics']['bacc'], bootstrap_metrics(a)['metrics']['bacc']
    assert difference['high'] - difference['low'] < .7 * (alone['high'] - alone['low'])  # most of the chance is shared


@pytest.mark.parametrize(('change', 'message'), [
    ({'image_ids': list(map(str, range(1, 81)))}, 'do not hold the same images'),
    ({'class_names': list('abcde')}, 'differ in their classes'),
    ({'labels': np.zeros(80, int)}, r'y\.csv and x\.csv differ in \d+ labels, the first is that of'),
])
def test_files_that_do_not_belong_together(change, message):
    a = random_table(1)
    with pytest.raises(InputError, match=message):
        align([a, a._replace(path='y.csv', **change)])


def test_original_run_on_eyepacs(real_data):
    """The original's printed confusion matrix of 53,576 images: its scores, intervals that agree with a multinomial bootstrap of
    the matrix, and probabilities without ties."""
    confusion = pd.read_csv(f'{real_data}/labels/eyepacs_bmu01_confusion.csv', index_col=0).to_numpy()
    y, preds = (np.repeat(index.ravel(), confusion.ravel()) for index in np.indices(confusion.shape))
    table = PredictionTable(list(map(str, range(len(y)))), y, preds, np.eye(5)[preds], [f'DR{c}' for c in range(5)], None, 'x.csv')
    metrics = bootstrap_metrics(table, ordered=True)['metrics']
    for name, value, low, high in (('kappa', 78.87, 78.2, 79.5), ('mcc', 61.70, 61.1, 62.4), ('bacc', 52.17, 51.4, 53.0)):
        assert round(100 * metrics[name]['value'], 2) == value
        assert (100 * metrics[name]['low'], 100 * metrics[name]['high']) == pytest.approx((low, high), abs=.1)
    probs = np.random.default_rng(0).dirichlet(np.ones(5), len(y)) + np.eye(5)[preds]
    assert bootstrap_metrics(table._replace(probs=probs / 2), draws=20, ordered=True)['metrics']['auc']['n'] == 53576
