"""Speed with --compile, and the extra time that the first epoch takes. This stage runs last, in the remaining time."""
import json
import os

import torch

from .checks import Found, Skip, Stage
from .fast import LARGE, forget, train, train_args, working_folder


def run(stage: Stage) -> None:
    torch._dynamo.config.disable = stage.toy  # compiling takes minutes on a CPU, so --cpu only tests the code around it
    before = measured_without(stage)
    for case in LARGE[:1] if stage.toy else LARGE:
        with working_folder(stage):
            stage.check(f'{case} --compile', compiled, stage, case, before)
        forget()


def measured_without(stage):
    """-> checks of the stage `fast`, by name; empty if it has not run"""
    path = os.path.join(stage.out, 'fast.json')
    if not os.path.exists(path):
        return {}
    with open(path, encoding='utf-8') as f:
        return {check['name']: check for check in json.load(f)['checks']}


def compiled(stage, case, before):
    first, second = train(train_args(stage, case, '--compile --n_epochs 2 --train_eval off --save_path compiled'))
    if stage.toy:
        raise Skip('training runs, but --cpu does not compile the network')
    extra, rate = first['seconds'] - second['seconds'], second['images_per_second']
    plain, alone = (before.get(f'{case} {name}', {}) for name in ('plain', 'network alone'))
    plain, warm_up = plain.get('images_per_second'), alone.get('warm_up_s')
    beside = f' ({rate / plain:.2f} times the rate without --compile)' if plain else ''
    without = f' (warm-up without --compile: {warm_up:.0f} s)' if warm_up else ''  # CUDA start-up and cuDNN benchmarking
    return Found(f'{rate:,.0f} images/s{beside}, first epoch {extra:.0f} s longer{without}',
                 {'images_per_second': rate, 'first_epoch_extra_s': extra} | ({'ratio': rate / plain} if plain else {}))
