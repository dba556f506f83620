"""Named sets of flags for the train script: `--recipe NAME`. A flag given by hand wins."""
import argparse

from utils.cli import Parser

_MODERN = {'optimizer': 'adamw', 'lr': .002, 'wd': .01, 'schedule': 'onecycle', 'ema': .998, 'batch_size': 16, 'augment': 'rotate',
           'train_eval': 'off'}
_STAGE_TWO = _MODERN | {'n_epochs': 10, 'augment': 'original'}
RECIPES: dict[str, dict] = {
    'original': {},
    'original_mxp': {'do_mixup': .1},
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
}


class RecipeParser(Parser):
    """Takes the defaults of the flags from the recipe that the command line names."""

    def parse_known_args(self, args=None, namespace=None):
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        first.add_argument('--recipe', default=None)
        name = first.parse_known_args(args)[0].recipe
        if name in RECIPES:
            self.set_defaults(**RECIPES[name])
        return super().parse_known_args(args, namespace)


def to_flags(name):
    """The recipe as it would be typed."""
    return ' '.join(f'--{flag} {value}' for flag, value in RECIPES[name].items())
