"""Post-hoc corrections compared with formulas in float64, and their flags in the test script."""
import re

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from train_lt_mxp import get_parser, resolve
from utils.common import InputError
from utils.prediction.inference import Logits
from utils.testing import scoring
from utils.testing.post_hoc import choose_strength, implied_prior, logit_adjuster, prior_changer, prior_text, read_prior, tau_normaliser
from utils.testing.tuning import priors

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
    args = resolve(args)
    return vars(args)


WEIGHTS = (1 - .9999) / (1 - .9999 ** np.array(COUNT, float))


@pytest.mark.parametrize(('flags', 'prior'), [
    ('', PI), ('--loss_fn BSCE', np.ones(5)),
    ('--loss_fn LA --loss_params tau=.6', PI ** .4), ('--sampling sqrt', PI ** .5), ('--sampling prog', np.ones(5)),
    ('--sampling class --loss_fn BSCE', 1 / PI), ('--loss_fn WCE', np.ones(5)), ('--loss_fn CB', PI * WEIGHTS),
    ('--defer .8', PI * WEIGHTS),
    ('--defer .8 --sampling class', np.ones(5)), ('--defer .8 --loss_fn BSCE', np.ones(5)),
    ('--do_mixup .25', .8 * PI + .2 / 5), ('--do_mixup .25 --mixup_off_epochs 2', PI), ('--mixing mixup', PI),
])
def test_implied_prior(flags, prior):
    np.testing.assert_allclose(implied_prior(config_of(flags), COUNT, 9), prior / prior.sum(), rtol=1e-5)


def test_bayes_rule():
    """Logits of a plain and of a balanced-softmax network are both changed to the exact posterior at the target prior."""
    rng = np.random.default_rng(0)
    likelihood = rng.random((50, 5))
    for flags, prior in (('', PI), ('--loss_fn BSCE', np.ones(5))):
        z = torch.tensor(np.log(likelihood * prior), dtype=torch.float32)[None]
        learnt = implied_prior(config_of(flags), COUNT, 9)
        change = prior_changer(learnt, PI)
        np.testing.assert_allclose(change(z)[0].softmax(1), likelihood * PI / (likelihood * PI).sum(1, keepdims=True), rtol=1e-4)
        assert torch.allclose(prior_changer(learnt, np.full(5, .2))(z)[0].softmax(1).double(),
                              torch.tensor(likelihood / likelihood.sum(1, keepdims=True)), rtol=1e-4)


def test_a_class_never_trained_on_gets_probability_0():
    shift = prior_changer(implied_prior(config_of(''), [6, 0, 4], 9), np.full(3, 1 / 3))(torch.zeros(1, 1, 3))
    assert shift[0, 0, 1] == -torch.inf


def test_named_priors():
    np.testing.assert_allclose(read_prior('train', [6, 3, 1], ['a', 'b', 'c']), [.6, .3, .1])
    np.testing.assert_allclose(read_prior('uniform', [6, 3, 1], ['a', 'b', 'c']), [1 / 3] * 3)


@pytest.fixture
def prior_of(tmp_path):
    def read(text, class_names=('mel', 'nv', 'no tumour')):
        path = tmp_path / 'prior.csv'
        path.write_text(text)
        return read_prior(str(path), [5] * len(class_names), list(class_names))
    return read


@pytest.mark.parametrize('text', [
    'label,prior\n1,30\n0,60\n2,10\n', 'label,prior\nnv,30\nmel,60\nno tumour,10\n',
    'prior;note;label\n30;x; nv\n 60 ;;mel \n10;;no tumour\n',
    '\ufefflabel,prior\r\nno tumour,.1\r\n\r\nnv,.3\r\nmel,.6\r\n'])
def test_prior_from_a_file(prior_of, text):
    np.testing.assert_allclose(prior_of(text), [.6, .3, .1])


def test_names_that_look_like_numbers_are_names(prior_of):
    np.testing.assert_allclose(prior_of('label,prior\n1,60\n2,30\n3,10\n', '123'), [.6, .3, .1])


@pytest.mark.parametrize(('text', 'message'), [
    ('label,prior\nmel,1\n\nnaevus,1\n', "row 4: 'naevus' is not a class; the classes are mel, nv, no tumour, or 0..2"),
    ('label,prior\n0,1\n1,1\n3,1\n', "row 4: '3' is not a class"), ('label,prior\n0,1\nnv,1\n2,1\n', "row 3: 'nv' is not a class"),
    ('label,prior\n0,1\n,1\n2,1\n', "row 3: '' is not a class"), ('label,prior\nnv,1\n', 'has no row for class mel, no tumour: add one'),
    ('label,prior\n0,1\n0,1\n1,1\n2,1\n', 'row 3: class mel already has a row'), ('label,prior\n', 'has no row for class mel, nv'),
    ('a,b\n0,1\n', 'needs the columns label and prior, but has a, b'),
    ('label,prior\n0,1\n1,-1\n2,3\n', 'row 3: the prior must be a non-negative number, not -1'),
    ('label,prior\n0,1\n1,30 %\n2,3\n', 'row 3: the prior must be a non-negative number, not 30 %'),
    ('label,prior\n0,1\n1,\n2,3\n', 'row 3: the prior must be a non-negative number'),
    ('label,prior\n0,0\n1,0\n2,0\n', 'all priors are 0')])
def test_invalid_priors(prior_of, text, message):
    with pytest.raises(InputError, match=r'--target_prior \S+prior\.csv.*' + re.escape(message)):
        prior_of(text)


def test_ambiguous_labels_are_an_error(prior_of):
    with pytest.raises(InputError, match='is the number of one class and the name of another'):
        prior_of('label,prior\n0,60\n1,30\n', '10')


def test_a_prior_file_that_is_missing():
    with pytest.raises(InputError, match='must be train, uniform, estimate or a csv, but there is no file absent'):
        read_prior('absent', [5], ['a'])


def test_a_prior_without_a_trained_class_is_an_error(tmp_path):
    """All classes would have probability 0, and normalising them would give NaN."""
    path = tmp_path / 'prior.csv'
    path.write_text('label,prior\n0,0\n1,0\n2,1\n')
    info = {'config': config_of('--n_classes 3'), 'class_count': [5, 5, 0], 'class_names': list('abc'), 'epoch': 1}
    with pytest.raises(InputError, match='was not trained on any class with a prior above 0'):
        priors(str(path), info)


def test_table_of_the_frequencies():
    assert prior_text(['mel', 'no tumour'], [.905, .095], [.5, .5]) == (
        '  class      before %   after %\n'
        '  mel           90.50     50.00\n'
        '  no tumour      9.50     50.00\n')


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
        scoring.main('', {'test': f'{tiny}/test.csv'}, 0,
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
    learnt, expected = f'{1200 / 22:.2f}', f'{100 / 3:.2f}'
    assert re.search(rf'^Class prior changed to: uniform\n  class +before %   after %\n  class0 +{learnt} +{expected}\n', report, re.M)
    for flags, message in (('--tau_norm --logit_adjust', 'correct for the class frequencies more than once'),
                           (f'--tau_norm --csv_tune {tiny}/test.csv', 'shares 8 images with .* which is reported')):
        with pytest.raises(InputError, match=message):
            test_run(flags)


def test_other_classifiers(test_run, capsys):
    with pytest.raises(InputError, match='--tau_norm needs a linear classifier, but this network has a CosineClassifier'):
        test_run('--tau_norm 1', '--loss_fn LDAM')
    test_run('--logit_adjust 1', '--loss_fn BSCE')
    assert '* Warning: BSCE corrected for the class frequencies in training' in capsys.readouterr().out
    test_run('--logit_adjust 1', '--sampling class')
    assert '* Warning: --sampling class corrected for the class frequencies in training' in capsys.readouterr().out
    test_run('--logit_adjust 1', '')
    assert 'Warning' not in capsys.readouterr().out


def test_frequencies_are_printed_for_a_csv_without_labels(test_run, tiny, tmp_path, capsys):
    pd.read_csv(tiny / 'test.csv')[['image_id']].to_csv(tmp_path / 'new.csv', index=False)
    (tmp_path / 'prior.csv').write_text('label,prior\nclass0,1\nclass1,1\nclass2,2\n')
    test_run('')
    capsys.readouterr()
    scoring.main('', {'test': None}, 0, f'--load_path experiments/run --num_workers 0 --csv_test {tmp_path}/new.csv '
                  f'--target_prior {tmp_path}/prior.csv'.split())
    assert re.search(r'^  class2 +18\.18 +50\.00$', capsys.readouterr().out, re.M)


@pytest.mark.parametrize(('values', 'expected'), [
    ((.5, .3, .2), (.5, .3, .2)), ((50, 30.5, 19.5), (.5, .305, .195)), ((5, 3, 2), (.5, .3, .2)),
    ((.501, .3, .2), (.501 / 1.001, .3 / 1.001, .2 / 1.001))])
def test_priors_are_shares_percent_or_counts(tmp_path, values, expected):
    (tmp_path / 'prior.csv').write_text('label,prior\n' + ''.join(f'{c},{value}\n' for c, value in enumerate(values)))
    np.testing.assert_allclose(read_prior(str(tmp_path / 'prior.csv'), [1, 1, 1], list('abc')), expected)


@pytest.mark.parametrize('values', [(.5, .3, .1), (.5, .5, .5), (50.5, 30, 10)])
def test_priors_that_do_not_add_up_to_1(tmp_path, values):
    (tmp_path / 'prior.csv').write_text('label,prior\n' + ''.join(f'{c},{value}\n' for c, value in enumerate(values)))
    with pytest.raises(InputError, match=rf'prior\.csv: the priors add up to {sum(values):.4g}: they must add up to 1 or to 100 %'):
        read_prior(str(tmp_path / 'prior.csv'), [1, 1, 1], list('abc'))
