"""Losses against float64 formulas: values and gradients."""
import numpy as np
import pytest
import torch

from utils.common import InputError
from utils.losses import LOSSES, get_loss_fn

COUNTS = {'tail': [1000, 300, 90, 27, 8], 'eyepacs': [25810, 2443, 5292, 873, 708], 'uniform': [7] * 5, 'one': [3, 3, 3, 3, 1]}


def reference_logits(name, z, count):
    n = np.array(count, np.float64)
    return {'CE': z, 'BSCE': z + np.log(n), 'CDT': z / (n.max() / n) ** .2}[name]


def reference_loss(name, z, y, count):
    """Mean soft cross-entropy of the adjusted logits and its gradient with respect to z, in float64."""
    adjusted = reference_logits(name, z, count)
    shifted = adjusted - adjusted.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    gradient = (np.exp(log_p) * y.sum(1, keepdims=True) - y) / len(z)
    if name == 'CDT':
        n = np.array(count, np.float64)
        gradient = gradient / (n.max() / n) ** .2
    return -(y * log_p).sum(1).mean(), gradient


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('count', COUNTS.values(), ids=COUNTS)
@pytest.mark.parametrize('case', ['random', 'extreme', 'batch of one', 'soft'])
def test_value_and_gradient(name, count, case):
    rng = np.random.default_rng(list(case.encode()))
    size = 1 if case == 'batch of one' else 16
    z = rng.choice([-90., 90.], (size, 5)) if case == 'extreme' else rng.normal(0, 3, (size, 5))
    z = z.astype(np.float32)
    hard = rng.integers(0, 5, size)
    y = rng.dirichlet([.4] * 5, size) if case == 'soft' else np.eye(5)[hard]
    logits = torch.tensor(z, requires_grad=True)
    targets = torch.tensor(y, dtype=torch.float32) if case == 'soft' else torch.tensor(hard)
    loss = get_loss_fn(name, count)(logits, targets)
    loss.backward()
    value, gradient = reference_loss(name, z.astype(np.float64), y, count)
    assert loss.item() == pytest.approx(value, rel=2e-5, abs=1e-6)
    np.testing.assert_allclose(logits.grad.numpy(), gradient, atol=3e-6)


@pytest.mark.parametrize('name', LOSSES)
def test_identities(name):
    g = torch.Generator().manual_seed(2)
    z, y = torch.randn(9, 5, generator=g) * 4, torch.randint(0, 5, (9,), generator=g)
    one_hot = torch.nn.functional.one_hot(y, 5).float()
    tail, uniform = get_loss_fn(name, COUNTS['tail']), get_loss_fn(name, COUNTS['uniform'])
    torch.testing.assert_close(tail(z, y), tail(z, one_hot))  # soft targets of one class = hard targets
    torch.testing.assert_close(uniform(z, y), torch.nn.functional.cross_entropy(z, y))  # uniform counts = CE
    torch.testing.assert_close(get_loss_fn(name, [10 * n for n in COUNTS['tail']])(z, y), tail(z, y))  # only ratios matter
    torch.testing.assert_close(tail(z.bfloat16(), y), tail(z.bfloat16().float(), y))


def test_direction_of_cdt():
    """The tail has the largest temperature, so that at equal logits it needs larger decision values (a mistake of the original)."""
    temperature = get_loss_fn('CDT', COUNTS['tail']).per_class
    assert temperature[0] == 1 and (temperature.diff() > 0).all()
    torch.testing.assert_close(get_loss_fn('CDT', COUNTS['tail'], gamma=0.).per_class, torch.ones(5))


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('soft', [False, True])
def test_class_without_training_images(name, soft):
    """Finite, as long as no target asks for that class; BSCE gives it probability 0, so the others see their own loss."""
    loss_fn, z = get_loss_fn(name, [50, 0, 5]), torch.randn(4, 3, requires_grad=True)
    y = torch.tensor([0, 2, 0, 2])
    loss = loss_fn(z, torch.nn.functional.one_hot(y, 3).float() if soft else y)
    loss.backward()
    assert loss.isfinite() and z.grad.isfinite().all()
    if name == 'BSCE':
        torch.testing.assert_close(loss, get_loss_fn(name, [50, 5])(z[:, [0, 2]], y // 2))
        assert (z.grad[:, 1] == 0).all()


def test_unknown_parameter():
    with pytest.raises(InputError, match=r'loss CDT has no parameter tau \(it has: gamma\)'):
        get_loss_fn('cdt', [3, 2], tau=1)
    with pytest.raises(InputError, match='unknown loss BCSE'):
        get_loss_fn('BCSE', [3, 2])
