"""Small simulations, with fixed seeds and wide margins: intervals cover a known truth, and equal networks rarely seem to differ."""
import json

import numpy as np
import pytest

from benchmarks import coverage
from utils.statistics.weighted_metrics import METRIC_NAMES


@pytest.fixture(scope='module')
def true():
    return coverage.population(200_000)


@pytest.fixture(scope='module')
def of_600(true):
    return coverage.simulate(600, 'random', sets=40, draws=150, true=true)


@pytest.mark.parametrize('figure', ['ECE', 'classwise ECE', 'accuracy', 'recall, rarest class', 'precision, rarest class',
                                    'sensitivity at specificity .9, rarest class'])
def test_intervals_cover_at_600_images(of_600, figure):
    assert of_600['coverage'][figure][coverage.NOW] >= .85  # 95 % less three standard errors


def test_percentiles_within_classes_cover_less(of_600):
    assert of_600['coverage']['classwise ECE'][coverage.WITHIN] < .4
    assert of_600['coverage']['sensitivity at specificity .9, rarest class'][coverage.WITHIN] < .85


def test_intervals_of_patients_cover(true):
    found = coverage.simulate(600, 'patients', sets=30, draws=150, true=true)['coverage']
    assert found['accuracy'][coverage.NOW] >= .83 > found['recall, rarest class'][coverage.WITHIN]
    assert found['recall, rarest class'][coverage.NOW] >= .83 and found['ECE'][coverage.NOW] >= .83


def test_hundred_images(true):
    """The rarest class has about two images, so its recall is 0, 1/2 or 1 in nearly every test set."""
    found = coverage.simulate(100, 'random', sets=60, draws=150, true=true)
    covers, type_i = found['coverage'], found['type_i']
    assert covers['recall, rarest class'][coverage.NOW] > .9 > .7 > covers['recall, rarest class'][coverage.WITHIN]
    assert covers['balanced accuracy'][coverage.NOW] > covers['balanced accuracy'][coverage.WITHIN] + .08
    assert covers['ECE'][coverage.NOW] > .85 > .7 > covers['ECE'][coverage.WITHIN]
    assert type_i['balanced accuracy'][coverage.NOW] < type_i['balanced accuracy'][coverage.WITHIN]


def test_the_posterior_is_calibrated():
    """Without sharpening and noise, the network returns the posterior. It is calibrated and as accurate as the Bayes rule."""
    rng = np.random.default_rng(0)
    labels = rng.choice(coverage.K, 100_000, p=coverage.PRIOR)
    posterior = np.exp(coverage.log_posterior(rng, labels))
    assert posterior.sum(axis=1) == pytest.approx(1)
    for c in range(coverage.K):
        assert posterior[:, c].mean() == pytest.approx(coverage.PRIOR[c], abs=.005)
    assert (posterior.argmax(axis=1) == labels).mean() == pytest.approx(posterior.max(axis=1).mean(), abs=.005)


@pytest.mark.parametrize('design', coverage.DESIGNS)
def test_test_sets_contain_every_class(design):
    labels, patients = coverage.draw_labels(np.random.default_rng(0), 600, design)
    assert set(labels) == set(range(coverage.K)) and (patients is None) == (design != 'patients')
    if design == 'fixed':
        assert np.bincount(labels).tolist() == [360, 120, 72, 36, 12]


def test_prints_tables_and_writes_json(true, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(coverage, 'population', lambda sharpness: true)
    coverage.main(['--sets', '2', '--draws', '20', '--sizes', '100', '--designs', 'fixed', '--json', str(tmp_path / 'a.json')])
    out, result = capsys.readouterr().out, json.loads((tmp_path / 'a.json').read_text())
    assert 'n = 100, fixed' in out and 'type I error' in out and all(name in out for name in METRIC_NAMES.values())
    assert result['results'][0]['sets'] == 2 and set(result['true']) == set(coverage.FIGURES.values())
