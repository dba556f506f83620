"""The settings of runs in words: every entry has a name, and no value looks like Python code."""
import json
import re
import typing

import pytest

from models.heads import HEADS
from tests.report_files import Page, report, write_run
from train_lt_mxp import get_parser
from utils.data.sampling import SAMPLING
from utils.losses import LOSSES, loss_parameters
from utils.report import settings
from utils.report.runs import find_runs
from utils.report.training import what_was_run
from utils.training.augmentation import AUGMENT
from utils.training.mixing import MIXING
from utils.training.optim import OPTIMIZERS, SCHEDULES

PYTHON = re.compile(r"\b(None|True|False|null|nan|NaN|inf)\b|\{|\}|\['|\[\]|\(\)|<class|\d[eE][+-]?\d")
FOLLOWING = {  # --csv_val, and what `run_config` adds to the flags
    'csv_val': 'val.csv', 'format': 2, 'head': 'linear', 'initial_weights': 'random', 'class_column': 'grade',
    'class_names': ['x', 'y'], 'class_count': [9, 3],
    'parent': None, 'frozen': [], 'reinitialised': [], 'csv_sha256': {'train': 'a' * 64, 'val': 'b' * 64}, 'decoder': 'Pillow',
    'torch': '2', 'device_type': 'cpu', 'mixed_precision': 'no'}
PARENT = {'path': 'experiments/one/seed0/epoch_05_K_1.00', 'epoch': 5, 'metric': 'bacc', 'score': .5, 'loaded': 9, 'im_size': [64, 64]}


def full_config(*flags, **keys):
    """The configuration that a training with these flags writes; `keys` override its entries."""
    args = vars(get_parser().parse_args(list(flags)))
    if args['loss_fn'] in LOSSES:
        args['loss_params'] = loss_parameters(args['loss_fn']) | dict(args['loss_params'])
    return json.loads(json.dumps({name: value for name, value in args.items() if name != 'do_mixup'}
                                 | FOLLOWING | {'min_lr': 1e-5, 'warmup': .05, 'n_classes': 2, 'mix_alpha': .2} | keys))


@pytest.fixture
def shown(tmp_path):
    """-> function(config) -> list of {setting: value}, one for each table of a run with this configuration"""
    def read(config):
        run = write_run(tmp_path, 'a', ['x', 'y'], tested=False)
        (run / 'config.cfg').write_text(json.dumps(config(json.loads((run / 'config.cfg').read_text())) if callable(config) else config))
        html = ''.join(what_was_run(find_runs([str(run)])[0]))
        return [dict(re.findall(r'<th scope="row">([^<]*)</th><td>([^<]*)</td>', table)) for table in html.split('<table')[1:]]
    return read


@pytest.mark.parametrize(('keys', 'setting', 'value'), [
    ({'mixing': 'cutmix', 'mix_alpha': 1.}, 'mixing', 'CutMix, alpha 1'),
    ({'mixing': 'mixup', 'mix_alpha': .2, 'mixup_off_epochs': 2}, 'mixing', 'MixUp, alpha 0.2, not in the last 2 of 3 epochs'),
    ({'mixing': 'balanced_mixup', 'mix_alpha': .3, 'do_mixup': .3}, 'mixing', 'Balanced-MixUp, alpha 0.3'),
    ({'do_mixup': .1}, 'mixing', 'Balanced-MixUp, alpha 0.1'), ({}, 'mixing', 'none'),  # runs without --mixing
    ({'loss_fn': 'VS', 'loss_params': {'gamma': .3, 'tau': 1.}}, 'loss', 'vector scaling (VS): gamma 0.3, tau 1'),
    ({}, 'loss', 'cross-entropy (CE)'), ({'loss_params': {'epsilon': 0.}}, 'loss', 'cross-entropy (CE)'),
    ({'loss_params': {'epsilon': .1}}, 'loss', 'cross-entropy (CE): label smoothing 0.1'),
    ({'loss_params': None}, 'loss', 'cross-entropy (CE)'),
    ({'loss_fn': 'LAS', 'loss_params': {'head': .3, 'tail': 0.}}, 'loss',
     'label-aware smoothing (LAS): smoothing of the most frequent class 0.3, smoothing of the rarest class 0'),
    ({'loss_fn': 'MINE', 'loss_params': {'strength': 2}}, 'loss', 'MINE: strength 2'),  # a loss of another version
    ({'defer': .6}, 'deferred re-balancing', 'begins after epoch 2 of 3'), ({'recipe': 'balanced'}, 'recipe', 'balanced'),
    ({'augment': 'randaugment'}, 'augmentation', 'RandAugment'), ({'augment': 'none'}, 'augmentation', 'none'),
    ({'ema': .998}, 'moving average of the weights', 'decay 0.998'),
    ({'sampling': 'sqrt'}, 'sampling of training images', 'classes by the square root of their size'),
    ({'momentum': .9, 'wd': 1e-4}, 'optimiser', 'SGD, momentum 0.9, weight decay 0.0001'),
    ({'schedule': 'onecycle', 'momentum': .5}, 'optimiser', 'SGD, momentum 0.95 to 0.85 and back'),
    ({'optimizer': 'adamw', 'momentum': .5}, 'optimiser', 'AdamW'), ({}, 'learning rate', '0.01'),
    ({'layer_decay': .65}, 'learning rate', '0.01, times 0.65 for each layer before the last one'), ({}, 'epochs', '3 of 3 trained'),
    ({'schedule': 'plateau', 'patience': 2, 'min_lr': 1e-5, 'warmup': 0.}, 'learning-rate schedule',
     'divided by 10 when the validation score stops improving, patience 2 epochs, minimum 0.00001'),
    ({'schedule': 'onecycle', 'patience': 2, 'min_lr': 1e-5, 'warmup': .3}, 'learning-rate schedule',
     'one cycle (up, then down), warm-up in the first 30 % of the steps'),
    ({'schedule': 'step', 'patience': 2, 'min_lr': 1e-5, 'warmup': 0.}, 'learning-rate schedule',
     'divided by 10 after 1/2 and 3/4 of the training'),
    ({'grow_from': .5}, 'image size', '96 x 96 pixels (height x width), growing from 50 % of it'),
    ({'batch_size': 1024, 'accumulate': 4}, 'batch size', '1,024 images in 4 parts'),
    ({'init': 'imagenet', 'initial_weights': 'resnet10t.c3_in1k of timm'}, 'starts from', 'resnet10t.c3_in1k of timm'),
    ({'init': 'none', 'initial_weights': 'random'}, 'starts from', 'random weights'),
    ({'init': 'imagenet'}, 'starts from', 'ImageNet weights'), ({'parent': PARENT}, 'starts from', 'run one/seed0, epoch 5'),
    ({'trainable': 'classifier'}, 'trained layers', 'the last one (frozen backbone)'),
    ({'mixed_precision': 'bf16', 'device_type': 'cuda', 'format': 2}, 'versions', 'PyTorch 2 on CUDA GPU, mixed precision (bfloat16)')])
def test_settings_of_a_run(shown, keys, setting, value):
    assert shown(lambda config: config | keys)[0][setting] == value


def test_settings_unknown_to_an_old_run_are_left_out(shown):
    new = {'recipe', 'deferred re-balancing', 'augmentation', 'learning-rate schedule', 'moving average of the weights'}
    assert not new & set(shown(lambda config: config)[0])


def test_every_entry_has_a_name_and_a_place():
    config = full_config(members=[{'path': f'a/seed{seed}', 'epoch': 1, 'seed': seed, 'score': None} for seed in (0, 1, 2)])
    assert set(config) == set(settings.ENTRIES)
    names = [name for name, _, _ in settings.every_entry(config)]
    assert len(set(names)) == len(names)
    assert {key for part in settings.PARTS for key in part.keys} <= set(config)


def test_every_choice_has_a_name():
    for words, choices in ((settings.LOSSES, LOSSES), (settings.SAMPLING, SAMPLING), (settings.MIXINGS, MIXING),
                           (settings.AUGMENTATIONS, AUGMENT), (settings.OPTIMIZERS, OPTIMIZERS), (settings.SCHEDULES, SCHEDULES),
                           (settings.HEADS, HEADS)):
        assert set(words) == set(choices)
    choices = {action.dest: set(action.choices) for action in get_parser()._actions if action.choices}
    for words, flag in ((settings.TRAINABLE, 'trainable'), (settings.SCORED, 'train_eval')):
        assert set(words) == choices[flag]
    assert choices['device'] <= set(settings.DEVICES) and choices['precision'] <= set(settings.PRECISIONS)


@pytest.mark.parametrize(('value', 'words'), [
    (None, 'none'), (True, 'yes'), (False, 'no'), (2e-06, '0.000002'), (.1 + .2, '0.3'), (5., '5'), (5, '5'), ('', 'none'), ([], 'none'),
    ({}, 'none'), ([1, None, True], '1, none, yes'), ({'a': 1., 'b': [2, 3]}, 'a 1, b 2, 3'), (float('nan'), 'undefined'), (0., '0'),
    (-1., '-1'), (1e12, '1000000000000')])
def test_values_in_words(value, words):
    assert settings.in_words(value) == words


CONFIGS: dict[str, typing.Any] = {
    **{f'loss {name}': full_config('--loss_fn', name, '--tensorboard') for name in LOSSES},
    **{f'sampling {name}': full_config('--sampling', name) for name in SAMPLING},
    **{f'mixing {name}': full_config('--mixing', name, '--mixup_off_epochs', '2') for name in MIXING},
    **{f'augment {name}': full_config('--augment', name, '--grow_from', '.3') for name in AUGMENT},
    **{f'schedule {name}': full_config('--schedule', name, '--lr', '1e-5', '--wd', '1e-7', '--momentum', '.9') for name in SCHEDULES},
    'label smoothing': full_config('--loss_params', 'epsilon=.1'), 'flags': full_config('--compile', '--private', '--no_cache'),
    'deferred': full_config('--defer', '.5', '--ema', '.998', '--cdt_gamma', '.1'),
    'stage two': full_config(parent=PARENT, pretrained_weights=PARENT['path'], frozen=['a', 'b'], reinitialised=['c'], head='scaled'),
    'a newer version': full_config(new_flag=None, new_list=[1, 2], new_dictionary={'a': None, 'b': True}, new_switch=False),
    'unusual numbers': full_config(lr=1e-12, min_lr=3e-9, wd=1e20, loss_params={'epsilon': 1e-300})}


@pytest.mark.parametrize('name', CONFIGS)
def test_no_setting_looks_like_python(shown, name):
    for table in shown(CONFIGS[name]):
        for setting, value in table.items():
            ordinary = re.sub(r'\d[\d.]*e[+-]\d+', '', value) if name == 'unusual numbers' else value
            assert value and not PYTHON.search(f'{setting}: {ordinary}') and '[' not in value


def write_two(root, first, second):
    """Write two tested runs that differ in these entries, as two seeds of one method."""
    for seed, keys in enumerate((first, second)):
        path = write_run(root, f'set/plain/seed{seed}', ['x', 'y'], seed=seed) / 'config.cfg'
        path.write_text(json.dumps(full_config(**json.loads(path.read_text()) | keys)))


def test_no_text_of_a_page_looks_like_python(tmp_path):
    write_two(tmp_path, {'loss_params': {'epsilon': 0.}, 'recipe': None, 'mix_alpha': None, 'compile': True},
              {'loss_params': {'epsilon': .1}, 'recipe': 'modern', 'mixing': 'mixup', 'mix_alpha': .2, 'im_size': [64, 96], 'lr': 1e-5})
    text = Page(report(tmp_path / 'results')).text
    assert not PYTHON.search(text.split('Predictions on this page')[0])
    assert ('plain pools runs whose settings differ: image size 96 x 96 pixels (height x width) (seed0) or 64 x 96 pixels '
            '(height x width) (seed1); mixing none (seed0) or MixUp (seed1); ') in text
    assert 'parameters of the loss label smoothing 0 (seed0) or label smoothing 0.1 (seed1)' in text


def test_what_differs_between_runs():
    configs = [full_config(), full_config(loss_params={'epsilon': .1}, compile=True, save_path='b'), full_config('--mixing', 'mixup')]
    del configs[2]['augment'], configs[2]['tensorboard']
    assert settings.differing_parts(configs) == {
        'loss': ['cross-entropy (CE)', 'cross-entropy (CE): label smoothing 0.1', 'cross-entropy (CE)'],
        'mixing': ['none', 'none', 'MixUp, alpha 0.2'],
        'augmentation': [settings.AUGMENTATIONS['original']] * 2 + ['not recorded'], 'compiled network': ['no', 'yes', 'no'],
        'TensorBoard files': ['no', 'no', 'not recorded']}
    assert settings.differing_parts(configs[:1]) == settings.differing_parts([]) == {}
