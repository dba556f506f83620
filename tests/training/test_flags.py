"""Flags: the original's names and defaults, typos, and invalid combinations."""
import re

import pytest

from train_lt_mxp import get_parser, resolve
from utils.common import InputError


def resolve_flags(flags):
    args = get_parser().parse_args(flags.split())
    args = resolve(args)
    return args


def test_defaults_of_the_original():
    args = resolve_flags('')
    original = {'csv_train': 'data/train_eyepacs.csv', 'csv_val': 'data/val_eyepacs.csv', 'data_path': 'data/eyepacs_all_ims/',
                'sampling': 'instance', 'model_name': 'bit_resnext50_1', 'n_classes': 5, 'loss_fn': 'CE', 'mixing': 'none', 'batch_size': 8,
                'optimizer': 'sgd', 'patience': 2, 'lr': .01, 'min_lr': 1e-5, 'wd': 0, 'momentum': 0, 'n_epochs': 7, 'metric': 'auc',
                'im_size': (512, 512), 'pretrained_weights': None, 'do_not_save': False, 'n_checkpoints': 1}
    assert {name: getattr(args, name) for name in original} == original
    assert resolve_flags('--csv_train training/train_endo1.csv').csv_val == 'training/val_endo1.csv'
    assert resolve_flags('--im_size 512,640').im_size == (512, 640)
    assert resolve_flags('--do_not_save yes').do_not_save and not resolve_flags('--do_not_save no').do_not_save


@pytest.mark.parametrize(('flags', 'message'), [
    ('--sampling calss', "invalid choice: 'calss'"), ('--weighting BCSE', "invalid choice: 'BCSE'"),
    ('--metric accuracy', "invalid choice: 'accuracy'"), ('--im_size 512x512', "in pixels, not '512x512'"),
    ('--im_size 0', "in pixels, not '0'"), ('--do_not_save maybe', "expected true or false, not 'maybe'"),
])
def test_the_parser_rejects_typos(capsys, flags, message):
    with pytest.raises(SystemExit):
        get_parser().parse_args(flags.split())
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(('flags', 'message'), [
    ('--n_epochs 0', '--n_epochs must be positive'), ('--do_mixup -1', '--do_mixup must not be negative'),
    ('--csv_train data/x.csv', "cannot be guessed from the name 'x.csv': give it with --csv_val"),
    ('--csv_train train/strain.csv', "cannot be guessed from the name 'strain.csv'"),
    ('--trainable classifier --init none', 'give weights with --init imagenet, --init PATH or --pretrained_weights'),
    ('--trainable scale', 'give the run of stage one with --pretrained_weights'),
    *((f'--layer_decay {value}', '--layer_decay must lie in 0..1 (0 excluded)') for value in ('0', '-0.5', '1.01', 'nan')),
    ('--lr nan', '--lr must be positive'),
])
def test_invalid_flags(flags, message):
    with pytest.raises(InputError, match=re.escape(message)):
        resolve_flags(flags)


@pytest.mark.parametrize(('given', 'name'), [
    ('experiments/a/b', 'a/b'), ('./experiments/a', 'a'), ('experiments/a/', 'a'), ('a/experiments/b', 'a/experiments/b'), ('a', 'a'),
    ('experiments/experiments/a', 'experiments/a'), ('experiments', '')])
def test_save_path_that_starts_with_experiments(tmp_path, monkeypatch, given, name):
    monkeypatch.chdir(tmp_path)
    assert resolve_flags(f'--save_path {given}').save_path == name


def test_save_path_of_an_old_run_below_experiments_experiments(tmp_path, monkeypatch):
    (tmp_path / 'experiments' / 'experiments' / 'a').mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve_flags('--save_path experiments/a').save_path == 'experiments/a'


def test_a_guessed_csv_that_does_not_exist_asks_for_the_flag(tmp_path):
    (tmp_path / 'training_set.csv').touch()
    with pytest.raises(InputError, match=r'no such csv: \S+/val_set\.csv \(guessed from .*give the validation csv with --csv_val'):
        resolve_flags(f'--csv_train {tmp_path}/training_set.csv')


@pytest.mark.parametrize(('flags', 'mixing', 'alpha'), [
    ('--do_mixup 0.3', 'balanced_mixup', .3), ('--do_mixup 0', 'none', None), ('--recipe original_mxp', 'balanced_mixup', .1),
    ('--recipe original_mxp --do_mixup 0.4', 'balanced_mixup', .4), ('--recipe original_mxp --do_mixup 0', 'none', None),
    ('--recipe original_mxp --do_mixu 0', 'none', None),
    ('--mixing balanced_mixup --do_mixup 0.3', 'balanced_mixup', .3), ('--mixing remix --do_mixup 0', 'remix', None)])
def test_do_mixup_stands_for_balanced_mixup(flags, mixing, alpha):
    args = get_parser().parse_args(flags.split())
    assert (args.mixing, args.mix_alpha) == (mixing, alpha) and not hasattr(args, 'do_mixup')
