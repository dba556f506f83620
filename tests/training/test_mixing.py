"""Mixed images and labels compared with the formulas of the papers, with the same random draws."""
import copy

import numpy as np
import pytest
import torch
from scipy.stats import kstest

import train_lt_mxp
from models.arch import IMAGENET
from tests.factories import MEAN, STD, image_batch
from utils.prediction.inference import Normalise
from utils.training import engine
from utils.training.augmentation import draw_params, jitter, move
from utils.training.mixing import MIXING, BalancedMixUp, CutMix, MixUp, Remix


@pytest.fixture
def normalise():
    return Normalise('cpu', MEAN, STD)


@pytest.mark.parametrize('size', [1, 5])
def test_balanced_mixup(normalise, size):
    """x and y are (1 - l) instance + l balanced, with one l per batch; the reference is in float64."""
    instance, balanced = image_batch(size, 2), image_batch(size, 3)
    prepare = BalancedMixUp(normalise, [9, 5, 2, 1], alpha=.3, seed=7)
    prepare.set_epoch(5)
    inputs, targets = prepare([instance, balanced])
    params = draw_params(np.random.default_rng([7, 2, 5]), 2 * size, 26)
    weight = np.random.default_rng([7, 4, 5]).beta(.3, 1)
    x = jitter(move(torch.cat([instance[0], balanced[0]]) / 255, params), params).double().numpy()
    x = (x - np.array(MEAN).reshape(3, 1, 1)) / np.array(STD).reshape(3, 1, 1)
    y = np.eye(4)[torch.cat([instance[1], balanced[1]]).numpy()]
    np.testing.assert_allclose(inputs.numpy(), (1 - weight) * x[:size] + weight * x[size:], atol=1e-5)
    np.testing.assert_allclose(targets.numpy(), (1 - weight) * y[:size] + weight * y[size:], atol=1e-6)
    assert inputs.shape == (size, 3, 20, 26) and targets.dtype == torch.float32


@pytest.mark.parametrize('alpha', [.1, .3])
def test_weight_of_the_balanced_batch_is_beta(normalise, alpha):
    prepare = BalancedMixUp(normalise, [5, 1], alpha=alpha, augment='none', seed=1)
    one = torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.tensor([0]), ['a']
    other = one[0], torch.tensor([1]), ['b']
    weights = np.array([prepare([one, other])[1][0, 1].item() for _ in range(1500)])
    assert kstest(weights, lambda x: x ** alpha).pvalue > 1e-3  # the distribution function of Beta(alpha, 1)


def test_a_training_step_is_that_of_the_paper(train, monkeypatch):
    """The weights after one step of SGD, compared with equation 2 and the soft cross-entropy in float64."""
    seen = {}

    def one_epoch(state, epoch, *others):
        state.trained.classifier[0].p = 0  # no dropout
        (batch,) = epoch.loader
        seen.update(before=copy.deepcopy(state.trained).double(), batch=batch)
        stats = engine.train_one_epoch(state, epoch, *others)
        seen['after'] = copy.deepcopy(state.trained)
        return stats

    monkeypatch.setattr(train_lt_mxp, 'train_one_epoch', one_epoch)
    train('--n_epochs 1 --batch_size 16 --do_mixup 0.3 --augment none --lr 0.1 --seed 8 --do_not_save')
    reference, (instance, balanced) = seen['before'], seen['batch']
    weight = np.random.default_rng([8, 4, 0]).beta(.3, 1)
    x = (1 - weight) * instance[0].double() + weight * balanced[0].double()
    x = (x / 255 - torch.tensor(IMAGENET[0]).view(3, 1, 1)) / torch.tensor(IMAGENET[1]).view(3, 1, 1)
    y = (1 - weight) * torch.eye(3)[instance[1]] + weight * torch.eye(3)[balanced[1]]
    loss = -(y * reference(x).log_softmax(1)).sum(1).mean()
    for parameter, gradient in zip(reference.parameters(), torch.autograd.grad(loss, list(reference.parameters())), strict=True):
        parameter.data -= .1 * gradient
    for found, expected in zip(seen['after'].parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)


def coded(labels, height=20, width=26):
    """Images with all pixels equal to 20 times the label, so that the mixing weights can be read from the pixels."""
    images = torch.tensor(labels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, height, width) * 20
    return [(images, torch.tensor(labels), ['id'] * len(labels))]


def pixels(inputs):
    return (inputs * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255 / 20


def replay(seed, n, alpha):
    rng = np.random.default_rng([seed, 4, 0])
    return rng.permutation(n), rng.beta(alpha, alpha), rng


@pytest.mark.parametrize('seed', range(8))
def test_mixup(normalise, seed):
    labels = np.arange(4)
    inputs, targets = MixUp(normalise, [9, 5, 2, 1], .4, 'none', seed)(coded(labels))
    partner, share, _ = replay(seed, 4, .4)
    np.testing.assert_allclose(targets, share * np.eye(4) + (1 - share) * np.eye(4)[partner], atol=1e-6)
    np.testing.assert_allclose(pixels(inputs).mean((1, 2, 3)), share * labels + (1 - share) * labels[partner], atol=1e-4)


@pytest.mark.parametrize('seed', range(8))
def test_cutmix(normalise, seed):
    labels = np.arange(4)
    inputs, targets = CutMix(normalise, [9, 5, 2, 1], 1., 'none', seed)(coded(labels))
    partner, share, _ = replay(seed, 4, 1.)
    values = pixels(inputs).round().numpy()
    for i in range(4):  # the label weights are the fractions of pixels, and the box has about the area that was drawn
        areas = [(values[i, 0] == c).mean() for c in range(4)]
        np.testing.assert_allclose(targets[i], areas, atol=1e-6)
        assert areas[labels[i]] >= share - .02 or partner[i] == i
        rows, columns = np.nonzero(values[i, 0] != labels[i])
        assert partner[i] == i or len(rows) == np.prod([np.ptp(rows) + 1, np.ptp(columns) + 1] if len(rows) else [0])  # one box


@pytest.mark.parametrize('seed', range(12))
@pytest.mark.parametrize('count', [[9, 3, 2, 1], [100, 100, 5, 5]])
def test_remix(normalise, seed, count):
    labels = np.array([0, 1, 2, 3, 0, 3])
    inputs, targets = Remix(normalise, count, 1., 'none', seed)(coded(labels))
    partner, share, _ = replay(seed, 6, 1.)
    for i, j in enumerate(partner):
        ratio, y_share = count[labels[i]] / count[labels[j]], share
        if ratio >= 3 and share < .5:
            y_share = 0
        elif ratio <= 1 / 3 and 1 - share < .5:
            y_share = 1
        np.testing.assert_allclose(targets[i], y_share * np.eye(4)[labels[i]] + (1 - y_share) * np.eye(4)[labels[j]], atol=1e-6)
    np.testing.assert_allclose(pixels(inputs).mean((1, 2, 3)), share * labels + (1 - share) * labels[partner], atol=1e-4)


@pytest.mark.parametrize('name', [name for name, mixing in MIXING.items() if mixing])
def test_mixing_a_batch_of_one(normalise, name):
    mixing = MIXING[name](normalise, [3, 0, 1, 2])
    inputs, targets = mixing([image_batch(1, 0)] * mixing.n_loaders)
    assert inputs.shape == (1, 3, 20, 26) and inputs.isfinite().all()
    torch.testing.assert_close(targets.sum(1), torch.ones(1))
