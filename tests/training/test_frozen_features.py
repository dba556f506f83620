"""With a frozen backbone, training on cached features gives the same result as training on the images."""
import json
import signal

import pytest
import torch

import train_lt_mxp
from tests.factories import new_accelerator
from utils.common import Interrupted
from utils.model_saving_loading import load_model, read_checkpoint
from utils.training import network
from utils.training.batches import BatchTransform

FLAGS = '--augment none --n_epochs 3 --optimizer adamw --lr 0.01'


@pytest.fixture
def stage_one(train):
    return train('--save_path one --n_epochs 1').parent / 'one'


@pytest.fixture
def count(monkeypatch):
    """Number of images that pass through the first layer of the backbone. The forward check before training is turned off."""
    seen = [0]
    monkeypatch.setattr(network, 'check_forward', lambda *args: None)

    def counted(*args, **kwargs):
        arch, parent = get_stage_two(*args, **kwargs)
        arch.model.features[0].register_forward_hook(lambda layer, inputs, out: seen.__setitem__(0, seen[0] + len(out)))
        return arch, parent
    get_stage_two = network.get_stage_two
    monkeypatch.setattr(network, 'get_stage_two', counted)
    return seen


@pytest.mark.parametrize('flags', ['--trainable classifier --sampling class', '--trainable scale --loss_fn BSCE --ema 0.9 --no_cache',
                                   '--trainable classifier --loss_fn LDAM --train_eval off --num_workers 1'])
def test_same_result_as_with_images(train, stage_one, count, monkeypatch, capsys, flags):
    flags = f'--pretrained_weights {stage_one} {FLAGS} {flags}'
    fast = train(f'{flags} --save_path fast').parent / 'fast'
    assert 'features of 31 images were computed once' in capsys.readouterr().out
    assert count[0] == 31
    monkeypatch.setattr(train_lt_mxp, 'can_cache_features', lambda args: False)
    slow = train(f'{flags} --save_path slow').parent / 'slow'
    assert count[0] > 31 + 3 * 20
    a, b = (read_checkpoint(str(run))['state_dict'] for run in (fast, slow))
    assert a.keys() == b.keys() and all(torch.allclose(a[name], b[name], rtol=1e-4, atol=1e-5) for name in a)
    logs = ([json.loads(line) for line in (run / 'log.jsonl').read_text().splitlines()] for run in (fast, slow))
    for ours, theirs in zip(*logs, strict=True):
        assert ours['training_loss'] == pytest.approx(theirs['training_loss'], rel=1e-4)
        assert ours['val']['auc'] == pytest.approx(theirs['val']['auc'], abs=.02)
    model = load_model(str(fast)).model.eval()  # the whole network
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_half_precision(train, stage_one, count):
    with new_accelerator():
        run = train(f'--pretrained_weights {stage_one} {FLAGS} --trainable classifier --ema 0.9 --precision bf16')
    assert count[0] == 31 and (run / 'val_metrics.txt').exists()


def test_resumed_within_an_epoch(train, stage_one, monkeypatch):
    flags = f'--pretrained_weights {stage_one} {FLAGS} --trainable classifier --ema 0.9'
    whole, calls, original = train(f'{flags} --save_path whole').parent / 'whole', [], BatchTransform.__call__

    def strike(*args):
        calls.append(1)
        if len(calls) == 8:
            signal.raise_signal(signal.SIGTERM)
        return original(*args)
    monkeypatch.setattr(BatchTransform, '__call__', strike)
    with pytest.raises(Interrupted):
        train(flags)
    run = train(f'{flags} --resume')
    a, b = (read_checkpoint(str(folder / 'last'))['state_dict'] for folder in (whole, run))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize('flags', ['--trainable all --augment none', '--trainable classifier', '--trainable classifier --augment none '
                                   '--mixing mixup'])
def test_features_are_not_cached_if_images_change(train, stage_one, count, flags):
    train(f'--pretrained_weights {stage_one} --n_epochs 2 --train_eval off {flags}')
    assert count[0] == 2 * (20 + 9)


def test_features_too_large_for_memory(train, stage_one, count, monkeypatch, capsys):
    monkeypatch.setattr('utils.training.frozen_features.MEMORY_LIMIT', 1000)
    train(f'--pretrained_weights {stage_one} --n_epochs 2 --train_eval off --trainable classifier --augment none')
    assert count[0] == 2 * (20 + 9) and 'Features would take 0.0 MB of memory' in capsys.readouterr().out
