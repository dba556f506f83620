"""--layer_decay: rates of the layers, compared with BEiT's formula and with timm, and their ratios under each schedule."""
import json
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn

from models.get_model import as_arch, get_arch
from tests.factories import signal_in_batch
from utils.common import InputError, Interrupted
from utils.training.optim import OPTIMIZERS, SCHEDULES, Schedule, layer_groups

LR, DECAY, WD = .3, .7, .05


def flags(**changes):
    return SimpleNamespace(**{'lr': LR, 'layer_decay': DECAY, 'wd': WD, 'momentum': .9, 'model_name': 'net'} | changes)


def vit(depth=3):
    return as_arch(timm.create_model('vit_tiny_patch16_224', depth=depth, embed_dim=24, num_heads=2, num_classes=4), 4, 'head').model


def rate_of_each_weight(model, optimizer='adamw', **changes):
    rates = {id(p): group['lr'] for group in OPTIMIZERS[optimizer](model, flags(**changes)).param_groups for p in group['params']}
    return {name: rates[id(parameter)] for name, parameter in model.named_parameters() if id(parameter) in rates}


def contents(groups):
    return sorted((sorted(map(id, group['params'])), group['weight_decay'], group['lr']) for group in groups)


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_rates_of_a_vit(optimizer):
    """BEiT: the embeddings are layer 0, block i is layer i + 1, and the classifier is the last one of depth + 2 layers."""
    for name, rate in rate_of_each_weight(vit(depth=3), optimizer).items():
        number = 4 if name.startswith('head') else 3 if name.startswith('norm') else int(name.split('.')[1]) + 1 if 'blocks' in name else 0
        assert rate == pytest.approx(LR * DECAY ** (4 - number)), name


@pytest.mark.parametrize(('optimizer', 'spared'), [('sgd', False), ('adam', False), ('adamw', True)])
@pytest.mark.parametrize('build', [vit, lambda: get_arch('resnet10t', 4).model], ids=['ViT', 'ResNet'])
def test_groups_equal_those_of_timm(build, optimizer, spared):
    model = build()
    expected = timm.optim.param_groups_layer_decay(model, WD, layer_decay=DECAY, weight_decay_exclude_1d=spared)
    assert contents(OPTIMIZERS[optimizer](model, flags()).param_groups) == contents(
        group | {'lr': LR * group['lr_scale']} for group in expected)


@pytest.mark.parametrize('name', ['mobilenetV2', 'resnext50', 'resnet32'])
@pytest.mark.parametrize('head', ['linear', 'cosine'])
def test_rates_of_networks_that_are_not_of_timm(name, head):
    """They rise from the input to the classifier, which alone has the full rate."""
    model = get_arch(name, 4, head=head).model
    rates = rate_of_each_weight(model)
    trunk = [rate for name, rate in rates.items() if not name.startswith(f'{model.classifier_name}.')]
    assert len(rates) == len(list(model.parameters())) and trunk == sorted(trunk) and len(set(trunk)) >= 8
    assert max(trunk) == pytest.approx(LR * DECAY) and {*rates.values()} - {*trunk} == {LR}


def test_only_names_of_the_classifier_have_the_full_rate():
    """Layer 1 is the classifier; the names of layer 10 start with the same digit."""
    network = nn.Sequential(*(nn.Linear(3, 3) for _ in range(11)))
    assert {name for name, rate in rate_of_each_weight(as_arch(network, 3, '1').model).items() if rate == LR} == {'1.weight', '1.bias'}


def test_frozen_weights_are_left_out():
    model = vit().requires_grad_(False)
    model.head.requires_grad_(True)
    assert rate_of_each_weight(model) == {'head.weight': LR, 'head.bias': LR}


def test_a_network_of_one_layer_is_refused():
    model = as_arch(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), 3).model
    with pytest.raises(InputError, match=r'^--layer_decay 0\.7: all weights of net are in one layer: leave the flag out$'):
        layer_groups(model, flags())


def test_a_network_of_one_layer_is_refused_before_a_run_folder_is_written(train, tmp_path):
    (tmp_path / 'net.py').write_text('from torch import nn\n\ndef build(n_classes, pretrained, im_size):\n'
                                     '    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, n_classes))\n')
    with pytest.raises(InputError, match='--layer_decay'):
        train(f'--layer_decay 0.5 --model_name {tmp_path}/net.py:build')
    assert not (tmp_path / 'experiments').exists()


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_without_decay_the_saved_state_is_the_same_as_before(optimizer):
    model = vit()
    args = flags(layer_decay=1.)
    matrices, vectors = ([p for p in model.parameters() if (p.ndim > 1) == wanted] for wanted in (True, False))
    expected = {'sgd': lambda: torch.optim.SGD(model.parameters(), LR, .9, weight_decay=WD),
                'adam': lambda: torch.optim.Adam(model.parameters(), LR, weight_decay=WD),
                'adamw': lambda: torch.optim.AdamW([{'params': matrices, 'weight_decay': WD}, {'params': vectors, 'weight_decay': 0.}], LR)}
    assert OPTIMIZERS[optimizer](model, args).state_dict() == expected[optimizer]().state_dict()


def schedule_flags(name, warmup):
    return SimpleNamespace(schedule=name, warmup=warmup, lr=LR, min_lr=LR / 1000, patience=0, metric='mcc')


def trained_rates(name, warmup, scales, n_steps=60):
    """The rates of groups with the given scales in each step. The validation score never improves."""
    optimizer = torch.optim.SGD([{'params': [nn.Parameter(torch.zeros(1))], 'lr': LR * scale} for scale in scales], LR)
    schedule, result = Schedule(schedule_flags(name, warmup), optimizer, n_steps), []
    for step in range(n_steps):
        result.append([group['lr'] for group in optimizer.param_groups])
        optimizer.step()
        schedule.after_step()
        if step % 10 == 9:
            schedule.after_epoch(.1)
    return torch.tensor(result, dtype=torch.float64)


@pytest.mark.parametrize('warmup', [0., .2])
@pytest.mark.parametrize('name', SCHEDULES)
def test_schedules_keep_the_ratios(name, warmup):
    """The smallest rate is that of the first layer of 60 with a decay of 0.5."""
    scales = [1e-18, .02, .7, 1.]
    rates = trained_rates(name, warmup, scales)
    torch.testing.assert_close(rates[:, -1:], trained_rates(name, warmup, [1.]), rtol=1e-12, atol=0)
    torch.testing.assert_close(rates / rates[:, -1:], torch.tensor(scales, dtype=torch.float64).expand_as(rates), rtol=1e-9, atol=0)
    assert rates[:, -1].max() / rates[:, -1].min() > 20


def test_the_log_has_the_rate_of_the_last_layer(train):
    run = train('--layer_decay 0.5 --lr 0.02 --optimizer adamw')
    assert [json.loads(line)['lr'] for line in (run / 'log.jsonl').read_text().splitlines()] == [.02]


def test_the_plateau_schedule_stops_at_the_minimum_rate_of_the_last_layer(train, capsys):
    train('--layer_decay 0.5 --n_epochs 9 --lr 0.001 --min_lr 0.0001 --patience 0 --metric loss --train_eval off --do_not_save')
    assert '* Early stopping: trained at the minimum learning rate 0.0001\n' in capsys.readouterr().out


@pytest.mark.parametrize('schedule', SCHEDULES)
def test_a_resumed_run_equals_the_whole_one(train, monkeypatch, schedule):
    given = f'--n_epochs 2 --layer_decay 0.5 --optimizer adamw --wd 0.1 --schedule {schedule}'
    read = lambda run: torch.load(run / 'last' / 'model_checkpoint.pth', weights_only=True)  # noqa: E731
    whole = read(train(given))
    with monkeypatch.context() as patch:
        signal_in_batch(patch, 8)
        with pytest.raises(Interrupted):
            train(f'{given} --overwrite')
    resumed = read(train(f'{given} --resume'))
    assert all(torch.equal(tensor, resumed['state_dict'][name]) for name, tensor in whole['state_dict'].items())
    assert [group['lr'] for group in whole['optimizer']['param_groups']] == [group['lr'] for group in resumed['optimizer']['param_groups']]


def test_another_decay_does_not_resume(train, monkeypatch):
    with monkeypatch.context() as patch:
        signal_in_batch(patch, 2)
        with pytest.raises(Interrupted):
            train('--layer_decay 0.5')
    with pytest.raises(InputError, match='layer_decay'):
        train('--layer_decay 0.6 --resume')
