"""A run is continued exactly, and never replaced or mixed with another by accident: from the real entry point."""
import json

import pytest
import torch

from utils import run_folder
from utils.common import InputError
from utils.model_saving_loading import read_checkpoint


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
    assert (run / 'val_metrics.txt').exists()  # a mistake costs nothing
    train('--overwrite')
    assert not (run / 'performance_epoch_07.txt').exists() and (run / 'foreign.txt').exists()  # only what a run writes
    with pytest.raises(InputError, match='would delete the run that --pretrained_weights starts from'):
        train('--overwrite --pretrained_weights experiments/run')
    for name in ('.', 'run/inner'):
        with pytest.raises(InputError, match='--save_path'):
            train(f'--save_path {name} --overwrite')
    with pytest.raises(InputError, match='nothing to resume'):
        train('--resume --save_path other')
    assert not run.with_name('other').exists()
