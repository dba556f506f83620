"""Flags that have no effect with the other flags are named, and no others."""
import argparse
from pathlib import Path

import pytest

import train_lt_mxp
from tests.factories import experiment_lines, random_table, train_flags
from tests.report_files import write, write_run
from tools import evaluate_predictions, report
from utils.cli import flags_given, without_effect
from utils.testing import scoring
from utils.training.flags import WITHOUT_EFFECT, resolve
from utils.training.recipes import RECIPES

COMMON = '--csv_train data/train_x.csv'
UNTUNED = '--csv_tune {val} has no effect without --calibrate (or --tau_norm or --logit_adjust without a number)'
GPUS = {'n_processes': 4, 'device_type': 'cuda'}


def said(flags, n_processes=1, device_type='cpu'):
    parser, argv = train_lt_mxp.get_parser(), f'{COMMON} {flags}'.split()
    args = parser.parse_args(argv)
    given = flags_given(parser, argv, args)
    args = resolve(args)
    return without_effect(given, argparse.Namespace(**vars(args), n_processes=n_processes, device_type=device_type), WITHOUT_EFFECT)


@pytest.mark.parametrize(('flags', 'line'), [
    ('--cache_dir x --no_cache', '--cache_dir x has no effect with --no_cache'),
    ('--mixing cutmix --mixup_off_epochs 7', '--mixing cutmix has no effect with --mixup_off_epochs 7 of 7 epochs'),
    ('--do_mixup 0.2 --mixup_off_epochs 9', '--do_mixup 0.2 has no effect with --mixup_off_epochs 9 of 7 epochs'),
    ('--mix_alpha 0.2', '--mix_alpha 0.2 has no effect without --mixing'),
    ('--mix_alpha 0.2 --do_mixup 0.1', '--mix_alpha 0.2 has no effect with --do_mixup 0.1, which sets it'),
    ('--mixup_off_epochs 2', '--mixup_off_epochs 2 has no effect without --mixing'),
    ('--cdt_gamma 0.3', '--cdt_gamma 0.3 has no effect with --loss_fn CE'),
    ('--cdt_gamma 0.3 --weighting CDT --loss_params gamma=.1', '--cdt_gamma 0.3 has no effect with --loss_params gamma=0.1'),
    ('--defer 0.05', '--defer 0.05 has no effect with 7 epochs: re-balancing begins in the first one'),
    ('--defer 0.95', '--defer 0.95 has no effect with 7 epochs: re-balancing would begin after the last one'),
    ('--defer 0.95 --sampling class', '--sampling class has no effect with --defer 0.95, which covers all 7 epochs'),
    ('--defer 0.95 --weighting BSCE', '--loss_fn BSCE has no effect on the class balance with --defer 0.95, which covers all 7 epochs'),
    ('--init imagenet --pretrained_weights x', '--init imagenet has no effect with --pretrained_weights'),
    ('--grow_from 0.5 --im_size 16', '--grow_from 0.5 has no effect with --im_size 16,16: smaller sizes are multiples of 16 pixels'),
    ('--grow_from 0.5 --n_epochs 1', '--grow_from 0.5 has no effect with one epoch, which uses the full --im_size'),
    ('--layer_decay 0.7 --trainable classifier',
     '--layer_decay 0.7 has no effect with --trainable classifier, which trains the last layer alone'),
    ('--momentum 0 --schedule onecycle',
     '--momentum 0 has no effect with --schedule onecycle, which varies the momentum between 0.95 and 0.85'),
    ('--momentum 0.9 --optimizer adamw', '--momentum 0.9 has no effect with --optimizer adamw'),
    ('--momentum 0.9 --recipe modern', '--momentum 0.9 has no effect with --optimizer adamw'),
    ('--momentum 0.9 --schedule onecycle',
     '--momentum 0.9 has no effect with --schedule onecycle, which varies the momentum between 0.95 and 0.85'),
    ('--wd 0.1 --optimizer adamw --trainable scale --pretrained_weights x',
     '--wd 0.1 has no effect with --optimizer adamw, which does not decay the factors of --trainable scale'),
    ('--min_lr 0.001 --schedule onecycle', '--min_lr 0.001 has no effect with --schedule onecycle'),
    ('--min_lr 0.001 --schedule step', '--min_lr 0.001 has no effect with --schedule step'),
    ('--pat 3 --schedule cosine', '--patience 3 has no effect with --schedule cosine'),
    ('--sync_bn', '--sync_bn has no effect with one process'),
    ('--deterministic', '--deterministic has no effect without CUDA; runs on the CPU are always reproducible'),
    ('--private --do_not_save --no_cache', '--private has no effect with --do_not_save and --no_cache'),
    ('--do_not_save --save_path x', '--save_path x has no effect with --do_not_save'),
    ('--do_not_save --n_checkpoints 3', '--n_checkpoints 3 has no effect with --do_not_save'),
    ('--do_not_save --resume', '--resume has no effect with --do_not_save'),
    ('--do_not_save --overwrite', '--overwrite has no effect with --do_not_save')])
def test_a_flag_without_effect_is_named(flags, line):
    ignored = '--sync_bn' not in flags and '--deterministic' not in flags
    assert said(flags, **(GPUS if ignored else {})) == [line]


def test_sync_bn_of_a_frozen_backbone_is_named():
    assert said('--sync_bn --trainable classifier', **GPUS) == [
        '--sync_bn has no effect with --trainable classifier, which keeps the BatchNorm statistics']


@pytest.mark.parametrize('flags', [
    '', '--mixing mixup --mix_alpha 0.2 --mixup_off_epochs 2', '--loss_fn CDT --cdt_gamma 0.3', '--defer 0.8',
    '--defer 0.8 --sampling class', '--momentum 0.9', '--momentum 0 --optimizer adam', '--min_lr 0.001 --schedule cosine', '--warmup 0.1',
    '--patience 3 --min_lr 0.001',
    '--init none --pretrained_weights x', '--grow_from 0.5', '--wd 0.1 --optimizer sgd --trainable scale --pretrained_weights x',
    '--mixup_off_epochs 0', '--do_mixup 0',
    '--layer_decay 0.7', '--layer_decay 1 --trainable classifier', '--do_not_save no --save_path x', '--cache_dir x'])
def test_flags_with_an_effect_are_not_named(flags):
    assert said(flags) == []


def test_flags_with_an_effect_on_several_gpus_are_not_named():
    assert said('--sync_bn --deterministic', **GPUS) == []


@pytest.mark.parametrize('recipe', RECIPES)
def test_flags_of_a_recipe_are_not_named(recipe):
    stage_two = '--pretrained_weights x' if 'two' in recipe else ''
    assert said(f'--recipe {recipe} {stage_two} --optimizer sgd --schedule onecycle --n_epochs 2 --sampling instance') == []


@pytest.mark.parametrize('group', ['demo', 'eyepacs', 'endo', 'eyepacs_recipes', 'endo_recipes', 'cifar', 'medmnist'])
def test_no_experiment_has_a_flag_without_effect(scripts, group):
    trainings = [' '.join(words[2:]) for words in experiment_lines(scripts, group) if words[1] == 'train_lt_mxp.py']
    assert trainings and [said(flags) for flags in trainings] == [[]] * len(trainings)


def test_only_flags_of_the_command_line_count():
    parser, argv = train_lt_mxp.get_parser(), ['--recipe=balanced', '--weig', 'bsce', '--no_cache', '--im_size', '64']
    assert flags_given(parser, argv, parser.parse_args(argv)) == {
        'recipe': 'balanced', 'loss_fn': 'BSCE', 'no_cache': True, 'im_size': (64, 64)}


def test_every_row_names_a_flag():
    flags = {action.dest for action in train_lt_mxp.get_parser()._actions}
    assert {flag for flag, _, _ in WITHOUT_EFFECT} <= flags


@pytest.fixture
def run_training(train, tiny, tmp_path):
    def run(flags):
        argv = train_flags(tiny, flags)
        train_lt_mxp.main(train_lt_mxp.get_parser().parse_args(argv), ['train_lt_mxp.py', *argv])
        return tmp_path / 'experiments' / 'run'
    return run


def test_training_prints_the_warning_and_continues(run_training, capsys):
    run = run_training('--patience 3 --schedule onecycle')
    assert '* Warning: --patience 3 has no effect with --schedule onecycle\n' in capsys.readouterr().out
    assert (run / 'val_metrics.txt').exists()


def test_a_run_with_a_flag_without_effect_resumes(run_training, capsys):
    (run_training('--cdt_gamma 0.3') / 'val_metrics.txt').unlink()  # as if the run was stopped before its end
    assert (run_training('--cdt_gamma 0.3 --resume') / 'val_metrics.txt').exists()
    assert capsys.readouterr().out.count('* Warning: --cdt_gamma 0.3 has no effect with --loss_fn CE\n') == 2


@pytest.mark.parametrize(('flags', 'warned'), [
    ('--csv_tune {val}', [UNTUNED]), ('--csv_tune {val} --tau_norm 1', [UNTUNED]),
    ('--csv_tune {val} --tau_norm', []), ('--csv_tune {val} --calibrate', []),
    ('--csv_out_val v.csv', ['--csv_out_val v.csv has no effect without --csv_val']), ('--csv_out_test t.csv', [])])
def test_flags_of_a_test(train, tiny, capsys, flags, warned):
    train()
    capsys.readouterr()
    val = tiny / 'val.csv'
    argv = f'--load_path experiments/run --num_workers 0 {flags.format(val=val)}'.split()
    scoring.main('', {'val': None, 'test': f'{tiny}/test.csv'}, 0, argv)
    printed = [line for line in capsys.readouterr().out.splitlines() if 'Warning' in line]
    assert printed == [f'* Warning: {line.format(val=val)}' for line in warned]


@pytest.mark.parametrize(('names', 'flags', 'warned'), [
    (['mel', 'nv', 'bcc'], '--referable 1', True), (['mel', 'nv', 'bcc'], '--referable 1 --ordered', False),
    (['mel', 'nv', 'bcc'], '--referable 0', False), (['DR0', 'DR1', 'DR2'], '--referable 1', False), (['mel', 'nv', 'bcc'], '', False)])
def test_referable_without_grades(tmp_path, capsys, names, flags, warned):
    csv = write(tmp_path / 'p.csv', random_table(0, n=60, names=names))
    evaluate_predictions.main([str(csv), '--draws', '100', *flags.split()])
    line = '* Warning: --referable 1 has no effect for classes that are not grades (see --ordered)\n'
    assert (line in capsys.readouterr().out) == warned


@pytest.mark.parametrize('tested', [False, True])
def test_draws_of_a_report_without_tests(tmp_path, capsys, tested):
    run = write_run(tmp_path, 'a', ['x', 'y'], tested=tested)
    report.main([str(run), '--draws', '100', '--out', str(Path(tmp_path) / 'r.html')])
    assert ('* Warning: --draws 100 has no effect for runs that have not been tested\n' in capsys.readouterr().out) != tested


@pytest.mark.parametrize(('n_files', 'flags', 'warned'), [
    (2, '--at 0.8 0.95', ['--at 0.8 0.95 has no effect without --json if two files are compared']), (2, '--at 0.8 --json s.json', []),
    (2, '', []), (1, '--at 0.8', []), (3, '--at 0.8', []),
    (1, '--referable 1 --at', ['--referable 1 has no effect if --at has no level']),
    (1, '--private', ['--private has no effect without --json'])])
def test_operating_points_without_effect(tmp_path, monkeypatch, capsys, n_files, flags, warned):
    monkeypatch.chdir(tmp_path)
    csvs = [write(tmp_path / f'{i}.csv', random_table(0, n=60, names=['DR0', 'DR1', 'DR2'])) for i in range(n_files)]
    evaluate_predictions.main([*csvs, '--draws', '100', *flags.split()])
    assert [line for line in capsys.readouterr().out.splitlines() if 'Warning' in line] == [f'* Warning: {line}' for line in warned]


@pytest.mark.parametrize(('n_runs', 'tested', 'flags', 'reason'), [
    (2, False, '--baseline a0', 'for runs that have not been tested'), (2, True, '--baseline a0', None),
    (2, False, '--with_images --data_path .', 'for runs that have not been tested'),
    (7, True, '--with_images --data_path .', 'for more than 6 runs, which have no sections for single runs')])
def test_flags_of_a_report_without_effect(tmp_path, capsys, n_runs, tested, flags, reason):
    runs = [str(write_run(tmp_path, f'a{i}', ['x', 'y'], seed=i, tested=tested)) for i in range(n_runs)]
    report.main([*runs, '--draws', '100'][:None if tested else -2] + flags.split())
    printed = [line for line in capsys.readouterr().out.splitlines() if 'Warning' in line]
    shown = flags.replace(' --data_path .', '')
    assert printed == ([f'* Warning: {shown} has no effect {reason}'] if reason else [])
