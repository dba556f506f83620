"""GPU tests: results must match those of the CPU, and features that only a GPU has must work.

LT_TEST_DEVICE=cuda runs these tests on the GPU, and LT_TEST_DEVICE=cpu rehearses them on the CPU. Each test reports its measured value as
the property 'figure'. With pytest -n 4 --dist loadscope, each class runs in one process and creates its shared fixtures only once.
"""
import gc
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
from models.get_model import ARCHS
from test_with_labels_eyepacs import DEFAULTS
from tests.environment import DEVICE
from tests.factories import ROOT, new_accelerator, picture, train_flags, write_images
from tools import check_data, export_model, predict
from train_lt_mxp import get_parser
from train_lt_mxp import main as train_main
from utils.common import run_script
from utils.data import near_duplicates
from utils.data.near_duplicates import scan_image
from utils.losses import LOSSES
from utils.model_saving_loading import digest, read_checkpoint
from utils.prediction.accelerator import build_accelerator
from utils.reproducibility import set_seeds
from utils.testing import scoring
from utils.training.augmentation import AUGMENT
from utils.training.data import load_data
from utils.training.engine import train_one_epoch
from utils.training.flags import resolve
from utils.training.mixing import MIXING
from utils.training.network import build_network
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
import signal, sys
from tests import tiny_network
from train_lt_mxp import get_parser, main
from utils.common import Interrupted
from utils.training.mixing import BalancedMixUp
import torch
tiny_network.register()
prepare, calls = BalancedMixUp.__call__, []

def strike(*args):
    calls.append(1)
    if len(calls) == 5 + 3:
        signal.raise_signal(signal.SIGTERM)
    return prepare(*args)

for flags in sys.argv[1:]:
    stop, flags = flags.startswith('stop '), flags.removeprefix('stop ')
    BalancedMixUp.__call__ = strike if stop else prepare
    try:
        main(get_parser().parse_args(flags.split()))
    except Interrupted as end:
        print('stopped by', end)
print('backend', torch.distributed.get_backend() if torch.distributed.is_initialized() else None)
'''
LIMIT = 90 if DEVICE == 'cuda' else None  # seconds; benchmarks/gpu_check.sh allows two minutes for the whole file
TORCHRUN = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '1']
DETERMINISTIC = '--deterministic --model_name mobilenetV2 --n_epochs 2 --do_mixup 0.2 --ema 0.9 --momentum 0.9'


class Started:
    """A running process. `output()` waits until it ends."""

    def __init__(self, folder, tiny, launcher, *lines):
        (folder / 'code.py').write_text(CODE)
        words = [' '.join(train_flags(tiny, f'--device {DEVICE} --no_cache {line}')) for line in lines]
        stops = ['stop ' * line.endswith('--save_path stopped') + word for line, word in zip(lines, words, strict=True)]
        self.process = subprocess.Popen([sys.executable, *launcher, 'code.py', *stops], cwd=folder, stdout=subprocess.PIPE,
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
    stopped = f'{DETERMINISTIC} --save_path stopped'
    first, *more = (f'{DETERMINISTIC} --save_path first', f'{DETERMINISTIC} --save_path second', stopped, f'{stopped} --resume ')
    if DEVICE == 'cuda':
        begun = {'torchrun': Started(folder, tiny, TORCHRUN, '--save_path torchrun'), 'first': Started(folder, tiny, [], first),
                 'second': Started(folder, tiny, [], *more)}
    else:  # one process for all, because in a rehearsal starting three takes too long
        begun = dict.fromkeys(('torchrun', 'first', 'second'), Started(folder, tiny, TORCHRUN, '--save_path torchrun', first, *more))
    yield folder / 'experiments', begun
    for each in begun.values():  # leave no process behind if a test fails; torchrun ends its children
        each.process.terminate()
        each.process.wait()
        each.process.stdout.close()


def check_same(a, b):
    """Check that weights, moving average, optimizer and schedule state, and log of two runs are identical bit for bit."""
    def content(run):
        state = read_checkpoint(str(run / 'last'))
        log = [{key: value for key, value in record.items() if key not in ('seconds', 'images_per_second')} for record in log_of(run)]
        return digest({key: value for key, value in state.items() if key not in ('config', 'folder')}), log
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
    """-> accelerator, network and plan of a training on `device`, without dropout, because its random numbers depend on the device"""
    accelerator = build_accelerator(device, 'fp32')
    set_seeds(args.seed)
    network = build_network(args, accelerator)
    for module in network.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.
    data = load_data(args, accelerator, network.stage_one)
    network.to(accelerator)
    return accelerator, network, TrainingPlan(args, data, network)


def one_step(args, device):
    """-> loss of the batch, parameters before the step, parameters and BatchNorm statistics after it"""
    with new_accelerator():
        accelerator, network, plan = parts_of(args, device)
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
        assert batch[0][0].is_pinned()
        prepare(batch)  # loads the kernels
        torch.cuda.set_sync_debug_mode('error')
        try:
            for number in range(20):  # each draws other operations
                prepare.set_epoch(number)
                prepare(batch)
        finally:
            torch.cuda.set_sync_debug_mode('default')
        figure('20 batches')


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
        assert ours.shape == expected.shape and difference <= 1e-3 and expected.std().max() > .1

    def test_heat_maps_equal_the_cpus(self, checkpoint, tiny, tmp_path, monkeypatch, figure):
        maps, grad_cam = [], predict.grad_cam
        monkeypatch.setattr(predict, 'grad_cam', lambda *args: maps.append(grad_cam(*args)) or maps[-1])
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

    def test_torchrun_trains(self, started, figure):
        experiments, begun = started
        backend = re.search('backend (.*)', begun['torchrun'].output())[1]
        assert backend == {'cuda': 'nccl', 'cpu': 'gloo'}[DEVICE] and (experiments / 'torchrun' / 'val_metrics.txt').exists()
        figure(f'one process over {backend}')
