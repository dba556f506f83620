"""Temperature scaling: minimum of the likelihood, limits, and --calibrate of the test scripts."""
import re

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss

from utils.common import InputError
from utils.evaluation import evaluate_multi_cls
from utils.prediction.predictions import read_predictions
from utils.statistics.calibration import RANGE, apply_temperature, fit_temperature
from utils.testing.scoring import main


def logits_and_labels(seed, scale, n=4000, k=4):
    """Labels are drawn from softmax(z), but the classifier predicts softmax(scale z), so the true temperature is `scale`."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 2, (n, k))
    return scale * z, (softmax(z, axis=1).cumsum(1) < rng.random((n, 1))).sum(1)


@pytest.mark.parametrize('scale', [.3, 1., 4.])
def test_finds_the_minimum(scale):
    z, labels = logits_and_labels(0, scale)
    probs = softmax(z, axis=1)
    t = fit_temperature(probs, labels)
    assert t == pytest.approx(scale, rel=.06)
    nll = [log_loss(labels, softmax(z / s, axis=1)) for s in t * np.array([.999, 1, 1.001])]
    assert nll[1] < nll[0] and nll[1] < nll[2]
    np.testing.assert_allclose(apply_temperature(probs, t), softmax(z / t, axis=1), atol=1e-12)
    assert fit_temperature(probs.astype(np.float32), labels) == pytest.approx(t, rel=1e-5)


def test_temperature_one_changes_nothing_and_classes_stay():
    probs = softmax(logits_and_labels(1, 3.)[0], axis=1)
    np.testing.assert_allclose(apply_temperature(probs, 1), probs, atol=1e-15)
    for t in RANGE:
        assert (apply_temperature(probs, t).argmax(1) == probs.argmax(1)).all()


def auc_before_and_after(k):
    z, labels = logits_and_labels(2, 3., k=k)
    probs = softmax(z, axis=1)
    return [evaluate_multi_cls(labels, probs.argmax(1), p).auc for p in (probs, apply_temperature(probs, 3.))]


def test_auc_of_several_classes_may_change():
    before, after = auc_before_and_after(4)
    assert abs(after - before) > 1e-4


def test_auc_of_two_classes_stays():
    before, after = auc_before_and_after(2)
    assert after == pytest.approx(before, abs=1e-12)


def test_limits():
    certain = np.array([[1., 0, 0], [0, 1., 0]])  # as softmax rounds in float32
    assert fit_temperature(certain * .8 + .2 / 3, [0, 1]) == RANGE[0]  # never wrong
    assert fit_temperature(certain * .8 + .2 / 3, [1, 2]) == RANGE[1]  # always wrong
    assert fit_temperature(np.full((4, 2), .5), [0, 1, 1, 1]) == 1
    assert fit_temperature(certain[[0, 0]], [0, 1]) == RANGE[1]  # one wrong prediction with probability 1
    assert np.isfinite(apply_temperature(certain, RANGE[0])).all()


@pytest.fixture
def test(train, tiny, tmp_path):
    train('--n_epochs 2')

    def run(flags, splits=None):
        argv = f'--load_path experiments/run --data_path {tiny}/images --num_workers 0 {flags}'.split()
        main('test', splits or {'val': None, 'test': str(tiny / 'test.csv')}, 0, argv)
        return tmp_path / 'results' / 'run'
    return run


def test_calibrates_on_the_validation_csv_of_the_run(test, tiny):
    folder = test(f'--csv_val {tiny}/val.csv')  # without --calibrate
    before, val = (read_predictions(folder / f'results_{split}.csv') for split in ('test', 'val'))
    test('--calibrate')
    after, text = read_predictions(folder / 'results_test.csv'), (folder / 'performance_test.txt').read_text()
    t = fit_temperature(val.probs, val.labels)
    np.testing.assert_allclose(after.probs, apply_temperature(before.probs, t), atol=1e-6)
    assert (after.preds == before.preds).all()
    aucs = [evaluate_multi_cls(p.labels, p.preds, p.probs).auc for p in (before, after)]
    assert f'macro AUC {100 * aucs[0]:.2f} -> {100 * aucs[1]:.2f}, NLL' in text
    nll = [-np.log(p.probs[range(8), p.labels]).mean() for p in (before, after)]
    start = f'Calibrated with temperature {t:.3f}, fitted on the 9 images of {tiny}/val.csv; the predicted classes are the same: ECE '
    assert start in text
    assert re.search(rf', NLL {nll[0]:.4f} -> {nll[1]:.4f}$', text, re.M) and f'Loss={nll[1]:.4f}' in text


def test_the_tuning_csv_is_reported_without_correction(test, tiny, tmp_path, capsys):
    lines = (tiny / 'val.csv').read_text().splitlines()
    (tmp_path / 'half.csv').write_text('\n'.join(lines[:6]))
    folder = test(f'--csv_val {tmp_path}/half.csv')
    raw = (folder / 'results_val.csv').read_bytes()
    test(f'--csv_val {tmp_path}/half.csv --calibrate')
    assert raw == (folder / 'results_val.csv').read_bytes() and 'half.csv is reported without correction' in capsys.readouterr().out
    assert 'on the 5 images of' in (folder / 'performance_test.txt').read_text()


def test_calibrates_without_test_labels(test, tiny, tmp_path):
    pd.read_csv(tiny / 'test.csv')[['image_id']].to_csv(tmp_path / 'new.csv', index=False)
    folder = test(f'--csv_test {tmp_path}/new.csv')
    raw = read_predictions(folder / 'results_test.csv').probs
    test(f'--csv_test {tmp_path}/new.csv --calibrate --csv_tune {tiny}/val.csv')
    assert np.abs(read_predictions(folder / 'results_test.csv').probs - raw).max() > 1e-4


@pytest.mark.parametrize(('flags', 'splits', 'message'), [
    ('--csv_val {tiny}/val.csv --calibrate', {'val': None}, r'\S+val\.csv cannot be used to tune .* shares 9 images with \S+val\.csv,'),
    ('--calibrate --csv_tune {tiny}/test.csv', None, r'\S+test\.csv cannot be used to tune .* shares 8 images with \S+test\.csv,'),
    ('--csv_val {tiny}/test.csv --calibrate', None, '8 images'), ('--calibrate --csv_tune absent.csv', None, 'no such csv: absent'),
    ('--calibrate --csv_tune {tmp}/unlabelled.csv', None, r'\S+unlabelled\.csv has no labels'),
])
def test_invalid_tuning_csvs(test, tiny, tmp_path, flags, splits, message):
    pd.read_csv(tiny / 'val.csv')[['image_id']].to_csv(tmp_path / 'unlabelled.csv', index=False)
    with pytest.raises(InputError, match=message):
        test(flags.format(tiny=tiny, tmp=tmp_path), splits)
