"""--tensorboard: the files contain the values of log.jsonl."""
import json
import sys
from pathlib import Path

import pytest

from utils.common import InputError
from utils.training import run_folder, tensorboard


def read(run):
    """-> {tag: {epoch: value}} of the scalars, and {tag: epochs} of the images."""
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    events = accumulator.EventAccumulator(str(run / 'tensorboard'), size_guidance={'images': 0, 'scalars': 0}).Reload()
    scalars = {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()['scalars']}
    return scalars, {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()['images']}


def test_the_numbers_of_the_log(train, capsys):
    run = train('--n_epochs 2 --tensorboard')
    log = [json.loads(line) for line in (run / 'log.jsonl').read_text().splitlines()]
    scalars, images = read(run)
    for record in log:
        for split in ('train', 'val'):
            for name in ('mcc', 'bacc', 'loss'):
                assert scalars[f'{name}/{split}'][record['epoch']] == pytest.approx(record[split][name], rel=1e-6, abs=1e-6)
            assert scalars[f'auc_all/{split}/class1'][record['epoch']] == pytest.approx(record[split]['auc_all'][1], rel=1e-6)
        assert scalars['training/lr'][record['epoch']] == pytest.approx(record['lr'])
        assert scalars['training/training_loss'][record['epoch']] == pytest.approx(record['training_loss'])
    assert images == {'training images': [0], 'classes of validation': [1, 2]}
    assert f'tensorboard --logdir {Path("experiments", "run", "tensorboard")}' in capsys.readouterr().out


def test_undefined_values_are_left_out():
    nan = float('nan')
    record = {'epoch': 1, 'lr': .1, 'train': {'auc': nan, 'auc_all': [nan, .5]}, 'val': {'auc': .5, 'auc_all': [.5, nan]}}
    assert tensorboard.scalars(record, ['a', 'b']) == {'training/lr': .1, 'auc_all/train/b': .5, 'auc/val': .5, 'auc_all/val/a': .5}


@pytest.mark.parametrize('metric', ['bacc', 'kappa'])
def test_kappa_is_shown_for_graded_classes_only(train, metric):
    assert ('kappa/val' in read(train(f'--tensorboard --metric {metric}'))[0]) == (metric == 'kappa')


def test_a_resumed_run_shows_its_first_epochs_too(train, monkeypatch):
    prune = run_folder.prune_checkpoints

    def die_after_the_first_epoch(*args):
        prune(*args)
        raise KeyboardInterrupt
    monkeypatch.setattr(run_folder, 'prune_checkpoints', die_after_the_first_epoch)
    with pytest.raises(KeyboardInterrupt):
        train('--n_epochs 2')
    monkeypatch.setattr(run_folder, 'prune_checkpoints', prune)
    run = train('--n_epochs 2 --resume --tensorboard')  # the flag may be added on resuming
    assert list(read(run)[0]['mcc/val']) == [1, 2]


def test_resuming_without_an_epoch_left_keeps_the_curves(train):
    run = train('--n_epochs 2 --tensorboard')
    (run / 'val_metrics.txt').unlink()  # as if it had been killed before its end
    train('--n_epochs 2 --tensorboard --resume')
    assert list(read(run)[0]['mcc/val']) == [1, 2]


def test_off_by_default_and_an_error_without_the_package(train, monkeypatch):
    assert not (train() / 'tensorboard').exists()
    with pytest.raises(InputError, match='leave out --do_not_save'):
        train('--tensorboard --do_not_save')
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    with pytest.raises(InputError, match='needs the package tensorboard: pip install tensorboard'):
        train('--tensorboard --overwrite')
