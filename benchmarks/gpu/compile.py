"""What --compile gains, and what it costs before the first step is done. It comes last: it takes the time that is left."""
import json
import os

import torch

from .checks import Found, Skip, Stage
from .fast import CASES, forget, train, train_args, working_folder


def run(stage: Stage) -> None:
    torch._dynamo.config.disable = stage.toy  # a CPU takes minutes to compile a network: there, only the way to it is tried
    plain = rates_without(stage)
    for case in CASES[:2]:
        with working_folder(stage):
            stage.check(f'{case} --compile', compiled, stage, case, plain.get(f'{case} plain'))
        forget()


def rates_without(stage):
    """Images per second without --compile, by the name of the check in the stage `fast`."""
    path = os.path.join(stage.out, 'fast.json')
    if not os.path.exists(path):
        return {}
    with open(path, encoding='utf-8') as f:
        return {check['name']: check['images_per_second'] for check in json.load(f)['checks'] if 'images_per_second' in check}


def compiled(stage, case, plain):
    first, second = train(train_args(stage, case, '--compile --n_epochs 2 --train_eval off --save_path compiled'))
    if stage.toy:
        raise Skip('runs, but nothing is compiled on a CPU')
    extra, rate = first['seconds'] - second['seconds'], second['images_per_second']
    beside = f', {rate / plain:.2f} of the rate without' if plain else ''
    return Found(f'{rate:,.0f} images/s{beside}, first epoch {extra:.0f} s longer',
                 {'images_per_second': rate, 'first_epoch_extra_s': extra} | ({'ratio': rate / plain} if plain else {}))
