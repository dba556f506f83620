"""Corrections at test against formulas in float64, and their flags in the real test script."""
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from train_lt_mxp import get_parser, resolve
from utils import run_test
from utils.common import InputError
from utils.inference import Logits
from utils.losses import LOSSES, loss_parameters
from utils.post_hoc import choose_strength, implied_prior, logit_adjuster, prior_changer, read_prior, tau_normaliser

COUNT = [1000, 300, 90, 27, 8]
PI = np.array(COUNT) / sum(COUNT)


def network(k=5, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, k))
    model.classifier_name = '0'
    return model


@pytest.mark.parametrize('tau', [0., .7, 1., 2.])
def test_tau_normalisation(tau):
    model, x = network(), torch.randn(9, 6, generator=torch.Generator().manual_seed(1))
    got = tau_normaliser(model)(tau)(model(x).detach()[None])[0]
    w = model[0].weight.detach().double().numpy()
    norm = np.linalg.norm(w, axis=1)
    expected = x.double().numpy() @ (w / norm[:, None] ** tau).T * np.exp(np.log(norm).mean()) ** tau
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_logit_adjustment():
    z = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(1))
    np.testing.assert_allclose(logit_adjuster(COUNT)(1.3)(z), z.numpy() - 1.3 * np.log(PI), rtol=1e-5, atol=1e-5)
    assert logit_adjuster([5, 0, 1])(1.)(torch.zeros(1, 1, 3))[0, 0, 1] == 0


def config_of(flags):
    args = get_parser().parse_args(['--do_not_save', '--n_epochs', '10', *flags.split()])
    resolve(args)
    return vars(args)


WEIGHTS = (1 - .9999) / (1 - .9999 ** np.array(COUNT, float))


@pytest.mark.parametrize(('flags', 'prior'), [
    ('', PI), ('--loss_fn FOCAL', PI), ('--loss_fn BSCE', np.ones(5)), ('--loss_fn LADE', np.ones(5)),
    ('--loss_fn LA --loss_params tau=.6', PI ** .4), ('--sampling sqrt', PI ** .5), ('--sampling prog', np.ones(5)),
    ('--sampling class --loss_fn BSCE', 1 / PI), ('--loss_fn WCE', np.ones(5)), ('--loss_fn CB', PI * WEIGHTS),
    ('--defer .8', PI * WEIGHTS),
    ('--defer .8 --sampling class', np.ones(5)), ('--defer .8 --loss_fn BSCE', np.ones(5)),
    ('--do_mixup .25', .8 * PI + .2 / 5), ('--do_mixup .25 --mixup_off_epochs 2', PI), ('--mixing mixup', PI),
])
def test_implied_prior(flags, prior):
    np.testing.assert_allclose(implied_prior(config_of(flags), COUNT), prior / prior.sum(), rtol=1e-5)


@pytest.mark.parametrize('loss', LOSSES)
def test_only_known_priors_are_changed(loss):
    config = config_of(f'--loss_fn {loss}')
    assert config['loss_params'] == loss_parameters(loss)
    if loss in ('CDT', 'VS', 'LDAM', 'SEQL', 'SEESAW'):
        with pytest.raises(InputError, match=f'a network trained with {loss} has no known class prior'):
            implied_prior(config, COUNT)
    else:
        assert implied_prior(config, COUNT).sum() == pytest.approx(1)


def test_bayes_rule():
    """Both a plain and a balanced-softmax network give the exact posterior of the target frequencies from their own."""
    rng = np.random.default_rng(0)
    likelihood = rng.random((50, 5))
    for flags, prior in (('', PI), ('--loss_fn BSCE', np.ones(5))):
        z = torch.tensor(np.log(likelihood * prior), dtype=torch.float32)[None]
        change = prior_changer(config_of(flags), COUNT, 'train')
        np.testing.assert_allclose(change(z)[0].softmax(1), likelihood * PI / (likelihood * PI).sum(1, keepdims=True), rtol=1e-4)
        assert torch.allclose(prior_changer(config_of(flags), COUNT, 'uniform')(z)[0].softmax(1).double(),
                              torch.tensor(likelihood / likelihood.sum(1, keepdims=True)), rtol=1e-4)


def test_prior_from_a_file(tmp_path):
    path = tmp_path / 'prior.csv'
    path.write_text('label,prior\n1,30\n0,60\n2,10\n')
    np.testing.assert_allclose(read_prior(str(path), [5, 5, 5]), [.6, .3, .1])
    for text, message in (('label,prior\n0,1\n', 'a row for each class'), ('a,b\n0,1\n', 'columns label and prior'),
                          ('label,prior\n0,1\n1,-1\n2,3\n', 'numbers of 0 or more')):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_prior(str(path), [5, 5, 5])
    with pytest.raises(InputError, match='there is no file absent'):
        read_prior('absent', [5])
    shift = prior_changer(config_of(''), [6, 0, 4], 'uniform')(torch.zeros(1, 1, 3))
    assert shift[0, 0, 1] == -torch.inf  # never trained on: probability 0


def test_strength_is_the_best_on_the_given_images():
    rng = np.random.default_rng(3)
    y = rng.choice(5, 400, p=PI)
    z = torch.tensor(rng.normal(0, 1, (1, 400, 5)) + 2 * np.eye(5)[y] + np.log(PI), dtype=torch.float32)
    adjuster = logit_adjuster(COUNT)
    tau, after, before = choose_strength(adjuster, Logits(z, torch.tensor(y), [''] * 400))
    recalls = []
    for t in np.arange(21) / 10:
        p = (z[0].numpy() - t * np.log(PI)).argmax(1)
        recalls.append(np.mean([(p == c)[y == c].mean() for c in range(5)]))
    assert after == pytest.approx(max(recalls)) and before == pytest.approx(recalls[0]) and tau == np.argmax(recalls) / 10 > 0


@pytest.fixture
def test_run(train, tiny, monkeypatch):
    def run(flags, training='--lr 0.05'):
        train(f'{training} --overwrite' if run.trained else training)
        run.trained = True
        run_test.main('', {'test': f'{tiny}/test.csv'}, 0,
                      f'--load_path experiments/run --num_workers 0 {flags}'.split())
        return open('results/run/performance_test.txt').read(), pd.read_csv('results/run/results_test.csv')
    run.trained = False
    return run


def test_flags(test_run, tiny):
    plain = test_run('')[1]
    p = plain.filter(like='p_').to_numpy()
    report, table = test_run('--logit_adjust 1')
    q = p / np.array([12, 6, 4])
    np.testing.assert_allclose(table.filter(like='p_'), q / q.sum(1, keepdims=True), rtol=1e-4)
    assert 'Logit adjustment with tau 1\n' in report
    report, _ = test_run('--tau_norm --calibrate')
    assert f'chosen on {tiny}/val.csv (balanced accuracy' in report and 'Calibrated with temperature' in report
    report, table = test_run('--target_prior uniform')
    np.testing.assert_allclose(table.filter(like='p_'), q / q.sum(1, keepdims=True), rtol=1e-4)
    assert 'Class prior changed to: uniform' in report
    for flags, message in (('--tau_norm --logit_adjust', 'correct for the class frequencies twice'),
                           (f'--tau_norm --csv_tune {tiny}/test.csv', 'stand in .* which is to be reported')):
        with pytest.raises(InputError, match=message):
            test_run(flags)


def test_other_classifiers(test_run, capsys):
    with pytest.raises(InputError, match='--tau_norm needs a linear classifier, and this network has a CosineClassifier'):
        test_run('--tau_norm 1', '--loss_fn LDAM')
    test_run('--logit_adjust 1', '--loss_fn BSCE')
    assert '* Warning: BSCE has corrected for the class frequencies in training' in capsys.readouterr().out
