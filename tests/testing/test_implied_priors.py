"""The learnt class prior: for every loss at its minimum, for every mixing by simulation, and for the epoch of a checkpoint."""
import argparse
import glob
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from train_lt_mxp import get_parser, resolve
from utils.common import InputError
from utils.data.sampling import EpochSampler
from utils.losses import LOSSES, get_deferred_loss_fns, get_loss_fn
from utils.prediction.inference import Normalise
from utils.testing import scoring
from utils.testing.post_hoc import implied_prior, last_epoch
from utils.training.mixing import MIXING
from utils.training.phases import label_shares

COUNT = np.array([1000, 300, 90, 27, 8])
PI = COUNT / COUNT.sum()


def config_of(flags):
    args = get_parser().parse_args(['--do_not_save', *flags.split()])
    args = resolve(args)
    return vars(args)


def posterior(n=10):
    """p(c | x) of n equally likely inputs, float64 (n, K), with mean PI."""
    p = np.random.default_rng(0).gamma(2., 1., (n, len(PI)))
    for _ in range(3000):
        p = p * (PI / p.mean(axis=0))
        p /= p.sum(axis=1, keepdims=True)
    return p


POSTERIOR = posterior()


def optimum(loss):
    """Logits (n, K) that minimise the expected loss over the inputs of POSTERIOR."""
    z = torch.zeros(POSTERIOR.shape, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([z], max_iter=300, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn='strong_wolfe')

    def closure():
        optimiser.zero_grad()
        value = len(z) * loss(z, torch.tensor(POSTERIOR))
        value.backward()
        return value
    optimiser.step(closure)
    return z.detach().numpy()


def total_variation(loss):
    """Largest total variation between POSTERIOR and the optimum after changing the implied prior of `loss` to the true one."""
    z = optimum(loss)
    p = np.exp(z - z.max(axis=1, keepdims=True)) * PI / loss.implied_prior(PI)
    return np.abs(p / p.sum(axis=1, keepdims=True) - POSTERIOR).sum(axis=1).max() / 2


@pytest.mark.parametrize('stage', ['whole', 'before', 'after'])
@pytest.mark.parametrize('name', LOSSES)
def test_the_implied_prior_of_a_loss_is_right(name, stage):
    before, after = get_deferred_loss_fns(name, COUNT)
    loss = {'whole': get_loss_fn(name, COUNT), 'before': before, 'after': after}[stage]
    if loss.implied_prior(PI) is not None:
        assert total_variation(loss) < 1e-3


PARAMS = [('CE', {'epsilon': .1}), ('WCE', {'gamma': .5}), ('CB', {'beta': .99}), ('LA', {'tau': .6}), ('VS', {'gamma': 0, 'tau': .7}),
          ('CDT', {'gamma': 0}), ('FOCAL', {'gamma': 0}), ('FOCAL', {'gamma': .5}), ('CBFOCAL', {'gamma': 0}), ('ORDINAL', {'alpha': 0}),
          ('ORDINAL', {'alpha': .2}), ('LAS', {'head': 0}), ('LAS', {'head': 0, 'tail': .1}), ('LADE', {'alpha': 0}), ('LADE', {'lam': 0})]


@pytest.mark.parametrize(('name', 'params'), PARAMS)
def test_the_implied_prior_of_a_loss_is_right_with_other_parameters(name, params):
    loss = get_loss_fn(name, COUNT, **params)
    if loss.implied_prior(PI) is not None:
        assert total_variation(loss) < 1e-3


def test_losses_with_a_known_prior():
    assert [name for name in LOSSES if get_loss_fn(name, COUNT).implied_prior(PI) is not None] == ['CE', 'WCE', 'CB', 'BSCE', 'LA']


@pytest.mark.parametrize(('name', 'params'), [pair for pair in PARAMS if 0 in pair[1].values() and pair[1] != {'head': 0, 'tail': .1}])
def test_without_the_term_that_moves_the_optimum_the_prior_is_known(name, params):
    assert get_loss_fn(name, COUNT, **params).implied_prior(PI) is not None


@pytest.mark.parametrize(('flags', 'named'), [
    *((f'--loss_fn {name}', name) for name in ('FOCAL', 'CBFOCAL', 'ORDINAL', 'LAS', 'LADE', 'CDT', 'VS', 'LDAM', 'SEQL', 'SEESAW')),
    ('--loss_params epsilon=.1', r'CE \(epsilon=0.1\)'), ('--loss_fn focal --defer .8', r'FOCAL \(gamma=2\)')])
def test_other_losses_are_an_error(flags, named):
    with pytest.raises(InputError, match=f'--target_prior: a network trained with {named}.* needs one of CE, WCE, CB, BSCE, LA$'):
        implied_prior(config_of(f'--n_epochs 10 {flags}'), COUNT, 9)


def test_learnable_weight_scaling_is_an_error():
    with pytest.raises(InputError, match='--target_prior: a network trained with --trainable scale has no known class prior'):
        implied_prior(config_of('--trainable scale --pretrained_weights x --sampling class'), COUNT, 6)


def mixed_and_drawn(args, n_epochs=20):
    """Mean labels (K,) of batches from the real sampler, after and before mixing."""
    mixing, labels = MIXING[args.mixing], np.repeat(np.arange(len(COUNT)), COUNT)
    prepare = mixing(Normalise('cpu', (0, 0, 0), (1, 1, 1)), COUNT, args.mix_alpha, 'none')
    modes = (args.sampling, 'class')[:mixing.n_loaders]
    samplers = [EpochSampler(labels, mode, stream=stream, step=args.batch_size) for stream, mode in enumerate(modes)]
    images = torch.randint(0, 256, (args.batch_size, 3, 6, 8), dtype=torch.uint8)
    mixed, drawn = [], []
    for epoch in range(n_epochs):
        prepare.set_epoch(epoch)
        for sampler in samplers:
            sampler.set_epoch(epoch)
        streams = [labels[list(sampler)].reshape(-1, args.batch_size) for sampler in samplers]
        for batch in zip(*streams, strict=True):
            _, y = prepare([(images, torch.tensor(part), [''] * len(part)) for part in batch])
            mixed.append(y.mean(dim=0).numpy())
            drawn.append(np.bincount(batch[0], minlength=len(COUNT)) / len(batch[0]))
    return np.mean(mixed, axis=0), np.mean(drawn, axis=0)


@pytest.mark.parametrize('sampling', ['instance', 'sqrt'])
@pytest.mark.parametrize('mixing', ['balanced_mixup --mix_alpha .3', 'mixup', 'cutmix', 'remix', 'remix --mix_alpha .3'])
def test_label_shares_of_every_mixing(mixing, sampling):
    args = argparse.Namespace(**config_of(f'--mixing {mixing} --sampling {sampling}'))
    mixed, drawn = mixed_and_drawn(args)
    plain = label_shares(argparse.Namespace(**vars(args) | {'mixing': 'none'}), COUNT, 0)
    np.testing.assert_allclose(mixed - drawn, label_shares(args, COUNT, 0) - plain, atol=.005)


def test_every_mixing_is_simulated():
    assert set(MIXING) == {'none', 'balanced_mixup', 'mixup', 'cutmix', 'remix'}


def test_remix_gives_the_tail_more():
    shares = label_shares(argparse.Namespace(**config_of('--mixing remix')), COUNT, 0)
    assert shares[0] < PI[0] - .03 and (shares[1:] > PI[1:]).all() and shares.sum() == pytest.approx(1)


def test_a_part_of_a_batch_mixes_within_itself():
    """With --accumulate 4 and 8 images, each part has two images, so half of the images are mixed with themselves."""
    whole, parts = (label_shares(argparse.Namespace(**config_of(f'--mixing remix --accumulate {n}')), COUNT, 0) for n in (1, 4))
    np.testing.assert_allclose((parts - PI) / (whole - PI), (1 / 2) / (7 / 8))


@pytest.mark.parametrize(('flags', 'epoch', 'prior'), [
    ('--sampling prog', 0, PI), ('--sampling prog', 3, (1 - 3 / 29) * PI + 3 / 29 / 5), ('--sampling prog', 29, np.ones(5)),
    ('--sampling class --defer .8', 23, PI), ('--sampling class --defer .8', 24, np.ones(5)),
    ('--loss_fn BSCE --defer .8', 23, PI), ('--loss_fn BSCE --defer .8', 24, np.ones(5)),
    ('--defer .8', 23, PI), ('--defer .8', 24, PI * get_loss_fn('CB', COUNT).exact['class_weight']), ('--defer .01', 0, PI),
    ('--do_mixup .25 --mixup_off_epochs 5', 24, .8 * PI + .2 / 5), ('--do_mixup .25 --mixup_off_epochs 5', 25, PI),
    ('--do_mixup .25 --sampling class --defer .5', 14, .8 * PI + .2 / 5), ('--do_mixup .25 --sampling class --defer .5', 15, np.ones(5)),
    ('--mixing remix --mixup_off_epochs 5', 25, PI)])
def test_the_prior_of_an_epoch(flags, epoch, prior):
    got = implied_prior(config_of(f'--n_epochs 30 {flags}'), COUNT, epoch)
    np.testing.assert_allclose(got, prior / prior.sum(), rtol=1e-5)


@pytest.mark.parametrize(('info', 'epoch'), [({'epoch': 3}, 2), ({'epoch': 3, 'batches': 0}, 2), ({'epoch': 3, 'batches': 7}, 3),
                                             ({'epoch': 0, 'batches': 7}, 0)])
def test_the_epoch_of_a_checkpoint(info, epoch):
    assert last_epoch(info) == epoch


@pytest.mark.parametrize(('epoch', 'share'), [(1, 12 / 22), (2, (12 / 22 + 1 / 3) / 2), (3, 1 / 3)])
def test_the_prior_is_that_of_the_saved_epoch(train, tiny, epoch, share):
    train('--sampling prog --n_epochs 3 --n_checkpoints 3')
    folder, = glob.glob(f'experiments/run/epoch_{epoch:02d}_*')
    scoring.main('', {'test': f'{tiny}/test.csv'}, 0, ['--load_path', folder, '--num_workers', '0', '--target_prior', 'uniform'])
    report = Path('results/run/performance_test.txt').read_text(encoding='utf-8')
    assert re.search(rf'^  class0 +{100 * share:.2f} +33\.33$', report, re.M)


def test_unsupported_losses_are_reported_before_images_are_read(train, tiny, monkeypatch):
    train('--loss_fn FOCAL')
    monkeypatch.setattr('utils.testing.network.get_test_cls_loader', lambda *args, **options: pytest.fail('images are read'))
    with pytest.raises(InputError, match='trained with FOCAL'):
        scoring.main('', {'test': f'{tiny}/test.csv'}, 0, ['--load_path', 'experiments/run', '--target_prior', 'train'])
