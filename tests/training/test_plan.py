"""Loader, batch transform and loss for each epoch."""
import argparse
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from train_lt_mxp import get_parser, resolve
from utils.common import InputError
from utils.get_loaders import get_train_val_cls_loaders
from utils.losses import LOSSES
from utils.prediction.inference import Normalise
from utils.training.batches import BatchTransform
from utils.training.mixing import BalancedMixUp, CutMix
from utils.training.phases import corrects_twice, size_in_epoch
from utils.training.plan import TrainingPlan
from utils.training.recipes import RECIPES


@pytest.fixture
def plan(tiny):
    def build(flags=''):
        args = get_parser().parse_args(f'--csv_train {tiny}/train.csv --n_classes 3 --n_epochs 10 --do_not_save {flags}'.split())
        args = resolve(args)
        loaders = get_train_val_cls_loaders(args.csv_train, args.csv_val, f'{tiny}/images', 4, (8, 8), 3, n_epochs=10, see_classes=False)
        loader = loaders.train
        data = SimpleNamespace(train=loader.dataset, train_loader=loader, class_count=np.bincount(loader.dataset.labels))
        return TrainingPlan(args, data, SimpleNamespace(normalise=Normalise('cpu', (0, 0, 0), (1, 1, 1))))
    return build


def modes(plan, epochs=range(10)):
    return [[loader.sampler.mode for loader in plan.epoch(epoch).loader.loaders] for epoch in epochs]


def test_plain(plan):
    m = plan()
    assert modes(m) == [['instance']] * 10 and type(m.epoch(3).transform) is BatchTransform and m.epoch(0).criterion is m.epoch(9).criterion
    assert m.epoch(0).loader.loaders[0] is m.epoch(9).loader.loaders[0]  # built once, with its worker processes


def test_deferred_sampling_and_loss(plan):
    m = plan('--sampling class --loss_fn BSCE --defer 0.8')
    assert modes(m) == [['instance']] * 8 + [['class']] * 2
    z, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    torch.testing.assert_close(m.epoch(7).criterion(z, y), torch.nn.functional.cross_entropy(z, y))
    torch.testing.assert_close(m.epoch(8).criterion(z, y),
                               torch.nn.functional.cross_entropy(z + torch.tensor([12., 6., 4.]).log(), y))
    assert plan('--sampling class --defer 0.8').epoch(9).criterion.class_weight is None  # DRS alone, without class weights
    assert plan('--defer 0.8').epoch(9).criterion.class_weight is not None  # DRW


def test_mixing_is_turned_off_in_the_last_epochs(plan):
    m = plan('--do_mixup 0.2 --sampling sqrt --mixup_off_epochs 3')
    assert modes(m) == [['sqrt', 'class']] * 7 + [['sqrt']] * 3
    assert [type(m.epoch(e).transform) for e in (6, 7)] == [BalancedMixUp, BatchTransform]
    m = plan('--mixing cutmix --mixup_off_epochs 10')
    assert type(m.epoch(0).transform) is BatchTransform and type(plan('--mixing cutmix').epoch(9).transform) is CutMix
    for epoch in (0, 9):
        parts = m.epoch(epoch)
        batch = next(iter(parts.loader))
        assert parts.transform(batch)[0].shape == (4, 3, 8, 8)


def args_of(flags):
    args = get_parser().parse_args(flags.split())
    args = resolve(args)
    return args


def test_sizes_grow():
    sizes = [size_in_epoch((160, 320), .5, epoch, 10) for epoch in range(10)]
    assert sizes[0] == (80, 160) and sizes[4] == (128, 240) and sizes[8:] == [(160, 320)] * 2 and sizes == sorted(sizes)
    assert all(side % 16 == 0 for size in sizes for side in size)
    assert size_in_epoch((8, 40), .1, 0, 10) == (8, 16)  # not larger than the image, at least 16 pixels
    assert size_in_epoch((100, 100), .5, 7, 10) == (96, 96) and size_in_epoch((100, 100), .5, 8, 10) == (100, 100)


@pytest.mark.parametrize('n_epochs', range(1, 12))
def test_the_last_epoch_has_full_size_images(n_epochs):
    assert size_in_epoch((512, 512), .5, n_epochs - 1, n_epochs) == (512, 512)


@pytest.mark.parametrize('n_epochs', range(2, 12))
def test_the_first_of_several_epochs_has_small_images(n_epochs):
    assert size_in_epoch((512, 512), .5, 0, n_epochs) == (256, 256)


def test_small_images_at_first(plan):
    m = plan('--grow_from 0.5 --im_size 64 --mixing mixup --mixup_off_epochs 2 --augment none')
    images, labels = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8), torch.tensor([0, 1, 2, 0])
    shapes = [tuple(m.epoch(epoch).transform([(images, labels, list('abcd'))])[0].shape[2:]) for epoch in (0, 4, 8, 9, 0)]
    assert shapes == [(32, 32), (48, 48), (64, 64), (64, 64), (32, 32)]
    x = m.plain.normalise.to_float(images)
    small = torch.nn.functional.interpolate(x.double(), (32, 32), mode='bilinear', antialias=True)
    m.plain.size = (32, 32)
    torch.testing.assert_close(m.plain.inputs(images).double(), small, atol=1e-5, rtol=0)
    m.plain.size = None
    torch.testing.assert_close(m.plain.inputs(images), x)


@pytest.mark.parametrize('loss', LOSSES)
def test_warning_about_a_double_correction(loss, capsys):
    twice = loss in ('WCE', 'CB', 'CBFOCAL', 'BSCE', 'LA', 'CDT', 'VS', 'LADE')
    for sampling in ('instance', 'class'):
        said = corrects_twice(SimpleNamespace(loss_fn=loss, sampling=sampling, loss_params={}))
        assert bool(said) == (twice and sampling == 'class')
    args_of(f'--loss_fn {loss} --sampling class')
    assert ('Warning' in capsys.readouterr().out) == twice


def test_no_warning_about_a_shared_correction(capsys):
    args_of('--loss_fn LA --loss_params tau=.5 --sampling sqrt')
    assert 'Warning' not in capsys.readouterr().out
    args_of('--loss_fn LA --sampling sqrt')
    assert 'Warning: LA corrects' in capsys.readouterr().out


def test_flags_of_methods():
    args = args_of('--loss_fn vs --loss_params gamma=.1')
    assert args.loss_params == {'gamma': .1, 'tau': 1.}  # published defaults are written out
    assert args_of('--loss_fn CDT --cdt_gamma 0.3').loss_params == {'gamma': .3}
    args = args_of('--do_mixup 0.3')
    assert (args.mixing, args.mix_alpha) == ('balanced_mixup', .3) and args_of('--mixing remix').mix_alpha == 1.
    for flags, message in (('--loss_fn CE --loss_params gamma=2', 'loss CE has no parameter gamma'),
                           ('--do_mixup 0.2 --mixing mixup', '--do_mixup is Balanced-MixUp'), ('--defer 1', '--defer must lie in 0..1'),
                           ('--mixing mixup --mix_alpha 0', '--mix_alpha must be positive'), ('--ema 1', '--ema must lie'),
                           ('--grow_from 0', '--grow_from must lie'), ('--grow_from 1.5', '--grow_from must lie'),
                           ('--grow_from nan', '--grow_from must lie'),
                           ('--trainable scale', 'is for stage two'),
                           ('--recipe finetune_two_stage', '--recipe finetune_two_stage is for stage two'),
                           ('--trainable scale --loss_fn LDAM --pretrained_weights x', 'needs a cosine classifier')):
        with pytest.raises(InputError, match=message):
            args_of(flags)


def test_bad_loss_parameter(capsys):
    with pytest.raises(SystemExit):
        get_parser().parse_args(['--loss_params', 'gamma'])
    assert 'expected NAME=NUMBER' in capsys.readouterr().err


@pytest.mark.parametrize('name', RECIPES)
def test_recipes(name):
    args = get_parser().parse_args(['--recipe', name, '--n_epochs', '3', '--lr', '0.5'])
    assert isinstance(args, argparse.Namespace) and args.n_epochs == 3 and args.lr == .5  # from the command line
    for flag, value in RECIPES[name].items():
        assert getattr(args, flag) == value or flag in ('n_epochs', 'lr')
    plain = get_parser().parse_args([])
    assert set(RECIPES[name]) <= set(vars(plain))
    assert {k: v for k, v in vars(args).items() if k not in {*RECIPES[name], 'recipe', 'n_epochs', 'lr'}} == {
        k: v for k, v in vars(plain).items() if k not in {*RECIPES[name], 'recipe', 'n_epochs', 'lr'}}
