"""Compare losses with the float64 formulas of the papers: values, and gradients by central differences."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.loss_formulas import reference
from utils.common import InputError
from utils.losses import LOSSES, CrossEntropy, get_deferred_loss_fns, get_loss_fn, loss_parameters

COUNTS = {'tail': [1000, 300, 90, 27, 8], 'eyepacs': [25810, 2443, 5292, 873, 708], 'uniform': [7] * 5, 'zero': [50, 9, 0, 4, 30]}
PARAMS = {'CE': {'epsilon': .1}, 'SEQL': {'gamma': 1., 'lam': .05}, 'WCE': {'gamma': .7}, 'FOCAL': {'gamma': .5}, 'LA': {'tau': 1.3},
          'CB': {'beta': .99}, 'LDAM': {'s': 4.}}  # not the defaults; SEQL is deterministic with gamma 1


CASES = ['random', 'extreme', 'batch of one', 'soft']


# All pairs of a loss and counts, each with one case
@pytest.mark.parametrize(('name', 'counts', 'case'), [
    (name, counts, CASES[(i + j) % len(CASES)]) for i, name in enumerate(LOSSES) for j, counts in enumerate(COUNTS)])
def test_value_and_gradient(name, counts, case):
    count = COUNTS[counts]
    rng, n = np.random.default_rng(list((case + name).encode())), np.array(count, np.float64)
    size = 1 if case == 'batch of one' else 6
    z = rng.choice([-90., 90.], (size, 5)) if case == 'extreme' else rng.normal(0, 3, (size, 5)).astype(np.float32).astype(float)
    present = np.flatnonzero(n)
    hard = rng.choice(present, size)
    y = rng.dirichlet([.4] * 5, size) * (n > 0) if case == 'soft' else np.eye(5)[hard]
    y = (y / y.sum(1, keepdims=True)).astype(np.float32)
    params = loss_parameters(name) | PARAMS.get(name, {})
    logits = torch.tensor(z, dtype=torch.float32, requires_grad=True)
    loss = get_loss_fn(name, count, **params)(logits, torch.tensor(y) if case == 'soft' else torch.tensor(hard))
    loss.backward()
    y = y.astype(float)
    expected, h = reference(name, z, y, n, z, params), 1e-5
    gradient = np.empty_like(z)
    for i in np.ndindex(z.shape):
        step = np.zeros_like(z)
        step[i] = h
        gradient[i] = (reference(name, z + step, y, n, z, params) - reference(name, z - step, y, n, z, params)) / (2 * h)
    np.testing.assert_allclose(loss.item(), expected, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(logits.grad.numpy(), gradient, rtol=1e-4, atol=2e-5)


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(2)
    return torch.randn(9, 5, generator=g) * 4, torch.randint(0, 5, (9,), generator=g)


every_loss = pytest.mark.parametrize('name', LOSSES)


def without_chance(name):
    return get_loss_fn(name, COUNTS['tail'], **({'gamma': 1.} if name == 'SEQL' else {}))


def soft_targets(y):
    return .75 * F.one_hot(y, 5).double() + .05  # exact only in float64


@every_loss
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(name, dtype, batch):
    z, y = batch
    loss = without_chance(name)
    torch.testing.assert_close(loss(z.to(dtype), y), loss(z.to(dtype).float(), y))


@every_loss
def test_autocast_changes_no_loss(name, batch):
    loss = without_chance(name)
    with torch.autocast('cpu', torch.bfloat16):
        found = loss(*batch)
    torch.testing.assert_close(found, loss(*batch))


@every_loss
@pytest.mark.parametrize('targets', ['hard', 'soft'])
def test_float64_logits_give_the_formula_in_float64(name, targets, batch):
    z, y = batch[0].double(), batch[1]
    params = loss_parameters(name) | PARAMS.get(name, {})
    loss = get_loss_fn(name, COUNTS['tail'], **params)(z, y if targets == 'hard' else soft_targets(y))
    shares = np.eye(5)[y] if targets == 'hard' else soft_targets(y).numpy()
    expected = reference(name, z.numpy(), shares, np.array(COUNTS['tail'], float), z.numpy(), params)
    assert loss.dtype == torch.float64
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-12)


@every_loss
@pytest.mark.parametrize('targets', ['hard', 'soft'])
def test_gradient_in_float64(name, targets, batch):
    z, y = batch[0].double().requires_grad_(), batch[1]
    loss = get_loss_fn(name, COUNTS['tail'], **{'SEQL': {'gamma': 1.}, 'SEESAW': {'q': 0.}}.get(name, {}))  # nothing random or detached
    assert torch.autograd.gradcheck(lambda logits: loss(logits, y if targets == 'hard' else soft_targets(y)), z)


@every_loss
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_of_soft_targets_does_not_decide_the_precision(name, dtype, batch):
    z, y = batch
    loss = without_chance(name)(z, soft_targets(y).to(dtype))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, without_chance(name)(z, soft_targets(y).to(dtype).float()))


@every_loss
def test_the_type_of_hard_targets_does_not_matter(name, batch):
    z, y = batch
    assert torch.equal(without_chance(name)(z, y.to(torch.uint8)), without_chance(name)(z, y))


@every_loss
def test_float32_gives_the_same_after_float64(name, batch):
    z, y = batch
    loss = without_chance(name)
    before = loss(z, y)
    loss(z.double(), y)
    assert torch.equal(loss(z, y), before)


def test_deferred_weights_follow_the_type_of_the_logits(batch):
    z, y = batch[0].double(), batch[1]
    expected = (get_loss_fn('CB', COUNTS['tail']).exact['class_weight'][y] * F.cross_entropy(z, y, reduction='none').numpy()).mean()
    assert get_deferred_loss_fns('CE', COUNTS['tail'])[1](z, y).item() == pytest.approx(expected, rel=1e-12)


def test_identities(batch):
    z, y = batch
    tail, uniform = COUNTS['tail'], COUNTS['uniform']
    ce = F.cross_entropy(z, y)
    for name in ('CE', 'WCE', 'CB', 'BSCE', 'LA', 'CDT', 'VS', 'LAS'):
        torch.testing.assert_close(get_loss_fn(name, uniform)(z, y), ce)

    def equal(name, params, other, other_params):
        torch.testing.assert_close(get_loss_fn(name, tail, **params)(z, y), get_loss_fn(other, tail, **other_params)(z, y))
    equal('LA', {'tau': 1}, 'BSCE', {})
    equal('VS', {'gamma': 0, 'tau': .7}, 'LA', {'tau': .7})
    equal('VS', {'gamma': .4, 'tau': 0}, 'CDT', {'gamma': .4})
    equal('CBFOCAL', {'gamma': 0, 'beta': .99}, 'CB', {'beta': .99})
    equal('LADE', {'alpha': 0}, 'BSCE', {})
    for name, params in (('FOCAL', {'gamma': 0}), ('WCE', {'gamma': 0}), ('CB', {'beta': 0}), ('LA', {'tau': 0}), ('SEQL', {'gamma': 0}),
                         ('SEESAW', {'p': 0, 'q': 0}), ('ORDINAL', {'alpha': 0}), ('LDAM', {'max_m': 0, 's': 1})):
        equal(name, params, 'CE', {})
    torch.testing.assert_close(get_loss_fn('CE', tail, epsilon=.1)(z, y), F.cross_entropy(z, y, label_smoothing=.1))
    assert get_loss_fn('CB', tail).class_weight.sum().item() == pytest.approx(5)


def test_direction_of_cdt():
    """The rarest class has the largest temperature, so it needs larger decision values (reversed in the original)."""
    temperature = get_loss_fn('CDT', COUNTS['tail']).temperature
    assert temperature[0] == 1 and (temperature.diff() > 0).all()


def test_equalisation_draws_with_the_given_probability():
    torch.manual_seed(0)
    z, y = torch.zeros(4000, 5), torch.zeros(4000, dtype=torch.long)
    left_out = get_loss_fn('SEQL', COUNTS['tail'], gamma=.9, lam=.02).adjust_for(z, y).isinf()
    assert not left_out[:, :3].any() and abs(left_out[:, 3:].float().mean().item() - .9) < .01


def test_deferred(batch):
    """With DRW, class weights start late, in addition to CE or LDAM's margins. Other losses start with equal counts."""
    z, y = batch
    tail = COUNTS['tail']
    before, after = get_deferred_loss_fns('CE', tail)
    torch.testing.assert_close(before(z, y), F.cross_entropy(z, y))
    torch.testing.assert_close(after(z, y), get_loss_fn('CB', tail, beta=.9999)(z, y))
    before, after = get_deferred_loss_fns('LDAM', tail)
    torch.testing.assert_close(before(z, y), get_loss_fn('LDAM', tail)(z, y))
    weight = get_loss_fn('CB', tail).class_weight
    each = torch.stack([before(z[i:i + 1], y[i:i + 1]) * weight[y[i]] for i in range(len(y))])
    torch.testing.assert_close(after(z, y), each.mean())
    torch.testing.assert_close(get_deferred_loss_fns('LDAM', tail, rebalance=False)[1](z, y), before(z, y))
    before, after = get_deferred_loss_fns('BSCE', tail)
    torch.testing.assert_close(before(z, y), F.cross_entropy(z, y))
    torch.testing.assert_close(after(z, y), get_loss_fn('BSCE', tail)(z, y))


def test_bad_parameters():
    for name, params, message in (('cdt', {'tau': 1}, r'loss CDT has no parameter tau \(its parameters: gamma\)'),
                                  ('BCSE', {}, 'unknown loss BCSE'),
                                  ('CB', {'beta': 1.}, r'beta must be between 0 and 0\.9+, got 1'),
                                  ('FOCAL', {'gamma': -1}, 'gamma must be between'), ('LDAM', {'s': np.nan}, 's must be a finite number'),
                                  ('LA', {'tau': np.inf}, 'tau must be a finite')):
        with pytest.raises(InputError, match=message):
            get_loss_fn(name, [3, 2], **params)


class Poly(CrossEntropy):
    """A loss with its own parameters, as a user would add it."""
    ranges = {'reach': (0, 3)}  # noqa: RUF012

    def __init__(self, class_count, power=-1., reach=1.):
        super().__init__(class_count)
        self.power, self.reach = power, reach

    def class_losses(self, logits):
        return super().class_losses(logits) + self.reach * 10. ** self.power * (1 - logits.softmax(dim=1))


@pytest.fixture
def own_loss(monkeypatch):
    monkeypatch.setitem(LOSSES, 'POLY', Poly)


def test_a_parameter_without_a_declared_range_takes_any_number(own_loss, batch):
    z, y = batch
    plain, p_y = F.cross_entropy(z, y), z.softmax(1)[range(len(y)), y]
    torch.testing.assert_close(get_loss_fn('POLY', COUNTS['tail'], power=-2.)(z, y), plain + .01 * (1 - p_y).mean())


def test_a_range_that_the_class_declares_is_checked(own_loss):
    with pytest.raises(InputError, match='loss POLY: reach must be between 0 and 3, got 4'):
        get_loss_fn('POLY', COUNTS['tail'], reach=4)


def test_a_parameter_named_like_one_of_the_base_has_its_own_range(monkeypatch, batch):
    class Own(CrossEntropy):
        def __init__(self, class_count, epsilon=2.):
            super().__init__(class_count)
    monkeypatch.setitem(LOSSES, 'OWN', Own)
    torch.testing.assert_close(get_loss_fn('OWN', COUNTS['tail'], epsilon=3.)(*batch), F.cross_entropy(*batch))


def test_a_parameter_without_a_default_is_required(monkeypatch):
    class Own(CrossEntropy):
        def __init__(self, class_count, power):
            super().__init__(class_count)
    monkeypatch.setitem(LOSSES, 'OWN', Own)
    with pytest.raises(InputError, match='loss OWN needs a value for power: --loss_params power=NUMBER'):
        get_loss_fn('OWN', COUNTS['tail'])


@every_loss
def test_every_range_contains_the_default(name):
    defaults, ranges = loss_parameters(name), LOSSES[name].ranges
    assert all(ranges[param][0] <= value <= ranges[param][1] for param, value in defaults.items())
