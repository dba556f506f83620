import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.factories import Waits
from utils.training.optim import OPTIMIZERS, SCHEDULES, MovingAverage, Schedule


def schedule_args(name, warmup, min_lr=.001):
    return SimpleNamespace(schedule=name, warmup=warmup, lr=.5, min_lr=min_lr, patience=1, metric='mcc')


def rates(name, warmup, n_steps=100, values=None):
    """The rate of each step; one epoch is ten steps."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], .5)
    schedule = Schedule(schedule_args(name, warmup), optimizer, n_steps)
    result = []
    for step in range(n_steps):
        result.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        schedule.after_step()
        if step % 10 == 9 and values:
            schedule.after_epoch(values[step // 10])
    return result


def test_cosine():
    got = rates('cosine', .2)
    for step, rate in enumerate(got):
        expected = .5 * (.01 + .99 * step / 20) if step < 20 else .001 + .499 * (1 + math.cos(math.pi * (step - 20) / 80)) / 2
        assert rate == pytest.approx(expected)


@pytest.mark.parametrize('n_epochs', [4, 20, 100])
def test_step_divides_by_ten_at_a_half_and_three_quarters(n_epochs):
    """The schedule of the MedMNIST paper: of 100 epochs, the rate is divided after 50 and after 75."""
    expected = torch.optim.lr_scheduler.MultiStepLR(optimizer := torch.optim.SGD([nn.Parameter(torch.zeros(1))], .5),
                                                    [n_epochs // 2, 3 * n_epochs // 4])
    got = rates('step', 0., 10 * n_epochs)
    for epoch in range(n_epochs):
        assert got[10 * epoch:10 * epoch + 10] == pytest.approx([optimizer.param_groups[0]['lr']] * 10)
        optimizer.step()
        expected.step()


def test_step_with_a_warmup():
    got = rates('step', .2)
    assert got[:20] == pytest.approx([.5 * (.01 + .99 * step / 20) for step in range(20)]) and got[20:50] == [.5] * 30


def test_onecycle():
    got = rates('onecycle', .3)
    assert got[0] == pytest.approx(.5 / 25) and max(got) == pytest.approx(.5, rel=1e-3) and got[-1] < .002
    assert 29 <= got.index(max(got)) <= 31


def test_plateau_with_and_without_warmup():
    values = [.1, .2, .2, .2, None, None, .2, .2, .2, .2]
    plain = rates('plateau', 0., values=values)
    assert plain[:40] == [.5] * 40 and plain[40] == pytest.approx(.05)  # two epochs without improvement, patience 1
    assert plain[-1] == pytest.approx(.005)  # epochs with None are skipped
    warm = rates('plateau', .15, values=values)
    assert warm[0] == pytest.approx(.005) and warm[14] < .5 and warm[15:40] == pytest.approx([.5] * 25)


@pytest.mark.parametrize('n_steps', [5, 10, 50, 100, 1000])
@pytest.mark.parametrize('warmup', [.9, .95, .99, .999999])
@pytest.mark.parametrize('name', ['cosine', 'onecycle'])
def test_the_rate_still_decays_after_a_long_warmup(name, warmup, n_steps):
    got = rates(name, warmup, n_steps)
    assert got[-1] < .03 * .5 and max(got) > .85 * .5 and got.index(max(got)) >= .8 * n_steps - 1


@pytest.mark.parametrize('n_steps', [1, 2, 3, 5, 14, 100])
@pytest.mark.parametrize(('name', 'warmup'), [('cosine', .05), ('cosine', .4), ('onecycle', .3)])
def test_rates_equal_those_of_torch(name, warmup, n_steps):
    """Equal to torch's schedulers at every step."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], .5)
    if name == 'onecycle':
        reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, .5, total_steps=n_steps + 1, pct_start=warmup)
    else:
        n_warm = round(warmup * n_steps)
        reference = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: .01 + .99 * step / n_warm if step < n_warm else (
            .002 + .998 * (1 + math.cos(math.pi * (step - n_warm) / max(n_steps - n_warm, 1))) / 2))
    expected = []
    for _ in range(n_steps):
        expected.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        reference.step()
    assert rates(name, warmup, n_steps) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(('warmup', 'n_steps'), [(.5, 1), (.1, 9), (.25, 3), (.05, 19)])
def test_onecycle_with_a_warmup_of_zero_steps(warmup, n_steps):
    assert rates('onecycle', warmup, n_steps)[0] == pytest.approx(.5)


@pytest.mark.parametrize(('min_lr', 'last', 'finished'), [(.001, .001, True), (.001, .01, False), (.5, .5, False)],
                         ids=['reached', 'not reached', 'a constant rate'])
def test_plateau_is_finished_after_an_epoch_at_the_minimum_rate(min_lr, last, finished):
    schedule = Schedule(schedule_args('plateau', 0., min_lr), torch.optim.SGD([nn.Parameter(torch.zeros(1))], .5), n_steps=10)
    assert schedule.finished([{'lr': .5}, {'lr': last}]) == finished and not schedule.finished([])


@pytest.mark.parametrize('name', SCHEDULES)
def test_resuming_a_schedule(name):
    def build():
        parameter = nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([parameter], .5, momentum=.9)
        return optimizer, Schedule(schedule_args(name, .25), optimizer, n_steps=40)

    def run(optimizer, schedule, steps):
        for step in steps:
            optimizer.step()
            schedule.after_step()
            if step % 4 == 3:
                schedule.after_epoch(.1)
        return optimizer.param_groups[0]['lr']
    whole = run(*build(), range(30))
    optimizer, schedule = build()
    run(optimizer, schedule, range(16))
    resumed_optimizer, resumed = build()
    resumed_optimizer.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    assert run(resumed_optimizer, resumed, range(16, 30)) == whole


def test_adamw_does_not_decay_biases_and_normalisation():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    model[2].bias.requires_grad_(False)
    groups = OPTIMIZERS['adamw'](model, SimpleNamespace(lr=.1, wd=.3, layer_decay=1.)).param_groups
    assert [group['weight_decay'] for group in groups] == [.3, 0.]
    assert [len(group['params']) for group in groups] == [2, 3]  # two weights; the bias of the convolution, weight and bias of BatchNorm
    for name in ('sgd', 'adam'):
        group, = OPTIMIZERS[name](model, SimpleNamespace(lr=.1, wd=.3, momentum=.9, layer_decay=1.)).param_groups
        assert group['weight_decay'] == .3 and len(group['params']) == 5


def test_moving_average():
    """Compare with the recursion in float64. BatchNorm's statistics are averaged, its counter is copied."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    averaged, expected = MovingAverage(model, .9), None
    for n in range(40):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(5, 3))
        averaged.update(model)
        state = {name: tensor.double().clone() for name, tensor in model.state_dict().items()}
        decay = 0 if n == 0 else min(.9, (1 + n) / (10 + n))
        expected = state if expected is None else {name: decay * expected[name] + (1 - decay) * state[name] for name in state}
        expected['1.num_batches_tracked'] = state['1.num_batches_tracked']
    for name, tensor in averaged.module.state_dict().items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-5)


def test_moving_average_of_a_network_without_counters():
    model = nn.Linear(3, 2)
    averaged = MovingAverage(model, .9)
    nn.init.ones_(model.weight)
    averaged.update(model)
    assert torch.equal(averaged.module.weight, model.weight)


def test_moving_average_waits_for_the_device_nowhere():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).to('meta')
    averaged = MovingAverage(model, .9)
    with Waits() as waits:
        for _ in range(3):
            averaged.update(model)
    assert waits.found == [] and averaged.n_averaged == 3
