"""What --compile gains, and what it costs before the first step is done. It comes last: it takes the time that is left."""
import json
import os

import torch

from .checks import Found, Skip, Stage
from .fast import LARGE, forget, train, train_args, working_folder


def run(stage: Stage) -> None:
    torch._dynamo.config.disable = stage.toy  # a CPU takes minutes to compile a network: there, only the way to it is tried
    before = measured_without(stage)
    for case in LARGE[:1] if stage.toy else LARGE:
        with working_folder(stage):
            stage.check(f'{case} --compile', compiled, stage, case, before)
        forget()


def measured_without(stage):
    """Checks of the stage `fast`, by name."""
    path = os.path.join(stage.out, 'fast.json')
    if not os.path.exists(path):
        return {}
    with open(path, encoding='utf-8') as f:
        return {check['name']: check for check in json.load(f)['checks']}


def compiled(stage, case, before):
    first, second = train(train_args(stage, case, '--compile --n_epochs 2 --train_eval off --save_path compiled'))
    if stage.toy:
        raise Skip('runs, but nothing is compiled on a CPU')
    extra, rate = first['seconds'] - second['seconds'], second['images_per_second']
    plain, alone = (before.get(f'{case} {name}', {}) for name in ('plain', 'network alone'))
    plain, warm_up = plain.get('images_per_second'), alone.get('warm_up_s')
    beside = f', {rate / plain:.2f} of the rate without' if plain else ''
    without = f' ({warm_up:.0f} s of it without --compile, too)' if warm_up else ''  # CUDA starts, cuDNN tries its convolutions
    return Found(f'{rate:,.0f} images/s{beside}, first epoch {extra:.0f} s longer{without}',
                 {'images_per_second': rate, 'first_epoch_extra_s': extra} | ({'ratio': rate / plain} if plain else {}))
