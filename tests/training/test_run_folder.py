"""A run resumes exactly, and is never overwritten or mixed with another run by accident. Tested through the train script."""
import getpass
import importlib.metadata
import json
import os
import platform
import signal
from pathlib import Path

import pytest
import torch

import utils
from tests.factories import new_accelerator, signal_in_batch
from utils.common import InputError, Interrupted
from utils.model_saving_loading import digest, read_checkpoint
from utils.prediction.inference import predict
from utils.training import engine, run_folder
from utils.training.batches import BatchTransform
from utils.training.mixing import BalancedMixUp


def test_resume_equals_the_uninterrupted_run(train, monkeypatch, tiny, tmp_path):
    flags = '--n_epochs 4 --momentum 0.9 --sampling prog --do_mixup 0.2 --patience 0 --n_checkpoints 2'
    whole = train(flags)
    log, weights = (whole / 'log.jsonl').read_text(), read_checkpoint(str(whole / 'last'))
    original = run_folder.save_model

    def die(folder, info):
        if 'optimizer' in info and info['epoch'] == 3:
            raise KeyboardInterrupt  # between the best checkpoint and last/ of epoch 3
        original(folder, info)
    monkeypatch.setattr(run_folder, 'save_model', die)
    with pytest.raises(KeyboardInterrupt):
        train(flags + ' --overwrite')
    monkeypatch.setattr(run_folder, 'save_model', original)
    with pytest.raises(InputError, match=r'other flags: --lr 0\.5 \(saved: 0\.01\)'):
        train(flags + ' --resume --lr 0.5')
    csv = tmp_path / 'train.csv'
    csv.write_text((tiny / 'train.csv').read_text() + '\n')
    config = (whole / 'config.cfg').read_text()
    (whole / 'config.cfg').write_text(config.replace(f'{tiny}/train.csv', str(csv)).replace(f'{tiny}/val.csv', f'{tmp_path}/val.csv'))
    (tmp_path / 'val.csv').write_text((tiny / 'val.csv').read_text())
    with pytest.raises(InputError, match=r'cannot be resumed: --csv_train \S+ changed since'):
        train(f'{flags} --resume --csv_train {csv}')
    (whole / 'config.cfg').write_text(config)
    train(flags + ' --resume')

    def timeless(text):
        return [{k: v for k, v in json.loads(line).items() if k not in ('seconds', 'images_per_second')} for line in text.splitlines()]
    assert timeless((whole / 'log.jsonl').read_text()) == timeless(log)
    again = read_checkpoint(str(whole / 'last'))
    assert all(torch.equal(again['state_dict'][name], tensor) for name, tensor in weights['state_dict'].items())
    assert len(list(whole.glob('epoch_*'))) == 2
    with pytest.raises(InputError, match='is finished'):
        train(flags + ' --resume')


def test_a_run_is_not_overwritten_by_accident(train):
    run = train()
    with pytest.raises(InputError, match='already holds a run: continue it with --resume, replace it with --overwrite'):
        train()
    (run / 'foreign.txt').touch()
    (run / 'performance_epoch_07.txt').touch()
    with pytest.raises(InputError, match='no such csv'):
        train('--overwrite --csv_train absent_train.csv')
    assert (run / 'val_metrics.txt').exists()  # an invalid call deletes nothing
    train('--overwrite')
    assert not (run / 'performance_epoch_07.txt').exists() and (run / 'foreign.txt').exists()  # removes only files of the run
    with pytest.raises(InputError, match='would delete the run that --pretrained_weights starts from'):
        train('--overwrite --pretrained_weights experiments/run')
    for name in ('.', 'run/inner', 'experiments'):
        with pytest.raises(InputError, match='--save_path'):
            train(f'--save_path {name} --overwrite')
    with pytest.raises(InputError, match='nothing to resume'):
        train('--resume --save_path other')
    with pytest.raises(InputError, match='has no parameter gamma'):
        train('--save_path other --loss_fn BSCE --loss_params gamma=2')
    with pytest.raises(InputError, match='images not found'):
        train('--save_path other --data_path absent')
    assert not run.with_name('other').exists()  # an invalid call leaves nothing behind


def test_experiments_in_save_path_is_removed(train, tmp_path, capsys):
    train('--save_path experiments/a/b')
    assert (tmp_path / 'experiments' / 'a' / 'b' / 'config.cfg').exists() and '* Saved in experiments/a/b\n' in capsys.readouterr().out
    assert json.loads((tmp_path / 'experiments' / 'a' / 'b' / 'config.cfg').read_text())['save_path'] == 'a/b'


@pytest.mark.parametrize('spelling', ['run/', './run', 'experiments/run/', '{cwd}/experiments/run'])
def test_a_run_resumes_with_another_spelling_of_its_name(train, tmp_path, spelling):
    (train() / 'val_metrics.txt').unlink()  # as if it had been stopped before its end
    assert (train(f'--save_path {spelling.format(cwd=tmp_path)} --resume') / 'val_metrics.txt').exists()


def test_a_run_resumes_with_experiments_in_its_name(train):
    (train() / 'val_metrics.txt').unlink()  # as if it had been stopped before its end
    assert (train('--save_path experiments/run --resume') / 'val_metrics.txt').exists()


@pytest.mark.parametrize('flags', ['--do_mixup 0.2 --sampling prog --momentum 0.9', '--loss_fn SEQL --loss_params lam=0.5 --ema 0.9 '
                                   '--schedule onecycle --optimizer adamw --augment trivial --accumulate 2 --grow_from 0.5'])
@pytest.mark.parametrize('moment', [1, 3, 'evaluation'])
def test_a_signal_within_an_epoch_loses_nothing(train, monkeypatch, capsys, flags, moment):
    """SIGTERM in the second epoch: the run finishes the step and saves everything, and resuming gives the uninterrupted result."""
    flags += ' --n_epochs 3 --train_eval full'
    whole = train(f'{flags} --save_path whole').parent / 'whole'
    prepare, calls = BalancedMixUp if 'mixup' in flags else BatchTransform, []
    original = prepare.__call__

    def strike(*args):
        calls.append(1)
        if len(calls) == 5 * (2 if 'accumulate' in flags else 1) + moment:
            signal.raise_signal(signal.SIGTERM)
        return original(*args)

    def strike_evaluation(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return predict(*args, **kwargs)
    if moment == 'evaluation':
        monkeypatch.setattr(engine, 'predict', strike_evaluation)
    else:
        monkeypatch.setattr(prepare, '__call__', strike)
    with pytest.raises(Interrupted) as stop:
        train(flags)
    assert stop.value.number == signal.SIGTERM and 'everything is saved; to resume, use --save_path run --resume' in stop.value.saved
    monkeypatch.undo()
    monkeypatch.chdir(whole.parent.parent)
    run = train(f'{flags} --resume')
    assert 'Resuming experiments/run after epoch 1, batch' in capsys.readouterr().out and not (run / 'interrupted').exists()
    a, b = (torch.load(folder / 'last' / 'model_checkpoint.pth', weights_only=True) for folder in (whole, run))
    assert digest({name: a[name] for name in a if name not in ('config', 'sha256')}) == digest(
        {name: b[name] for name in b if name not in ('config', 'sha256')})
    assert [json.loads(line)['training_loss'] for line in (run / 'log.jsonl').read_text().splitlines()] == [
        json.loads(line)['training_loss'] for line in (whole / 'log.jsonl').read_text().splitlines()]


def test_an_interrupted_epoch_is_counted_in_its_own_batches(train, monkeypatch, capsys):
    """Batches are counted correctly even if an attempt to resume with another --accumulate replaced config.cfg and then failed."""
    signal_in_batch(monkeypatch, 5 + 2)
    with pytest.raises(Interrupted):
        train('--n_epochs 2 --train_eval off')
    config = Path('experiments/run/config.cfg')
    config.write_text(config.read_text().replace('"accumulate": 1', '"accumulate": 2'))
    train('--n_epochs 2 --train_eval off --accumulate 2 --resume')
    assert 'after epoch 1, batch 4\n' in capsys.readouterr().out  # two batches, each split into two


def test_a_second_process_is_refused(train, tmp_path):
    run = train()
    other = run_folder.RunFolder(str(run), {'metric': 'mcc', 'resume': False, 'overwrite': True})
    with pytest.raises(InputError, match='another process is training in'):
        train('--overwrite')
    del other
    train('--overwrite')


def test_environment(train, monkeypatch):
    monkeypatch.setattr(platform, 'node', lambda: 'name-of-host')
    monkeypatch.setattr(getpass, 'getuser', lambda: 'name-of-user')
    monkeypatch.setenv('ACCELERATE_USE_CPU', 'true')
    with new_accelerator():
        text = (train() / 'environment.json').read_text()
    environment = json.loads(text)
    assert environment['version'] == utils.__version__
    assert environment['packages']['torch'] == importlib.metadata.version('torch') and environment['device'] == 'cpu'
    assert len(environment['git_commit'] or 40 * 'x') == 40 and environment['git_dirty'] in (True, False, None)
    assert 'name-of-host' not in text and 'name-of-user' not in text and str(Path.cwd()) not in text


@pytest.mark.parametrize(('metric', 'left'), [('mcc', ['b', 'c']), ('loss', ['a', 'd'])])
def test_prune(tmp_path, metric, left):
    kept = {}
    for name, score in (('a', .1), ('b', .9), ('c', .5), ('d', .1)):
        (tmp_path / name).mkdir()
        kept[str(tmp_path / name)] = score
    run_folder.prune_checkpoints(kept, 2, metric)
    assert sorted(os.listdir(tmp_path)) == left == sorted(os.path.basename(folder) for folder in kept)


def test_the_best_epoch_of_deferred_rebalancing_is_one_with_rebalancing(train, monkeypatch):
    end_epoch = run_folder.RunFolder.end_epoch

    def with_falling_auc(self, epoch, stats, scores, state):
        scores.val['auc'] = .9 - .1 * epoch.number
        end_epoch(self, epoch, stats, scores, state)
    monkeypatch.setattr(run_folder.RunFolder, 'end_epoch', with_falling_auc)
    run = train('--n_epochs 4 --metric auc --sampling class --defer 0.5 --n_checkpoints 3')
    assert len(list(run.glob('epoch_*'))) == 3 and read_checkpoint(str(run))['epoch'] == 3
    assert 'Best epoch = 3\n' in (run / 'val_metrics.txt').read_text()
