"""GPU tests: results must match those of the CPU, and features that only a GPU has must work.

LT_TEST_DEVICE=cuda runs these tests on the GPU, and LT_TEST_DEVICE=cpu rehearses them on the CPU. Each test reports its measured value as
the property 'figure'. With pytest -n 5 --dist loadscope, each class runs in one process and creates its shared fixtures only once.
"""
import contextlib
import gc
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch

import train_lt_mxp
from models.get_model import ARCHS, as_arch
from test_with_labels_eyepacs import DEFAULTS
from tests.cpu_as_gpu import count_cpu_as_gpu
from tests.environment import DEVICE
from tests.factories import ROOT, new_accelerator, picture, train_flags, write_images
from tools import check_data, export_model, predict
from train_lt_mxp import get_parser
from train_lt_mxp import main as train_main
from utils.common import run_script
from utils.data import near_duplicates
from utils.data.device_images import DeviceArray
from utils.data.near_duplicates import scan_image
from utils.data.prefetch import prefetch
from utils.get_loaders import EVAL_FACTOR
from utils.losses import LOSSES
from utils.model_saving_loading import digest, read_checkpoint
from utils.prediction.accelerator import build_accelerator
from utils.reproducibility import set_seeds
from utils.testing import new_images, scoring
from utils.training import engine, placement
from utils.training.augmentation import AUGMENT
from utils.training.data import load_data
from utils.training.engine import train_one_epoch
from utils.training.flags import resolve
from utils.training.mixing import MIXING
from utils.training.network import build_network
from utils.training.placement import place_data
from utils.training.plan import TrainingPlan
from utils.training.signals import StopSignal
from utils.training.state import TrainState

if DEVICE is None:
    pytest.skip('needs a GPU: LT_TEST_DEVICE=cuda python -m pytest tests/test_cuda.py', allow_module_level=True)
if DEVICE == 'cuda' and not torch.cuda.is_available():
    pytest.skip('PyTorch finds no CUDA device; to rehearse on the CPU: LT_TEST_DEVICE=cpu python -m pytest tests/test_cuda.py',
                allow_module_level=True)

TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def full_precision():
    """Disable TF32 and the cuDNN benchmark, and give each test a new accelerator."""
    flags = [(torch.backends.cudnn, 'benchmark'), (torch.backends.cudnn, 'allow_tf32'), (torch.backends.cuda.matmul, 'allow_tf32')]
    before = [getattr(owner, name) for owner, name in flags]
    for owner, name in flags:
        setattr(owner, name, False)
    with new_accelerator():
        yield
    for (owner, name), value in zip(flags, before, strict=True):
        setattr(owner, name, value)


@pytest.fixture(scope='module', autouse=True)
def own_memory():
    """In a rehearsal, let the CPU count as a device with memory of its own."""
    with pytest.MonkeyPatch.context() as m:
        if DEVICE == 'cpu':
            count_cpu_as_gpu(m)
        yield


def allow_waiting(allowed):
    """Whether the CPU may wait for the device, or an error is raised if it does. Has no effect in a rehearsal."""
    if DEVICE == 'cuda':
        torch.cuda.set_sync_debug_mode('default' if allowed else 'error')


@contextlib.contextmanager
def no_waiting():
    allow_waiting(False)
    try:
        yield
    finally:
        allow_waiting(True)


@pytest.fixture
def figure(record_property):
    return lambda text: record_property('figure', text)


def train_in(folder, tiny, flags):
    """Run the training script in `folder`. -> the run folder"""
    with pytest.MonkeyPatch.context() as m, new_accelerator():
        m.chdir(folder)
        args = get_parser().parse_args(train_flags(tiny, f'--device {DEVICE} {flags}'))
        train_main(args)
    return folder / 'experiments' / args.save_path


def log_of(run):
    return [json.loads(line) for line in (run / 'log.jsonl').read_text().splitlines()]


def weights_of(run):
    return read_checkpoint(str(run / 'last'))['state_dict']


def largest_difference(a, b):
    """-> largest absolute difference between two dictionaries of tensors with the same keys"""
    assert a.keys() == b.keys()
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


# Runs in separate processes. They all start at the beginning, because starting takes long.

# argv: the flags of each run. The prefix 'stop' sends SIGTERM in the third batch of the second epoch.
CODE = '''
import os, signal, sys
import pytest
from tests import tiny_network
from tests.cpu_as_gpu import count_cpu_as_gpu
from train_lt_mxp import get_parser, main
from utils.common import Interrupted
from utils.training import engine
import torch
tiny_network.register()
backward = engine.backward

def strike(state, epoch, *args):
    if (epoch.number, epoch.batches) == (1, 3):
        signal.raise_signal(signal.SIGTERM)
    return backward(state, epoch, *args)

if os.environ['LT_TEST_DEVICE'] == 'cpu':
    count_cpu_as_gpu(pytest.MonkeyPatch())
for flags in sys.argv[1:]:
    engine.backward = strike if flags.startswith('stop ') else backward
    try:
        main(get_parser().parse_args(flags.removeprefix('stop ').split()))
    except Interrupted as end:
        print('stopped by', end)
print('backend', torch.distributed.get_backend() if torch.distributed.is_initialized() else None)
'''
LIMIT = 90 if DEVICE == 'cuda' else None  # seconds; benchmarks/gpu_check.sh allows two minutes for the whole file
TORCHRUN = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '1']
DETERMINISTIC = '--deterministic --n_epochs 2 --do_mixup 0.2 --ema 0.9 --momentum 0.9'
REPEATED = f'{DETERMINISTIC} --model_name mobilenetV2 --no_cache'
FIRST = f'{REPEATED} --save_path first'
SECOND = (f'{REPEATED} --save_path second', f'stop {REPEATED} --save_path stopped', f'{REPEATED} --save_path stopped --resume')
PLACES = (f'{DETERMINISTIC} --save_path decoded --no_cache', f'{DETERMINISTIC} --save_path device',
          f'{DETERMINISTIC} --save_path host --data_device host', f'stop {DETERMINISTIC} --save_path moved --data_device host',
          f'{DETERMINISTIC} --save_path moved --resume')


class Started:
    """A running process. `output()` waits until it ends."""

    def __init__(self, folder, tiny, launcher, *lines):
        (folder / 'code.py').write_text(CODE)
        runs = [' '.join(['stop'] * line.startswith('stop ') + train_flags(tiny, f"--device {DEVICE} {line.removeprefix('stop ')}"))
                for line in lines]
        self.process = subprocess.Popen([sys.executable, *launcher, 'code.py', *runs], cwd=folder, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True, env=os.environ | {'PYTHONPATH': str(ROOT)})
        self.text = None

    def output(self):
        if self.text is None:
            try:
                self.text = self.process.communicate(timeout=LIMIT)[0]
            except subprocess.TimeoutExpired:
                pytest.fail(f'the process did not end within {LIMIT} s')
            print(self.text)
        errors = re.findall(r'.*[Ee]rror: .*', self.text)
        assert self.process.returncode == 0, (errors or ['see its output'])[0]
        return self.text


@pytest.fixture(scope='module')
def started(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp('processes')
    if DEVICE == 'cuda':
        begun = {'torchrun': Started(folder, tiny, TORCHRUN, '--save_path torchrun'), 'first': Started(folder, tiny, [], FIRST),
                 'second': Started(folder, tiny, [], *SECOND), 'places': Started(folder, tiny, [], *PLACES)}
    else:  # one process for all, because in a rehearsal starting four takes too long
        begun = dict.fromkeys(('torchrun', 'first', 'second', 'places'),
                              Started(folder, tiny, TORCHRUN, '--save_path torchrun', FIRST, *SECOND, *PLACES))
    yield folder / 'experiments', begun
    for each in begun.values():  # leave no process behind if a test fails; torchrun ends its children
        each.process.terminate()
        each.process.wait()
        each.process.stdout.close()


TRAINED = {'state_dict', 'trained', 'n_averaged', 'optimizer', 'training_loss'}  # unlike scores, they do not depend on the evaluation batch


def content(run, names=None):
    """-> digest of the last checkpoint of a run, and its log without times, or only their values called `names`"""
    def chosen(values, *without):
        return {key: value for key, value in values.items() if key not in without and (names is None or key in names)}
    state = chosen(read_checkpoint(str(run / 'last')), 'config', 'folder', 'checksum')
    assert names is None or len(state) == len(names) - 1
    return digest(state), [chosen(record, 'seconds', 'images_per_second') for record in log_of(run)]


def check_same(a, b):
    """Check that weights, moving average, optimizer and schedule state, and log of two runs are identical bit for bit."""
    assert content(a) == content(b)


@pytest.fixture(scope='module', autouse=True)
def start_early(request):
    """Start the processes first, so that without pytest-xdist they start while other tests run."""
    if not hasattr(request.config, 'workerinput') and any('started' in item.fixturenames for item in request.session.items):
        request.getfixturevalue('started')


# One training step on the device and on the CPU, with the same weights and images.

@pytest.fixture(scope='module')
def eight(tmp_path_factory):
    """Eight training images, so that an epoch is one step."""
    return write_images(tmp_path_factory.mktemp('eight'), {'train': (4, 2, 2), 'val': (1, 1, 1)})


def args_of(data, flags):
    args = get_parser().parse_args(train_flags(data, f'--batch_size 8 --no_cache {flags}'))
    args = resolve(args)
    return args


def parts_of(args, device):
    """-> accelerator, network, plan and data of a training on `device`, without dropout, whose random numbers depend on the device"""
    accelerator = build_accelerator(device, 'fp32')
    set_seeds(args.seed)
    network = build_network(args, accelerator)
    for module in network.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.
    data = load_data(args, accelerator, network.stage_one)
    network.to(accelerator)
    return accelerator, network, TrainingPlan(args, data, network), data


def one_step(args, device):
    """-> loss of the batch, parameters before the step, parameters and BatchNorm statistics after it"""
    with new_accelerator():
        accelerator, network, plan, _ = parts_of(args, device)
        state = TrainState(args, network, accelerator, plan.n_steps)
        before = {name: value.detach().cpu().clone() for name, value in network.model.named_parameters()}
        stats = train_one_epoch(state, plan.epoch(0), accelerator, StopSignal())
        return stats['training_loss'], before, {name: value.cpu() for name, value in network.model.state_dict().items()}


LOSS_FLAGS = {'SEQL': '--loss_params lam=0.3 gamma=1',  # always leaves out two classes, without random numbers
              'LDAM': '--lr 0.05'}  # gives a step of the same size as the others
STEPS = {f'{loss}, {mixing}': f'--loss_fn {loss} --mixing {mixing} {LOSS_FLAGS.get(loss, "")}'
         for loss in LOSSES for mixing in ('none', 'balanced_mixup')}
STEPS |= {f'CE, {mixing}': f'--mixing {mixing}' for mixing in MIXING}
# Devices differ in the last digit, and rounding to bytes can amplify this. With this seed it does not happen.
SEEDS = {'randaugment': '--seed 78'}
STEPS |= {f'augment {name}': f'--augment {name} {SEEDS.get(name, "")}' for name in AUGMENT}


class TestSteps:
    """One training step and its batch."""

    @pytest.mark.parametrize('flags', STEPS.values(), ids=STEPS)
    def test_a_training_step_equals_the_cpus(self, eight, figure, flags):
        args = args_of(eight, f'--lr 0.5 {flags}')
        (loss, before, after), (expected_loss, expected_before, expected) = (one_step(args, device) for device in (DEVICE, 'cpu'))
        assert largest_difference(before, expected_before) == 0
        step = largest_difference(before, {name: expected[name] for name in before})
        difference = largest_difference(after, expected)
        figure(f'largest difference {difference:.1g} in a step of {step:.2g}, of the loss {abs(loss - expected_loss):.1g}')
        assert difference <= TOLERANCE and abs(loss - expected_loss) <= TOLERANCE and step > 100 * TOLERANCE

    @pytest.mark.parametrize('flags', [*(f'--augment {name}' for name in AUGMENT), '--mixing balanced_mixup'])
    def test_preparing_a_batch_waits_for_the_device_nowhere(self, eight, figure, flags):
        if DEVICE == 'cpu':
            pytest.skip('the CPU has no device to wait for')
        epoch = parts_of(args_of(eight, flags), DEVICE)[2].epoch(0)
        prepare, batch = epoch.transform, next(iter(epoch.loader))
        prepare(batch)  # loads the kernels
        with no_waiting():
            for number in range(20):  # each draws other operations
                prepare.set_epoch(number)
                prepare(batch)
        figure('20 batches')


# Images in the memory of the device, or copied ahead.

def placed_parts(tiny, flags=''):
    """-> accelerator, plan, state and data of a training on the device, with its images where they belong"""
    args = resolve(get_parser().parse_args(train_flags(tiny, flags)))
    accelerator, network, plan, data = parts_of(args, DEVICE)
    state = TrainState(args, network, accelerator, plan.n_steps)
    return accelerator, plan, state, place_data(data, plan, state, accelerator)


def pixels_of(data, image_ids):
    """-> the images of the dataset `data` with these ids, from their files: uint8 (B, 3, H, W)"""
    return torch.stack([data.decode(data.image_ids.index(image_id)) for image_id in image_ids])


def deep_network(n_classes, pretrained, im_size):
    """Training keeps the outputs of all its layers, evaluation only the last ones."""
    layers = [layer for _ in range(120) for layer in (torch.nn.BatchNorm2d(8), torch.nn.ReLU())]
    features = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), *layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    return as_arch(torch.nn.Sequential(features, torch.nn.Linear(8, n_classes)), n_classes, '1')


EPOCHS = [' '.join(flags) for flags in itertools.product(('--data_device auto', '--data_device host'), ('', '--do_mixup 0.2'),
                                                         ('', '--ema 0.9'))]


class TestImages:
    """Where the images are, and how batches get to the network."""

    def test_images_that_fit_are_on_the_device(self, tiny, capsys, figure):
        _, plan, _, data = placed_parts(tiny)
        line = re.search(r'\* Data: (31 images \(0\.1 MB\) in GPU memory, .*)', capsys.readouterr().out)
        assert line and data.train.cache.words.device.type == data.val.cache.words.device.type == DEVICE
        figure(line[1])
        (images, _, image_ids), = next(iter(plan.epoch(0).loader))
        assert images.device.type == DEVICE and torch.equal(images.cpu(), pixels_of(data.train, image_ids))

    def test_images_that_do_not_fit_are_copied_ahead(self, tiny, monkeypatch, capsys, figure):
        monkeypatch.setattr(placement, 'MARGIN', 1.)
        _, plan, _, data = placed_parts(tiny)
        line = re.search(r'\* Data: (31 images \(0\.1 MB\) in host memory: a training step leaves only .*)', capsys.readouterr().out)
        assert line and not isinstance(data.train.cache, DeviceArray)
        figure(line[1])
        (images, labels, image_ids), = next(iter(plan.epoch(0).loader))
        assert images.device.type == labels.device.type == DEVICE and torch.equal(images.cpu(), pixels_of(data.train, image_ids))

    def test_batches_are_copied_correctly_while_the_device_is_busy(self, figure):
        device = build_accelerator(DEVICE, 'fp32').device
        batches = [(torch.randint(0, 256, (8, 3, 256, 256), dtype=torch.uint8), torch.arange(8) + i, [str(i)] * 8) for i in range(8)]
        if DEVICE == 'cuda':
            torch.cuda._sleep(2 * 10 ** 9)  # cycles, about a second: the clones below wait for its end, and the copies ahead do not
        with no_waiting():
            clones = [(images.clone(), labels.clone(), ids) for images, labels, ids in prefetch(iter(batches), device)]
        busy = DEVICE == 'cuda' and not torch.cuda.current_stream().query()
        figure(f"{len(clones)} batches, device {'still busy' if busy else 'idle'} after the last one")
        for (images, labels, ids), (expected_images, expected_labels, expected_ids) in zip(clones, batches, strict=True):
            assert images.device.type == DEVICE and ids == expected_ids
            assert torch.equal(images.cpu(), expected_images) and torch.equal(labels.cpu(), expected_labels)

    @pytest.mark.parametrize('flags', EPOCHS, ids=lambda flags: ' '.join(flags.split()))
    def test_training_steps_wait_for_the_device_nowhere(self, tiny, monkeypatch, figure, flags):
        accelerator, plan, state, _ = placed_parts(tiny, f'--batch_size 2 --n_epochs 2 {flags}')
        monkeypatch.setattr(engine, 'CHECK_EVERY', 10 ** 9)
        train_one_epoch(state, plan.epoch(0), accelerator, StopSignal())  # loads the kernels
        epoch = plan.epoch(1)
        # called after the last step, before the loss is read
        monkeypatch.setattr(engine, 'check_finite', lambda *args: allow_waiting(True))
        with no_waiting():
            train_one_epoch(state, epoch, accelerator, StopSignal())
        assert epoch.batches == 11
        if DEVICE == 'cpu':
            pytest.skip('the CPU has no device to wait for')
        figure(f'{epoch.batches} steps')

    def test_evaluation_batches_take_no_more_memory_than_a_training_step(self, tiny, figure):
        if DEVICE == 'cpu':
            pytest.skip('needs the memory statistics of a GPU')
        with mock.patch.dict(ARCHS, {'deep': deep_network}):
            accelerator, plan, state, data = placed_parts(tiny, '--model_name deep --im_size 256 --batch_size 8')
        usual, size = EVAL_FACTOR * 8, data.val_loader.batch_size

        def evaluate():
            state.trained.eval()
            with torch.inference_mode():
                state.trained(plan.plain.normalise(torch.zeros(size, 3, 256, 256, dtype=torch.uint8, device=accelerator.device)))
        step = placement.peak_of(lambda: placement.train_once(state.trained, data, plan, accelerator), accelerator.device)
        evaluation = placement.peak_of(evaluate, accelerator.device)
        figure(f'{size} images ({evaluation / 1e6:.0f} MB) instead of {usual}; a training step of 8 takes {step / 1e6:.0f} MB')
        assert size > usual and evaluation <= 1.1 * step


# Use runs of the device on the CPU, and the other way round.

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('runs')


@pytest.fixture(scope='module')
def stage_one(tiny, folder):
    return train_in(folder, tiny, '--save_path one --do_mixup 0.2 --n_epochs 2')


@pytest.fixture(scope='module')
def stage_two(tiny, folder, stage_one):
    return train_in(folder, tiny, f'--save_path two --pretrained_weights {stage_one} --loss_fn BSCE --n_epochs 2')


def predictions_of(load_path, tiny, folder, device):
    """Run the test script on `device`. -> the predictions, and the folder of its results"""
    with new_accelerator():
        scoring.main('', **DEFAULTS, argv=f'--load_path {load_path} --csv_test {tiny}/test.csv --data_path {tiny}/images --num_workers 0 '
                                           f'--device {device} --results_path {folder / device}'.split())
    path, = (folder / device).rglob('results_test.csv')
    return pd.read_csv(path), path.parent


class TestRuns:
    """Whole runs in this process."""

    def test_both_stages_and_the_test_script(self, tiny, stage_one, stage_two, tmp_path, figure):
        table, results = predictions_of(stage_two, tiny, tmp_path, DEVICE)
        for run in (stage_one, stage_two):
            config = json.loads((run / 'config.cfg').read_text())
            assert config['device_type'] == DEVICE and (run / 'val_metrics.txt').exists()
        assert len(table) == 8 and (results / 'performance_test.txt').exists()
        figure(f"device_type {config['device_type']}, {config['mixed_precision'].replace('no', 'fp32')}")

    def test_balanced_mixup_with_a_moving_average_and_growing_images(self, tiny, folder, figure):
        run = train_in(folder, tiny, '--save_path grown --do_mixup 0.2 --ema 0.9 --grow_from 0.5 --augment zoom --schedule onecycle '
                                     '--n_epochs 3')
        losses = [record['training_loss'] for record in log_of(run)]
        assert (run / 'val_metrics.txt').exists() and len(losses) == 3 and np.isfinite(losses).all()
        figure(f"training losses {', '.join(f'{loss:.3f}' for loss in losses)}")

    def test_bf16_learns(self, tiny, folder, figure):
        run = train_in(folder, tiny, '--save_path bf16 --precision bf16 --n_epochs 8 --optimizer adamw --lr 0.02 --metric bacc')
        best = max(record['val']['bacc'] for record in log_of(run))
        assert json.loads((run / 'config.cfg').read_text())['mixed_precision'] == 'bf16'
        figure(f'balanced accuracy {best:.2f}, by chance 0.33')
        assert best > .7

    def test_frozen_features_give_the_result_of_the_images(self, tiny, folder, stage_one, monkeypatch, capsys, figure):
        monkeypatch.setattr(train_lt_mxp, 'set_backends', lambda *args, **kwargs: None)  # set_backends would enable TF32
        flags = (f'--pretrained_weights {stage_one} --trainable classifier --augment none --n_epochs 2 --lr 0.1 --momentum 0.9 '
                 '--precision fp32')
        fast = train_in(folder, tiny, f'{flags} --save_path fast')
        assert 'features of 31 images were computed once' in capsys.readouterr().out
        monkeypatch.setattr(train_lt_mxp, 'can_cache_features', lambda args: False)
        difference = largest_difference(weights_of(fast), weights_of(train_in(folder, tiny, f'{flags} --save_path slow')))
        figure(f'largest difference {difference:.1g}')
        assert difference <= TOLERANCE

    def test_export(self, stage_two, tmp_path, capsys, figure):
        pytest.importorskip('onnxruntime')
        pytest.importorskip('onnxscript')
        export_model.main(['--load_path', str(stage_two), '--out', str(tmp_path)])
        figure(f"largest difference of ONNX {re.search('PyTorch by at most ([^ ]*) ', capsys.readouterr().out)[1]}")
        assert {path.name for path in tmp_path.iterdir()} == {'model.onnx', 'model.safetensors', 'model.json'}

    def test_full_memory_is_one_line(self, tiny, folder, monkeypatch, figure):
        def starved(*args):
            if DEVICE == 'cpu':
                raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has no more.')
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(0.)  # fails, since the batch is larger than the cached memory
            return train_one_epoch(*args)
        train_one_epoch = train_lt_mxp.train_one_epoch
        monkeypatch.setattr(train_lt_mxp, 'train_one_epoch', starved)
        try:
            with pytest.raises(SystemExit) as stop:
                run_script(lambda: train_in(folder, tiny, '--save_path full --im_size 512 --batch_size 8'))
        finally:
            if DEVICE == 'cuda':
                torch.cuda.set_per_process_memory_fraction(1.)
        figure(stop.value.code)
        assert re.fullmatch(r'error: GPU memory is full, [\d.]+ [KMG]iB more were needed: use a --batch_size below 8, or the same one with '
                            '--accumulate 2, and --overwrite to start again', stop.value.code)


@pytest.fixture(scope='module', params=['tiny_test', 'mobilenetV2'])
def checkpoint(request, tiny, tmp_path_factory):
    """A run on the CPU. A large BatchNorm momentum adapts its statistics in a few batches; otherwise all predictions would be equal."""
    def build(*args):
        arch = original(*args)
        for module in arch.model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = .9
        return arch
    original = ARCHS[request.param]
    with mock.patch.dict(ARCHS, {request.param: build}):
        return train_in(tmp_path_factory.mktemp(request.param), tiny, f'--model_name {request.param} --device cpu --n_epochs 3 --lr 0.05')


class TestComparisons:
    """Predictions, heat maps and duplicates on the device and on the CPU."""

    def test_predictions_equal_the_cpus(self, checkpoint, tiny, tmp_path, figure):
        ours, expected = (predictions_of(checkpoint, tiny, tmp_path, device)[0].select_dtypes('float') for device in (DEVICE, 'cpu'))
        difference = (ours - expected).abs().to_numpy().max()
        figure(f'largest difference {difference:.1g}')
        assert ours.shape == expected.shape and difference <= 1e-3 and expected.std().max() > .02

    def test_heat_maps_equal_the_cpus(self, checkpoint, tiny, tmp_path, monkeypatch, figure):
        maps, grad_cam = [], new_images.grad_cam
        monkeypatch.setattr(new_images, 'grad_cam', lambda *args: maps.append(grad_cam(*args)) or maps[-1])
        heat = []
        for device in (DEVICE, 'cpu'):
            with new_accelerator():
                predict.main(f'--load_path {checkpoint} {tiny}/images/test_0_0.jpg {tiny}/images/test_1_0.jpg --gradcam --num_workers 0 '
                             f'--device {device} --results_path {tmp_path / device}'.split())
            assert maps[-1].device.type == device and len(list((tmp_path / device).rglob('gradcam/*.jpg'))) == 2
            heat.append(maps[-1].cpu())
        difference = (heat[0] - heat[1]).abs().max().item()
        figure(f'largest difference {difference:.1g} of 1')
        assert heat[1].amax((1, 2)).min() == 1 and difference <= 1e-2

    def test_the_search_for_duplicates_finds_the_pairs_of_the_cpu(self, tmp_path, monkeypatch, figure):
        images = [picture(seed) for seed in range(12)]
        images += [images[0].rotate(90, expand=True), images[3].resize((80, 60)), images[5].transpose(0), images[7].convert('L')]
        for i, image in enumerate(images):
            image.convert('RGB').save(tmp_path / f'{i}.jpg')
        pd.DataFrame({'image_id': range(16), 'label': 0}).to_csv(tmp_path / 'all.csv', index=False)
        monkeypatch.setattr(near_duplicates, 'scan_images', lambda paths, n_processes: [scan_image(path) for path in paths])

        def pairs():
            with pytest.raises(SystemExit):
                check_data.main(f'{tmp_path}/all.csv --data_path {tmp_path} --out {tmp_path}/pairs.csv'.split())
            table = pd.read_csv(tmp_path / 'pairs.csv')[['image_a', 'image_b']]
            return [[int(Path(path).stem) for path in row] for row in table.to_numpy()]
        found = pairs()
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
        figure(f'{len(found)} pairs of 16 images')
        assert found == pairs() == [[0, 12], [3, 13], [5, 14], [7, 15]]


class TestProcesses:
    """Runs in separate processes."""

    def test_a_deterministic_run_repeats_bit_for_bit(self, started, figure):
        experiments, begun = started
        begun['first'].output(), begun['second'].output()
        check_same(experiments / 'first', experiments / 'second')
        figure(f"training loss {log_of(experiments / 'first')[-1]['training_loss']:.6f} twice")

    def test_a_deterministic_run_resumes_bit_for_bit(self, started, figure):
        experiments, begun = started
        stopped = re.search(r'Resuming \S+ after epoch 1, batch (\d)', begun['second'].output())
        begun['first'].output()
        check_same(experiments / 'first', experiments / 'stopped')
        figure(f'stopped after batch {stopped[1]} of 5 in epoch 2')

    @pytest.mark.parametrize('place', ['device', 'host', 'moved'])
    def test_training_is_the_same_bit_for_bit_wherever_the_images_are(self, started, figure, place):
        experiments, begun = started
        text = begun['places'].output()
        expected, found = (content(experiments / run, TRAINED) for run in ('decoded', place))
        assert found == expected
        figure(re.findall(r'\* Data: 31 images \(0\.1 MB\) (in \w+ memory)', text)[{'device': -4, 'host': -3, 'moved': -1}[place]])

    def test_torchrun_trains(self, started, figure):
        experiments, begun = started
        backend = re.search('backend (.*)', begun['torchrun'].output())[1]
        assert backend == {'cuda': 'nccl', 'cpu': 'gloo'}[DEVICE] and (experiments / 'torchrun' / 'val_metrics.txt').exists()
        figure(f'one process over {backend}')
