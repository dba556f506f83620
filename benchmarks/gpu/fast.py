"""Speed of a whole run, and of the training loop compared with the network alone and with a straightforward loop.

The images are already decoded. One process measures everything, because each new batch size costs cuDNN 10 to 45 s once per process.
"""
import contextlib
import itertools
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from torch.autograd import DeviceType

from benchmarks.network_alone import NetworkAlone
from benchmarks.reference_loop import ReferenceLoop
from models.arch import IMAGENET
from models.get_model import get_arch
from utils.common import write_text
from utils.data.device_images import copy_to_device
from utils.data.image_cache import use_cache
from utils.get_loaders import EVAL_FACTOR, ClassDataset, fitting_workers, get_eval_loader, with_batch_size
from utils.prediction.accelerator import build_accelerator
from utils.prediction.inference import Normalise, predict
from utils.reproducibility import set_backends
from utils.training.batches import BatchTransform
from utils.training.mixing import BalancedMixUp

from . import whole
from .checks import Found, Skip, Stage
from .compile import compiled
from .data import N_CLASSES, SETS
from .device import aimed_at
from .training import ALPHA, DATA, Case, cpu_as_gpu, forget, peak_gb, train, train_args, working_folder

AIMS = {('plain', 'device data'): .90, ('Balanced-MixUp', 'device data'): .85,  # share of the network alone
        ('plain', 'host data'): .75, ('Balanced-MixUp', 'host data'): .75}
REFERENCE_WORKERS = 8  # the original's default
TRIAL = 40  # expected seconds of a new training batch size
EVAL_TRIAL = 25  # expected seconds of the memory trial and of new evaluation batch sizes
COMPILE = 120  # expected seconds with --compile
PROCESS = 40  # expected seconds of a new process that needs the GPU
DECODING = .05  # seconds per image and core in the straightforward loop

CASES = (Case('mobilenetV2', 64, 'b64', 60), Case('resnext50', 64, 'b64_large', 20),
         Case('mobilenetV2', 8, 'b8', 60), Case('resnext50', 8, 'b8', 60))
LARGE, SMALL = CASES[:2], CASES[2:]
TOY_CASES = CASES[0], CASES[-1]
TOY_STEPS = 2
PROFILED = 5  # steps


class Measure:
    """Runs the checks of one case. `rates`: images per second that earlier checks have measured, by name."""

    def __init__(self, stage: Stage, case: Case):
        self.stage, self.case, self.rates = stage, case, {}

    def check(self, name, function, *args, needs):
        forget()
        return self.stage.check(f'{self.case} {name}', function, self.stage, self.case, *args, needs=0 if self.stage.toy else needs)

    def training(self):
        """What the aims are about."""
        if not self.check('network alone', alone, self.rates, needs=TRIAL):
            return
        n_images = 3 * SETS[self.case.data].n_train
        for data in DATA:
            needs = n_images / (.5 * self.rates['alone']) + (EVAL_TRIAL if data == 'device data' else 5)
            if self.check(f'training, {data}', loop, self.rates, data, needs=needs):
                for mixing in ('plain', 'Balanced-MixUp'):
                    self.stage.check(f'{self.case} {mixing}, {data}', beside_the_network, self.rates, (mixing, data))

    def other_steps(self):
        """The parts of a step outside of the network, and evaluation."""
        if 'alone' in self.rates:
            self.check('preparing a batch', preparing, needs=3)
            for data in DATA:
                self.check(f'evaluation, {data}', evaluation, self.rates, data,
                           needs=5 + 2 * SETS[self.case.data].n_train / self.rates['alone'])

    def compile(self):
        if 'alone' in self.rates:
            self.check('--compile', compiled, self.rates.get(('plain', 'device data')), needs=COMPILE)

    def comparisons(self):
        """With a straightforward loop and without cuDNN's trials, and the kernels of a step."""
        if 'alone' in self.rates:
            self.check('step profile', profile, needs=12)
            self.check('straightforward loop', straightforward, self.rates, needs=reference_seconds(self.case, self.rates['alone']))
            self.check('without cuDNN benchmarking', untried, needs=PROCESS)


# The most important measurements come first, because time may run out.
ORDER = ((Measure.training, LARGE), (Measure.compile, LARGE[:1]), (Measure.other_steps, LARGE), (Measure.comparisons, LARGE),
         (Measure.training, SMALL), (Measure.other_steps, SMALL), (Measure.compile, LARGE[1:]))


def run(stage: Stage) -> None:
    measures = {case: Measure(stage, case) for case in (TOY_CASES if stage.toy else CASES)}
    with working_folder(stage), cpu_as_gpu() if stage.toy else contextlib.nullcontext():
        whole.run(stage)
        for measure, cases in ORDER:
            for case in cases:
                if case in measures:
                    measure(measures[case])


def alone(stage, case, rates):
    args = train_args(stage, case)
    start = time.perf_counter()
    network = NetworkAlone(args, build_accelerator(), warm_up=TOY_STEPS if stage.toy else 10)
    warm_up = time.perf_counter() - start
    n_steps = TOY_STEPS if stage.toy else case.n_steps
    seconds = network.seconds(n_steps) / n_steps
    rates['alone'] = args.batch_size / seconds
    return Found(f"{rates['alone']:,.0f} images/s, {1000 * seconds:.1f} ms per step, warm-up {warm_up:.0f} s",
                 {'images_per_second': rates['alone'], 'step_ms': 1000 * seconds, 'warm_up_s': warm_up})


def untried(stage, case):
    """Measure the network alone if cuDNN does not benchmark its convolutions, in a new process: this one remembers the benchmarked ones."""
    n_steps = TOY_STEPS if stage.toy else case.n_steps
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
        seconds = pool.submit(seconds_untried, train_args(stage, case), n_steps).result() / n_steps
    return Found(f'{1000 * seconds:.1f} ms per step', {'step_ms': 1000 * seconds})


def seconds_untried(args, n_steps):
    return NetworkAlone(args, build_accelerator(), trial=False).seconds(n_steps)


def loop(stage, case, rates, data):
    """Train three epochs in one run: Balanced-MixUp as warm-up, Balanced-MixUp, plain."""
    flags = f'--do_mixup {ALPHA} --mixup_off_epochs 1 --n_epochs 3 --train_eval off --save_path loop --data_device {DATA[data]}'
    records, _, placed = train(train_args(stage, case, flags))
    if data == 'device data' and placed['images_in'] != 'GPU memory':
        raise Skip(f"the images do not fit in GPU memory, which has room for {placed['room_gb']:.1f} GB")
    _, rates['Balanced-MixUp', data], rates['plain', data] = (record['images_per_second'] for record in records)
    rates['eval_batch_size'] = placed['eval_batch_size']
    seconds = [record['seconds'] for record in records]
    return Found(f"{sum(seconds):.1f} s for 3 epochs; a step needs {placed['step_gb']:.1f} GB ({placed['step_mb_per_image']:.0f} MB per "
                 f"image), evaluation {placed['evaluation_mb_per_image']:.0f} MB per image in batches of {placed['eval_batch_size']}; peak "
                 f'memory {peak_gb():.1f} GB', {'peak_gb': peak_gb(), 'epochs_s': seconds} | placed)


def beside_the_network(rates, key):
    ratio, aim = rates[key] / rates['alone'], AIMS[key]
    return Found(f'{rates[key]:,.0f} images/s, {ratio:.2f} of the network alone (aim {aim:.2f})',
                 {'images_per_second': rates[key], 'ratio': ratio, 'aim': aim}, ok=ratio >= aim or not aimed_at())


def preparations(args, device):
    """-> a batch from two loaders with images on the device, and the transforms that prepare it for the network: plain, Balanced-MixUp"""
    data, _ = decoded(args)
    images, labels, ids = data.__getitems__(list(range(min(args.batch_size, len(data)))))
    normalise, count = Normalise(device, *IMAGENET), np.bincount(data.labels, minlength=N_CLASSES)
    return [(images.to(device), labels, ids)] * 2, BatchTransform(normalise), BalancedMixUp(normalise, count, ALPHA)


def preparing(stage, case):
    """Time how long it takes to augment, mix and normalise a batch that is on the device: the part of a step outside the network."""
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


def decoded(args, pin=False):
    """-> training and validation set, decoded"""
    sets = [ClassDataset(csv, args.data_path, args.im_size) for csv in (args.csv_train, args.csv_val)]
    use_cache(sets, args.cache_dir, args.num_workers, pin)
    return sets


def evaluation(stage, case, rates, data):
    """Time the evaluation loop on the training images of the case. The first of two passes is warm-up."""
    args, accelerator = train_args(stage, case), build_accelerator()
    device = accelerator.device
    set_backends(args.deterministic, device.type == 'cuda')
    model, mean, std = get_arch(args.model_name, args.n_classes, im_size=args.im_size)
    model.to(device, memory_format=torch.channels_last)
    images, _ = decoded(args, pin=device.type == 'cuda')
    if data == 'device data':
        copy_to_device([images], device, max(args.num_workers, 1))
    loader = with_batch_size(get_eval_loader(images, device=device), rates.get('eval_batch_size', EVAL_FACTOR * args.batch_size))
    normalise = Normalise(device, mean, std)
    for _ in range(2):
        start = time.perf_counter()
        predict(model, loader, normalise, accelerator.autocast)
        seconds = time.perf_counter() - start
    rate = len(images) / seconds
    return Found(f'{rate:,.0f} images/s in batches of {loader.batch_size}, peak memory {peak_gb():.1f} GB',
                 {'images_per_second': rate, 'eval_batch_size': loader.batch_size, 'peak_gb': peak_gb()})


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
    ours = rates.get(('Balanced-MixUp', 'device data'))
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
