"""Speed with --compile, the extra time of its first epoch, and after how many epochs it pays off."""
import os
import shutil
import sysconfig

import torch

from .checks import Found, Skip, Stage
from .data import SETS
from .training import Case, train, train_args
from .whole import EPOCHS, WHOLE


def compiled(stage: Stage, case: Case, plain: float | None) -> Found:
    """Train two epochs. `plain`: images per second without --compile; None if they were not measured."""
    if not (stage.toy or any(map(shutil.which, ('cc', 'gcc', 'clang')))):
        raise Skip('torch.compile needs a C compiler')
    if not (stage.toy or os.path.exists(os.path.join(sysconfig.get_path('include'), 'Python.h'))):
        raise Skip('torch.compile needs the header files of Python')
    torch._dynamo.config.disable = stage.toy  # compiling takes minutes on a CPU, so --cpu only tests the code around it
    first, second = train(train_args(stage, case, '--compile --n_epochs 2 --train_eval off --save_path compiled')).records
    if stage.toy:
        raise Skip('training runs, but --cpu does not compile the network')
    if not torch._dynamo.utils.counters['frames']['ok']:
        raise RuntimeError('the network was not compiled')
    extra, rate = first['seconds'] - second['seconds'], second['images_per_second']
    values = {'images_per_second': rate, 'first_epoch_extra_s': extra}
    text = f'{rate:,.0f} images/s, first epoch {extra:.0f} s longer'
    if plain:
        values |= {'ratio': rate / plain} | pay_off(extra, rate, plain)
        text += f'; {rate / plain:.2f} times the rate without --compile, {verdict(values)}'
    return Found(text, values)


def pay_off(extra: float, rate: float, plain: float) -> dict:
    """-> number of epochs of EyePACS after which --compile has saved `extra` seconds (None: never), and whether it pays for EPOCHS epochs

    `rate`, `plain`: images per second with and without --compile.
    """
    n_images = SETS[WHOLE.data].n_train
    saved = n_images / plain - n_images / rate  # seconds per epoch
    epochs = max(extra, 0) / saved if saved > 0 else None
    return {'break_even_epochs': epochs, 'pays': epochs is not None and epochs < EPOCHS, 'minutes_saved': (EPOCHS * saved - extra) / 60}


def verdict(values: dict) -> str:
    """-> the values of `pay_off` in words"""
    after = 'never' if values['break_even_epochs'] is None else f"after {values['break_even_epochs']:.1f} epochs"
    return (f"{'pays' if values['pays'] else 'does not pay'} for {EPOCHS} epochs of EyePACS ({values['minutes_saved']:+.1f} min; "
            f'pays off {after})')
