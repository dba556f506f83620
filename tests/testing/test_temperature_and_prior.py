"""Temperature and change of the class prior, in simulations with Gaussian classes, a known posterior and overconfident logits."""
import argparse
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import log_softmax

from train_lt_mxp import get_parser, resolve
from utils.common import InputError
from utils.prediction.inference import Logits, tempered, to_predictions
from utils.statistics.calibration import apply_temperature, fit_temperature
from utils.testing import scoring, tuning
from utils.testing.post_hoc import fit_source_temperature, prior_shift

COUNT = np.array([1000, 300, 90, 27, 8])
PI, UNIFORM = COUNT / COUNT.sum(), np.full(5, .2)
SHARPNESS = 2.5
CENTRES = np.random.default_rng(1).normal(0, 2., (5, 3))


def images(prior, n=12_000, seed=0):
    """Draw n images with the class frequencies `prior`. -> log p(x | c) up to a constant, float64 (n, K), and labels"""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(5), np.round(n * prior).astype(int)))
    x = rng.normal(size=(len(labels), 3)) + CENTRES[labels]
    return -((x[:, None] - CENTRES) ** 2).sum(axis=2) / 2, labels


def as_logits(log_posterior, labels):
    return Logits(torch.tensor(log_posterior, dtype=torch.float32)[None], torch.tensor(labels), [''] * len(labels))


def nll_and_bacc(log_p, labels):
    hit = log_p.argmax(axis=1) == labels
    return -log_p[np.arange(len(labels)), labels].mean(), np.mean([hit[labels == c].mean() for c in range(5)])


@pytest.fixture
def test_of(monkeypatch):
    """Apply the corrections of the test scripts to overconfident logits. `flags`: of the test; `training`: flags of the training; `val`:
    class frequencies of the validation images. -> NLL and balanced accuracy on test images with the class frequencies `expected`"""
    monkeypatch.setattr(tuning, 'check_tuning', lambda *args: None)

    def run(flags, training='', learnt=PI, val=PI, expected=UNIFORM):
        config = get_parser().parse_args(['--do_not_save', *training.split()])
        config = resolve(config)
        parser = argparse.ArgumentParser()
        tuning.add_flags(parser)
        args = parser.parse_args([*flags.split(), '--csv_tune', 'val.csv'])
        args.num_workers = 0
        info = {'config': vars(config), 'class_count': COUNT.tolist(), 'class_names': list('abcde'), 'epoch': config.n_epochs}

        def collected(prior, seed):
            likelihood, labels = images(prior, seed=seed)
            return as_logits(SHARPNESS * (likelihood + np.log(learnt)), labels)
        network = SimpleNamespace(args=args, info=info, loader=lambda csv, is_tuned_on: SimpleNamespace(dataset=None),
                                  logits=lambda loader, split: collected(val, 0))
        chosen = tuning.tune(network, {})
        p, temperature = tuning.corrected(collected(expected, 1), chosen, info['class_names'])
        run.correction, run.temperature = chosen.correction, temperature
        assert p.loss == pytest.approx(-np.log(p.probs[np.arange(len(p.labels)), p.labels]).mean(), rel=1e-4)
        return nll_and_bacc(np.log(p.probs), p.labels)
    return run


def truth(expected):
    likelihood, labels = images(expected, seed=1)
    return nll_and_bacc(log_softmax(likelihood + np.log(expected), axis=1), labels)


@pytest.mark.parametrize(('flags', 'training', 'learnt', 'val', 'expected'), [
    ('--target_prior uniform', '', PI, PI, UNIFORM), ('--logit_adjust 1', '', PI, PI, UNIFORM),
    ('--target_prior uniform', '', PI, UNIFORM, UNIFORM), ('--logit_adjust 1', '', PI, UNIFORM, UNIFORM),
    ('--target_prior train', '--loss_fn BSCE', UNIFORM, PI, PI), ('--target_prior uniform', '--loss_fn BSCE', UNIFORM, PI, UNIFORM),
    ('--target_prior train', '--sampling class', UNIFORM, PI, PI)])
def test_calibrated_and_shifted_logits_are_the_true_posterior(test_of, flags, training, learnt, val, expected):
    nll, bacc = test_of(f'{flags} --calibrate', training, learnt, val, expected)
    true_nll, true_bacc = truth(expected)
    assert nll == pytest.approx(true_nll, abs=.004) and bacc == pytest.approx(true_bacc, abs=.01)


def test_the_shift_alone_is_worse_than_the_truth(test_of):
    nll, bacc = test_of('--target_prior uniform')
    true_nll, true_bacc = truth(UNIFORM)
    assert nll > true_nll + .2 and bacc < true_bacc - .04


def test_the_strength_is_chosen_on_calibrated_logits(test_of):
    _, bacc = test_of('--logit_adjust --calibrate')
    assert bacc == pytest.approx(truth(UNIFORM)[1], abs=.01)
    assert .6 <= test_of.correction.strength <= 1.4  # overconfident logits would need 2.5, which is outside the grid


def test_the_report_says_that_the_temperature_comes_first(test_of):
    test_of('--target_prior uniform --calibrate')
    assert 'images of val.csv and applied before the correction: ECE ' in test_of.temperature.line


def test_calibration_alone_keeps_the_predicted_classes(test_of):
    before, after = test_of('', expected=PI), test_of('--calibrate', expected=PI)
    assert before[1] == after[1] and after[0] == pytest.approx(truth(PI)[0], abs=.004)


def test_temperature_at_a_known_prior_of_the_labels():
    likelihood, labels = images(PI)
    probs = np.exp(log_softmax(SHARPNESS * likelihood, axis=1))
    assert fit_temperature(probs, labels, prior_shift(UNIFORM, PI)) == pytest.approx(SHARPNESS, rel=.02)


def test_classes_without_tuning_images():
    likelihood, labels = images(PI)
    some = labels < 3
    temperature, n_images = fit_source_temperature(as_logits(SHARPNESS * (likelihood + np.log(PI))[some], labels[some]), PI)
    assert temperature == pytest.approx(SHARPNESS, rel=.1) and n_images == some.sum()


def test_images_of_classes_that_were_never_trained_on_are_left_out():
    likelihood, labels = images(PI)
    learnt = np.where(np.arange(5) < 4, PI, 0) / PI[:4].sum()
    z = SHARPNESS * (likelihood + np.log(PI))
    z[:, 4] = -80
    temperature, n_images = fit_source_temperature(as_logits(z, labels), learnt)
    assert temperature == pytest.approx(SHARPNESS, rel=.1) and n_images == (labels < 4).sum()


def test_no_image_of_a_trained_class():
    with pytest.raises(InputError, match='--calibrate: no image of the tuning csv belongs to a class with training images'):
        fit_source_temperature(as_logits(np.zeros((3, 2)), [1, 1, 1]), np.array([1., 0]))


def test_a_temperature_scales_the_mean_of_the_views():
    z = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))
    p = to_predictions(tempered(Logits(z, torch.zeros(6, dtype=torch.long), [''] * 6), 1.7)).probs
    np.testing.assert_allclose(p, apply_temperature(z.softmax(2).mean(0), 1.7), rtol=1e-5)


def test_the_test_script_scales_before_it_shifts(train, tiny):
    train('--n_epochs 2 --sampling class')

    def results(flags):
        scoring.main('', {'val': f'{tiny}/val.csv', 'test': f'{tiny}/test.csv'}, 0,
                      f'--load_path experiments/run --num_workers 0 {flags}'.split())
        tables = [pd.read_csv(f'results/run/results_{split}.csv') for split in ('val', 'test')]
        return [table.filter(like='p_').to_numpy() for table in tables], tables[0].label.to_numpy()
    (val, test), labels = results('')
    (_, corrected), _ = results('--target_prior train --calibrate')
    uniform, own, trained = np.full(3, 1 / 3), np.bincount(labels) / len(labels), np.array([12, 6, 4]) / 22
    temperature = fit_temperature(val, labels, prior_shift(uniform, own))
    np.testing.assert_allclose(corrected, apply_temperature(test, temperature, prior_shift(uniform, trained)), rtol=1e-3, atol=1e-6)
