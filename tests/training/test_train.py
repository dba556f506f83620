"""The train script on a tiny dataset."""
import itertools
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import train_lt_mxp
from tests.factories import new_accelerator
from utils.common import InputError
from utils.data.sampling import SAMPLING
from utils.losses import LOSSES
from utils.model_saving_loading import read_checkpoint
from utils.training import engine
from utils.training.augmentation import AUGMENT
from utils.training.mixing import MIXING
from utils.training.recipes import RECIPES, STAGE_TWO


def test_run_folder(train, capsys):
    run = train('--n_epochs 3 --n_checkpoints 2 --do_mixup 0.2')
    config = json.loads((run / 'config.cfg').read_text())
    assert config['csv_val'].endswith('/val.csv') and config['class_count'] == [12, 6, 4] and config['min_lr'] == pytest.approx(1e-5)
    log = [json.loads(line) for line in (run / 'log.jsonl').read_text().splitlines()]
    assert [line['epoch'] for line in log] == [1, 2, 3]
    # text files in the original's form, which other scripts parse
    scores = r'K=-?\d+\.\d\d - BACC=\d+\.\d\d - MCC=-?\d+\.\d\d - F1=\d+\.\d\d - AUC=\d+\.\d\d - Loss=\d+\.\d{4}'
    for epoch in (1, 2, 3):
        text = (run / f'performance_epoch_{epoch:02d}.txt').read_text()
        assert len(re.findall(rf'^{scores}$', text, re.M)) == len(re.findall(rf'^{scores} - LR=0\.\d{{5}}$', text, re.M)) == 1
        assert len(re.findall(r'^AUC: class0=\d+\.\d\d - class1=\d+\.\d\d - class2=\d+\.\d\d$', text, re.M)) == 2
        assert f"MCC={100 * log[epoch - 1]['val']['mcc']:.2f}" in text
    lines = (run / 'val_metrics.txt').read_text().splitlines()
    best = max(log, key=lambda line: line['val']['mcc'])
    assert [line.split(' = ')[0] for line in lines[:5]] == ['Best K', 'Best mAUC', 'Best MCC', 'Best BACC', 'Best epoch']
    assert lines[2] == f"Best MCC = {100 * best['val']['mcc']:.2f}" and lines[4] == f"Best epoch = {best['epoch']}"
    assert all(re.fullmatch(r'Epoch = \d -> (K|mAUC|MCC)=.*/.*, Loss=\d+\.\d{4}/\d+\.\d{4},', line) for line in lines[6:9])
    assert re.fullmatch(r'Training time: \d\dh \d\dmin \d\d\.\d\dsecs', lines[-1])
    # the two best checkpoints, with everything needed to use them
    kept = sorted(folder.name for folder in run.glob('epoch_*'))
    assert len(kept) == 2 and any(name.startswith(f"epoch_{best['epoch']:02d}_K_") for name in kept)
    info = read_checkpoint(str(run))
    assert info['epoch'] == best['epoch'] and info['class_names'] == ['class0', 'class1', 'class2'] and info['im_size'] == (32, 32)
    out = capsys.readouterr().out
    assert '* tiny_test: ' in out and '; input: mean 0.485 0.456 0.406, std 0.229 0.224 0.225; initial weights: ' in out
    assert 'Train||Val Loss' in out and f"Best epoch {best['epoch']}" in out and 'test_with_labels_eyepacs.py --load_path' in out


MIXUP_THEN_NONE = '--n_epochs 2 --do_mixup 0.3 --mixup_off_epochs 1'


@pytest.mark.parametrize('sampling', SAMPLING)
def test_every_sampling_with_and_without_mixup(train, sampling):
    train(f'--sampling {sampling} --do_not_save --train_eval off {MIXUP_THEN_NONE}')


@pytest.mark.parametrize('loss', LOSSES)
def test_every_loss_with_and_without_mixup(train, loss):
    for flags in (MIXUP_THEN_NONE, '--defer 0.5 --n_epochs 2'):
        train(f'--weighting {loss.lower()} --do_not_save --train_eval off --optimizer adam {flags}')


@pytest.mark.parametrize(('mixing', 'loss'), [*zip(MIXING, itertools.cycle(['LDAM', 'LADE', 'CBFOCAL']))])
def test_every_mixing(train, mixing, loss):
    train(f'--mixing {mixing} --loss_fn {loss} --mixup_off_epochs 1 --n_epochs 2 --do_not_save --train_eval off')


@pytest.mark.parametrize('augment', AUGMENT)
def test_every_policy(train, augment):
    train(f'--augment {augment} --do_not_save --train_eval full --schedule cosine')


def test_growing_images(train, monkeypatch, tmp_path):
    """Images grow in training and have full size in evaluation. A network with a fixed input size is refused."""
    seen, original = [], train_lt_mxp.TrainState

    def watched(args, network, *rest):
        network.model.register_forward_pre_hook(lambda model, inputs: seen.append((model.training, inputs[0].shape[-1])))
        return original(args, network, *rest)
    monkeypatch.setattr(train_lt_mxp, 'TrainState', watched)
    train('--grow_from 0.5 --im_size 64 --n_epochs 5 --train_eval full --do_not_save')
    assert {width for training, width in seen if not training} == {64}
    assert list(dict.fromkeys(width for training, width in seen if training)) == [32, 48, 64]
    with pytest.raises(InputError, match='vit_tiny_patch16_224 takes images of one size only'):
        train('--grow_from 0.5 --model_name vit_tiny_patch16_224')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('recipe', RECIPES)
def test_every_recipe(train, recipe, tmp_path):
    """Recipes with their own flags, except those for a fast test."""
    stage_two = '--pretrained_weights experiments/one' if RECIPES[recipe].get('trainable') or recipe in STAGE_TWO else ''
    if stage_two:
        train('--save_path one')
    config = json.loads((train(f'--recipe {recipe} {stage_two}') / 'config.cfg').read_text())
    given = ('n_epochs', 'batch_size', 'metric', 'im_size', 'model_name', 'init')
    assert all(config[flag] == value for flag, value in RECIPES[recipe].items() if flag not in given) and config['n_epochs'] == 1


def test_checkpoints_hold_the_moving_average(train):
    """last/ also holds the trained network, from which a resumed run continues."""
    whole = train('--n_epochs 3 --ema 0.9 --schedule onecycle --optimizer adamw --save_path whole --train_eval off').parent / 'whole'
    state = torch.load(whole / 'last' / 'model_checkpoint.pth', weights_only=True)
    assert not torch.equal(state['state_dict']['classifier.1.weight'], state['trained']['classifier.1.weight'])
    assert state['n_averaged'] == 15


def test_do_not_save_writes_nothing(train, tmp_path):
    train('--do_not_save')
    assert list(tmp_path.iterdir()) == []


def test_same_seed_same_run_for_any_number_of_workers(train):
    weights = []
    for flags in ('--num_workers 0', '--num_workers 2', '--seed 1'):
        weights.append(read_checkpoint(str(train(f'--overwrite --do_mixup 0.2 {flags}')))['state_dict'])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


@pytest.mark.parametrize(('metric', 'shown'), [('acc', False), ('kappa', True)])
def test_kappa_is_printed_for_ordered_classes_only(train, capsys, metric, shown):
    train(f'--metric {metric} --do_not_save')  # the classes are called class0, class1, class2
    line = re.search('^Epoch 1/1 .*', capsys.readouterr().out, re.M).group()
    assert (' - K: ' in line) == shown and ' - ACC: ' in line and f'best {metric} so far' in line


def test_accuracy_chooses_the_epoch(train):
    run = train('--n_epochs 3 --metric acc')
    log = [json.loads(line)['val'] for line in (run / 'log.jsonl').read_text().splitlines()]
    info = read_checkpoint(str(run))
    assert info['epoch'] == 1 + int(np.argmax([val['acc'] for val in log]))


@pytest.mark.parametrize(('preds', 'hint'), [([1] * 9, True), ([1] * 8 + [0], False)])
def test_a_network_that_predicts_one_class_only_is_reported(train, monkeypatch, capsys, preds, hint):
    predict = engine.predict
    monkeypatch.setattr(engine, 'predict', lambda *args, **kwargs: predict(*args, **kwargs)._replace(preds=np.array(preds)))
    train('--metric mcc --do_not_save')
    assert (' - predicts one class only - best mcc so far' in capsys.readouterr().out) == hint


def test_early_stopping_trains_at_the_minimum_rate(train, capsys):
    run = train('--n_epochs 9 --lr 0.001 --min_lr 0.0001 --patience 0 --metric loss --train_eval off')
    rates = [json.loads(line)['lr'] for line in (run / 'log.jsonl').read_text().splitlines()]
    assert rates[-1] == pytest.approx(1e-4) and rates[:-1] == [1e-3] * (len(rates) - 1)


def test_diverging_training(train):
    with pytest.raises(InputError, match=r'Epoch 1/2: the training loss is (nan|inf) .*a lower --lr|network returns NaN for'):
        train('--lr 1e30 --n_epochs 2')


def test_one_class_in_validation(train, tiny, tmp_path):
    (tmp_path / 'one.csv').write_text('image_id,label\nval_0_0,0\nval_0_1,0\n')
    with pytest.raises(InputError, match='--metric auc is undefined'):
        train(f'--csv_val {tmp_path}/one.csv --metric auc')
    run = train(f'--csv_val {tmp_path}/one.csv --metric loss')
    assert np.isnan(read_checkpoint(str(run))['metrics']['auc'])
    assert json.loads((run / 'log.jsonl').read_text())['val']['auc'] is None


def test_bf16(train):
    """Mixed precision, the default on CUDA: finite loss, and weights saved in fp32."""
    with new_accelerator():
        info = read_checkpoint(str(train('--precision bf16 --do_mixup 0.2')))
    assert info['config']['mixed_precision'] == 'bf16' and np.isfinite(info['metrics']['loss'])
    assert {tensor.dtype for tensor in info['state_dict'].values()} == {torch.float32, torch.int64}


@pytest.fixture
def black(tmp_path):
    """-> function that writes a dataset of black images and returns flags for a run with `n` batches per epoch"""
    def make(n):
        (tmp_path / 'black').mkdir()
        for split, count in (('train', 4 * n), ('val', 2)):
            rows = [f'{split}{i},{i % 2}' for i in range(count)]
            (tmp_path / f'{split}.csv').write_text('\n'.join(['image_id,label', *rows]))
            for i in range(count):
                Image.new('RGB', (28, 28)).save(tmp_path / 'black' / f'{split}{i}.png')
        return f'--csv_train {tmp_path}/train.csv --csv_val {tmp_path}/val.csv --data_path {tmp_path}/black --n_classes 2'
    return make


@pytest.fixture
def overflow(monkeypatch):
    """Make each step set weights to NaN, as BatchNorm's gradients do in deep networks if all images of a batch are equal."""
    def step(state):
        with torch.no_grad():
            next(state.trained.parameters()).fill_(torch.nan)
    monkeypatch.setattr('utils.training.state.TrainState.step', step)


def test_images_of_one_colour_are_named_if_the_loss_is_nan(train, black, overflow):
    with pytest.raises(InputError, match=r'loss is nan at batch 2 of 3 \(lr 0\.01; images (train\d+, ){3}train\d+\): '
                                         r'these images are of one colour: leave them out of .*train\.csv$'):
        train(black(3))


def test_images_of_one_colour_are_named_if_the_evaluation_is_nan(train, black, overflow):
    with pytest.raises(InputError, match=r'the network returns NaN for train\d: this image is of one colour \('):
        train(black(1))


def test_other_images_with_a_nan_loss_advise_a_lower_rate(train, overflow):
    with pytest.raises(InputError, match=r'a lower --lr usually helps$'):
        train('')
