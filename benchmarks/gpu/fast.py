"""Speed of the training loop compared with the network alone and with a straightforward loop, on images that are already decoded."""
import contextlib
import gc
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.autograd import DeviceType

import train_lt_mxp
from benchmarks.network_alone import NetworkAlone
from benchmarks.reference_loop import ReferenceLoop
from models.arch import IMAGENET
from models.get_model import get_arch
from utils.common import write_text
from utils.data.image_cache import WORKERS, use_cache
from utils.get_loaders import EVAL_FACTOR, ClassDataset, fitting_workers, get_eval_loader
from utils.prediction.accelerator import build_accelerator
from utils.prediction.inference import Normalise, predict
from utils.training.batches import BatchTransform
from utils.training.mixing import BalancedMixUp

from .checks import Found, Stage
from .data import N_CLASSES, SETS, flags_of

ALPHA = .2  # of Balanced-MixUp
AIMS = {'plain': .85, 'Balanced-MixUp': .75}  # share of the network alone, on the cards in AIMED_AT
AIMED_AT = ('H100', 'H200')
REFERENCE_WORKERS = 8  # the original's default
FIRST, LATER = 50, 30  # expected seconds of the network alone: in the first case, with CUDA start-up; in a later case
TRIAL = 12  # seconds to benchmark the evaluation batch sizes and to start workers
DECODING = .05  # seconds per image and core in the straightforward loop


class Case(NamedTuple):
    model_name: str
    batch_size: int  # TOY_BATCH with --cpu
    data: str  # key of SETS
    n_steps: int  # timed steps of the network alone

    def __str__(self):
        return f'{self.model_name} b{self.batch_size}'


# The most important case comes first, because time may run out.
CASES = (Case('mobilenetV2', 64, 'b64', 60), Case('mobilenetV2', 8, 'b8', 60),
         Case('resnext50', 64, 'b64_large', 20), Case('resnext50', 8, 'b8', 60))
LARGE = tuple(case for case in CASES if case.batch_size == 64)
TOY_CASES = CASES[0], CASES[-1]
TOY_BATCH, TOY_STEPS = 4, 2
PROFILED = 5  # steps


def batch_size_of(case, stage):
    return TOY_BATCH if stage.toy else case.batch_size


def train_args(stage: Stage, case: Case, flags: str = ''):
    """-> parsed arguments of the train script"""
    argv = [*flags_of(stage, case.data, batch_size_of(case, stage)), '--model_name', case.model_name, '--overwrite', *flags.split()]
    return train_lt_mxp.get_parser().parse_args(argv)


@contextlib.contextmanager
def working_folder(stage: Stage) -> Iterator[str]:
    """Change into a temporary folder for runs, which is removed when the block ends."""
    with tempfile.TemporaryDirectory(dir=stage.out) as folder, contextlib.chdir(folder):
        yield folder


def forget() -> None:
    """Free unused device memory and reset its peak."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gb() -> float:
    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.


def train(args) -> list[dict]:
    """Train. -> records of log.jsonl, one per epoch"""
    train_lt_mxp.main(args)
    with open(os.path.join('experiments', args.save_path, 'log.jsonl'), encoding='utf-8') as f:
        return [json.loads(line) for line in f]


def run(stage: Stage) -> None:
    for case in TOY_CASES if stage.toy else CASES:
        with working_folder(stage):
            measure(stage, case)


def measure(stage, case):
    rates: dict[str, float] = {}  # images per second, filled in by the checks

    def check(name, function, *args, needs):
        forget()
        return stage.check(f'{case} {name}', function, stage, case, *args, needs=0 if stage.toy else needs)
    if case in LARGE:
        check('without cuDNN benchmarking', untried, needs=LATER)
    if not check('network alone', alone, rates, needs=FIRST if case is CASES[0] else LATER):
        return
    n_images = SETS[case.data].n_train
    if check('training', loop, rates, needs=TRIAL + 3 * n_images / (.75 * rates['alone'])):
        for name in AIMS:
            stage.check(f'{case} {name}', beside_the_network, case, name, rates)
    check('preparing a batch', preparing, needs=3)
    check('evaluation', evaluation, needs=4 + 2 * n_images / rates['alone'])
    if case in LARGE:
        check('step profile', profile, needs=12)
    check('straightforward loop', straightforward, rates, needs=reference_seconds(case, rates['alone']))


def alone(stage, case, rates):
    found = untried(stage, case, trial=True)
    rates['alone'] = found.values['images_per_second']
    return found


def untried(stage, case, trial=False):
    """Measure the network alone. `trial`: let cuDNN benchmark its convolutions; without it, the check shows what this gains."""
    args, n_steps = train_args(stage, case), TOY_STEPS if stage.toy else case.n_steps
    start = time.perf_counter()
    network = NetworkAlone(args, build_accelerator(), TOY_STEPS if stage.toy else 10, trial)
    warm_up = time.perf_counter() - start
    seconds = network.seconds(n_steps) / n_steps
    rate = args.batch_size / seconds
    return Found(f'{rate:,.0f} images/s, {1000 * seconds:.1f} ms per step, warm-up {warm_up:.0f} s',
                 {'images_per_second': rate, 'step_ms': 1000 * seconds, 'warm_up_s': warm_up})


def loop(stage, case, rates):
    """Train three epochs in one run: Balanced-MixUp as warm-up, Balanced-MixUp, plain."""
    records = train(train_args(stage, case, f'--do_mixup {ALPHA} --mixup_off_epochs 1 --n_epochs 3 --train_eval off --save_path loop'))
    _, rates['Balanced-MixUp'], rates['plain'] = (record['images_per_second'] for record in records)
    return Found(f"{sum(record['seconds'] for record in records):.1f} s for 3 epochs, peak memory {peak_gb():.1f} GB",
                 {'peak_gb': peak_gb(), 'first_epoch_s': records[0]['seconds'], 'second_epoch_s': records[1]['seconds']})


def preparations(args, device):
    """-> a batch from two loaders, and the transforms that prepare it for the network: plain, Balanced-MixUp"""
    data, _ = decoded(args)
    images, labels, ids = data.__getitems__(list(range(min(args.batch_size, len(data)))))
    if device.type == 'cuda':
        images, labels = images.pin_memory(), labels.pin_memory()  # as the loader does
    normalise, count = Normalise(device, *IMAGENET), np.bincount(data.labels, minlength=N_CLASSES)
    return [(images, labels, ids)] * 2, BatchTransform(normalise), BalancedMixUp(normalise, count, ALPHA)


def preparing(stage, case):
    """Time how long it takes to copy, augment, mix and normalise a batch: the part of a step outside the network."""
    device, times = build_accelerator().device, {}
    batch, plain, mixup = preparations(train_args(stage, case), device)
    for name, prepare in (('plain', plain), ('Balanced-MixUp', mixup)):
        for n_batches in (3, TOY_STEPS if stage.toy else 20):  # the first three load kernels
            start = time.perf_counter()
            for _ in range(n_batches):
                inputs, _ = prepare(batch)
            inputs[0, 0, 0, 0].item()  # waits for the device
            times[name] = 1000 * (time.perf_counter() - start) / n_batches
    return Found(', '.join(f'{name} {ms:.1f} ms' for name, ms in times.items()), {f'{name}_ms': ms for name, ms in times.items()})


def aimed_at() -> bool:
    """-> whether the aims apply to this card"""
    return torch.cuda.is_available() and any(name in torch.cuda.get_device_name() for name in AIMED_AT)


def beside_the_network(case, name, rates):
    ratio = rates[name] / rates['alone']
    return Found(f'{rates[name]:,.0f} images/s, {ratio:.2f} of the network alone (aim {AIMS[name]:.2f})',
                 {'images_per_second': rates[name], 'ratio': ratio, 'aim': AIMS[name]}, ok=ratio >= AIMS[name] or not aimed_at())


def decoded(args):
    """-> training and validation set, decoded"""
    sets = [ClassDataset(csv, args.data_path, args.im_size) for csv in (args.csv_train, args.csv_val)]
    use_cache(sets, args.cache_dir, args.num_workers)
    return sets


def evaluation(stage, case):
    """Time the evaluation loop on the training images of the case. The first of two passes is warm-up."""
    args = train_args(stage, case)
    accelerator = build_accelerator()
    model, mean, std = get_arch(args.model_name, args.n_classes, im_size=args.im_size)
    model.to(accelerator.device, memory_format=torch.channels_last)
    data, _ = decoded(args)
    workers = fitting_workers(min(args.num_workers, WORKERS), EVAL_FACTOR * args.batch_size, args.im_size)
    loader = get_eval_loader(data, args.batch_size, workers)
    normalise = Normalise(accelerator.device, mean, std)
    for _ in range(2):
        start = time.perf_counter()
        predict(model, loader, normalise, accelerator.autocast)
        seconds = time.perf_counter() - start
    return Found(f'{len(data) / seconds:,.0f} images/s, peak memory {peak_gb():.1f} GB',
                 {'images_per_second': len(data) / seconds, 'peak_gb': peak_gb()})


def reference_seconds(case, alone):
    """-> expected seconds of the straightforward loop

    Each worker of two loaders prepares three batches. As many float32 steps follow, at a third of the rate `alone`.
    """
    n_images = 3 * REFERENCE_WORKERS * case.batch_size
    return 5 + 2 * n_images * DECODING / min(len(os.sched_getaffinity(0)), 2 * REFERENCE_WORKERS) + 3 * n_images / alone


def straightforward(stage, case, rates):
    """Time Balanced-MixUp with `ReferenceLoop`. The first batch of each worker is warm-up, and the next two are timed."""
    args = train_args(stage, case)
    device = build_accelerator().device
    workers = fitting_workers(args.num_workers and REFERENCE_WORKERS, 2 * 4 * args.batch_size, args.im_size)  # two loaders of float32
    torch.backends.cudnn.benchmark = torch.backends.cuda.matmul.allow_tf32 = False  # PyTorch's defaults
    reference = ReferenceLoop(args.csv_train, args.csv_val, args.data_path, N_CLASSES, args.model_name, args.im_size, args.batch_size,
                              workers, ALPHA, device, decoded(args))
    reference.model.train()
    batches, round_ = iter(reference.combo), max(workers, 1)
    for batch in itertools.islice(batches, round_):
        reference.step(batch)
    start = time.perf_counter()
    for batch in itertools.islice(batches, 2 * round_):
        reference.step(batch)
    rate = 2 * round_ * args.batch_size / (time.perf_counter() - start)
    ours = rates.get('Balanced-MixUp')
    return Found(f'{rate:,.0f} images/s' + (f', our loop is {ours / rate:.1f} times as fast' if ours else ''), {'images_per_second': rate})


def profile(stage, case):
    """Profile Balanced-MixUp steps: write a table of kernels to a file, and measure how long the device is busy in a step.

    The step itself is timed without the profiler, which slows the CPU.
    """
    accelerator = build_accelerator()
    network = NetworkAlone(train_args(stage, case), accelerator, warm_up=TOY_STEPS)
    batch, _, prepare = preparations(train_args(stage, case), accelerator.device)
    cuda = accelerator.device.type == 'cuda'

    def steps():
        start = time.perf_counter()
        for _ in range(PROFILED):
            network.inputs = prepare(batch)[0]
            loss = network.step()
        loss.item()  # waits for the device
        return time.perf_counter() - start
    steps()
    seconds = steps()
    with torch.profiler.profile() as profiler:  # records CPU and device
        steps()
    kernels = profiler.key_averages()
    path = os.path.join(stage.out, f'profile_{case.model_name}.txt')
    write_text(path, kernels.table(sort_by='self_device_time_total' if cuda else 'self_cpu_time_total', row_limit=40))
    on_device = [kernel for kernel in kernels if kernel.device_type == DeviceType.CUDA and not kernel.is_user_annotation]
    busy, step = (ms / PROFILED for ms in (sum(kernel.self_device_time_total for kernel in on_device) / 1000, 1000 * seconds))
    share = f', device busy for {busy:.1f} ms' if cuda else ''
    return Found(f'{step:.1f} ms per step{share}, kernels in {os.path.basename(path)}', {'busy_ms': busy, 'step_ms': step})
