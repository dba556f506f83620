"""Recipes (`--recipe NAME`): presets of the train script's flags. Flags on the command line override them."""
import argparse

from utils.cli import Parser
from utils.common import InputError

_MODERN = {'optimizer': 'adamw', 'lr': .002, 'wd': .01, 'schedule': 'onecycle', 'ema': .998, 'batch_size': 16, 'augment': 'rotate',
           'train_eval': 'off'}
_STAGE_TWO = _MODERN | {'n_epochs': 10, 'augment': 'original'}
_FINETUNE = _MODERN | {'lr': .001, 'wd': .1, 'n_epochs': 12, 'augment': 'trivial', 'loss_fn': 'BSCE'}
RECIPES: dict[str, dict] = {
    'original': {},
    'original_mxp': {'mixing': 'balanced_mixup', 'mix_alpha': .1},
    'original_bsce': {'loss_fn': 'BSCE'},
    'original_cdt': {'loss_fn': 'CDT'},
    'modern': _MODERN | {'n_epochs': 60},
    'modern_bsce': _MODERN | {'n_epochs': 60, 'loss_fn': 'BSCE'},
    'balanced': {'model_name': 'regnetx_002', 'init': 'none'} | _MODERN | {
        'augment': 'zoom', 'metric': 'loss', 'n_epochs': 83, 'grow_from': .5, 'sampling': 'class', 'mixing': 'mixup', 'mix_alpha': .2,
        'mixup_off_epochs': 14},
    'stage_two_crt': _STAGE_TWO | {'trainable': 'classifier', 'sampling': 'class'},
    'stage_two_lws': _STAGE_TWO | {'trainable': 'scale', 'sampling': 'class'},
    'stage_two_bsce': _STAGE_TWO | {'loss_fn': 'BSCE', 'lr': .0005},
    'finetune': _FINETUNE,
    'finetune_two_stage': _FINETUNE | {'lr': .00025, 'n_epochs': 4},
    'finetune_fast': _MODERN | {'lr': .003, 'wd': 1., 'n_epochs': 20, 'augment': 'none', 'loss_fn': 'BSCE', 'trainable': 'classifier'},
}
STAGE_TWO = 'stage_two_crt', 'stage_two_lws', 'stage_two_bsce', 'finetune_two_stage'


class RecipeParser(Parser):
    """Parser that takes its defaults from --recipe and translates --do_mixup into --mixing and --mix_alpha."""

    def parse_known_args(self, args=None, namespace=None):
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        first.add_argument('--recipe')
        self.set_defaults(**RECIPES.get(first.parse_known_args(args)[0].recipe, {}))
        return super().parse_known_args(args, namespace)

    def parse_args(self, args=None, namespace=None):
        return without_do_mixup(super().parse_args(args, namespace))


def without_do_mixup(args: argparse.Namespace) -> argparse.Namespace:
    """Replace --do_mixup ALPHA by --mixing balanced_mixup --mix_alpha ALPHA. ALPHA 0 only turns off the Balanced-MixUp of a recipe.
    Raises `InputError` if another --mixing is set."""
    others = {name: value for name, value in vars(args).items() if name != 'do_mixup'}
    if 'do_mixup' not in args:
        return args
    alpha, of_recipe = args.do_mixup, RECIPES.get(args.recipe, {})
    if of_recipe.get('mixing') == args.mixing == 'balanced_mixup':
        others |= {'mixing': 'none', 'mix_alpha': None}
    if not alpha >= 0:
        raise InputError(f'--do_mixup must not be negative, got {alpha}')
    if alpha > 0:
        if args.mixing not in ('none', 'balanced_mixup'):
            raise InputError(f'--do_mixup is Balanced-MixUp: leave it out with --mixing {args.mixing}, and set alpha with --mix_alpha')
        others |= {'mixing': 'balanced_mixup', 'mix_alpha': alpha}
    return argparse.Namespace(**others)


def to_flags(name: str) -> str:
    """The flags of a recipe as typed on the command line."""
    return ' '.join(f'--{flag} {value}' for flag, value in RECIPES[name].items())
