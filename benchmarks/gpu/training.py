"""Training runs of the speed checks: their flags, their records, and where their images were."""
import contextlib
import gc
import json
import os
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import torch
from accelerate.state import AcceleratorState

import train_lt_mxp
from utils.get_loaders import EVAL_FACTOR
from utils.training import placement

from .checks import Stage
from .data import flags_of

ALPHA = .2  # of Balanced-MixUp
TOY_BATCH = 4
DATA = {'device data': 'auto', 'host data': 'host'}  # where the images stay -> --data_device


class Case(NamedTuple):
    """A network and batch size to measure."""
    model_name: str
    batch_size: int  # TOY_BATCH with --cpu
    data: str  # key of SETS
    n_steps: int = 0  # timed steps of the network alone

    def __str__(self) -> str:
        return f'{self.model_name} b{self.batch_size}'


class Call(NamedTuple):
    seconds: float
    result: Any


class Trained(NamedTuple):
    records: list[dict]  # of log.jsonl, one per epoch
    seconds: float  # of the whole run
    placed: dict[str, Any]  # see `describe_placement`


def train_args(stage: Stage, case: Case, flags: str = '') -> Namespace:
    """-> parsed arguments of the train script"""
    batch_size = TOY_BATCH if stage.toy else case.batch_size
    argv = [*flags_of(stage, case.data, batch_size), '--model_name', case.model_name, '--overwrite', *flags.split()]
    return train_lt_mxp.get_parser().parse_args(argv)


@contextlib.contextmanager
def working_folder(stage: Stage) -> Iterator[str]:
    """Change into a temporary folder for runs, which is removed when the block ends."""
    with tempfile.TemporaryDirectory(dir=stage.out) as folder, contextlib.chdir(folder):
        yield folder


def forget() -> None:
    """Free unused device memory and reset its peak. The next accelerator may have other settings."""
    AcceleratorState._reset_state(reset_partial_state=True)  # otherwise a later --compile would have no effect
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gb() -> float:
    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.


@contextlib.contextmanager
def observed(owner: object, name: str) -> Iterator[list[Call]]:
    """Collect the calls of `owner.name`, a function of a module or class, while the block runs."""
    function, calls = getattr(owner, name), []

    def call(*args, **kwargs):
        start = time.perf_counter()
        result = function(*args, **kwargs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # copies to the device may still run
        calls.append(Call(time.perf_counter() - start, result))
        return result
    with mock.patch.object(owner, name, call):
        yield calls


def train(args: Namespace) -> Trained:
    """Train, and observe where the images go."""
    with observed(train_lt_mxp, 'place_data') as places, observed(placement, 'measure_step') as trials, \
            observed(placement, 'copy_to_device') as copies:
        start = time.perf_counter()
        train_lt_mxp.main(args)
        seconds = time.perf_counter() - start
    with open(os.path.join('experiments', args.save_path, 'log.jsonl'), encoding='utf-8') as f:
        records = [json.loads(line) for line in f]
    return Trained(records, seconds, describe_placement(places[0].result, trials, copies))


def describe_placement(data: Any, trials: list[Call], copies: list[Call]) -> dict[str, Any]:
    """-> place of the images, evaluation batch size, memory of a step, and speed of the upload

    `data`: the `TrainingData` of a run. `trials`, `copies`: calls of `measure_step` and `copy_to_device`, at most one each.
    """
    batch_size, cache = data.train_loader.batch_size, data.train.cache
    on_device = getattr(cache, 'on_device', False)
    values = {'images_in': 'GPU memory' if on_device else 'host memory', 'eval_batch_size': data.val_loader.batch_size}
    for trial_s, trial in trials:
        values |= {'trial_s': trial_s, 'room_gb': trial.room / 1e9, 'step_gb': trial.step / 1e9,
                   'step_mb_per_image': trial.step / batch_size / 1e6,
                   'evaluation_mb_per_image': trial.evaluation / (EVAL_FACTOR * batch_size) / 1e6}
    if on_device:
        gb, upload_s = cache.words.nbytes / 1e9, copies[0].seconds
        values |= {'upload_gb': gb, 'upload_s': upload_s, 'upload_gb_per_s': gb / upload_s}
    return values


@contextlib.contextmanager
def cpu_as_gpu() -> Iterator[None]:
    """Let the CPU count as a GPU, so that --cpu tries the placement of the images as well."""
    import pytest  # only --cpu needs it, and the tests

    from tests.cpu_as_gpu import count_cpu_as_gpu
    with pytest.MonkeyPatch.context() as patch:
        count_cpu_as_gpu(patch)
        yield
