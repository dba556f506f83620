"""A signal while the training waits for a batch that may never come."""
import signal
import time

import pytest
import torch

from utils.common import Interrupted
from utils.get_loaders import ClassDataset

FLAGS = '--n_epochs 2 --do_mixup 0.2 --momentum 0.9 --train_eval off --no_cache'


@pytest.fixture
def hang(monkeypatch):
    """-> function that makes the data loader hang at its `n`-th batch, after a signal"""
    def start(n):
        calls, read = [], ClassDataset.__getitems__

        def hanging(data, indices):
            calls.append(1)
            if len(calls) == n:
                signal.raise_signal(signal.SIGTERM)
                time.sleep(3600)
            return read(data, indices)
        monkeypatch.setattr(ClassDataset, '__getitems__', hanging)
    return start


def weights(run):
    return torch.load(run / 'last' / 'model_checkpoint.pth', weights_only=True)['state_dict']


@pytest.mark.parametrize('flags', ['', '--accumulate 2'])
@pytest.mark.parametrize('batch', [1, 4, 18])  # the first, one within an epoch (two per step), one in the second epoch
def test_a_signal_ends_the_wait_for_a_batch_and_loses_nothing(train, hang, monkeypatch, tmp_path, flags, batch):
    whole = train(f'{FLAGS} {flags} --save_path whole').parent / 'whole'
    hang(batch)
    with pytest.raises(Interrupted):
        train(f'{FLAGS} {flags}')
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    resumed = train(f'{FLAGS} {flags} --resume')
    expected = weights(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(resumed).items())
