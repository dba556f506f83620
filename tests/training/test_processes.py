"""Two processes on the CPU give the same run as one; the train script runs under torchrun."""
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.factories import ROOT, new_accelerator, write_images
from train_lt_mxp import get_parser
from train_lt_mxp import main as train_main
from utils.common import InputError
from utils.model_saving_loading import digest, read_checkpoint

TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2']
ENVIRONMENT = os.environ | {'PYTHONPATH': str(ROOT)}

# Starting two processes takes far longer than a tiny training, so one start trains all runs. argv: the flags of each run; with the prefix
# 'gpu', the CPU counts as a GPU, whose memory is full in process 1 if the run is called 'full'.
TRAIN = '''
import os, sys
import pytest
from tests import tiny_network
from tests.cpu_as_gpu import GB, count_cpu_as_gpu
from train_lt_mxp import get_parser, main
from utils.common import run_script
tiny_network.register()
for flags in sys.argv[1:]:
    with pytest.MonkeyPatch.context() as m:
        if flags.startswith('gpu '):
            count_cpu_as_gpu(m, left=0 if '--save_path full' in flags and os.environ['RANK'] == '1' else 7 * GB)
        run_script(lambda: main(get_parser().parse_args(flags.removeprefix('gpu ').split())))
'''
# The first run crashes between two epochs. In the second run, one process gets SIGTERM in the third batch of the second epoch.
BREAK = '''
import os, signal, sys
from tests import tiny_network
from train_lt_mxp import get_parser, main
from utils.common import run_script
from utils.training.mixing import MixUp
from utils.training.run_folder import RunFolder
tiny_network.register()
end_epoch, mix, calls = RunFolder.end_epoch, MixUp.mix, []

def dying(run, *args):
    end_epoch(run, *args)
    assert len(run.history) < 2, 'crash'

def strike(*args, **options):
    calls.append(1)
    if os.environ['RANK'] == '1' and len(calls) == 12 + 3:
        os.kill(os.getpid(), signal.SIGTERM)
    return mix(*args, **options)

crashing, preempted = (get_parser().parse_args(flags.split()) for flags in sys.argv[1:])
RunFolder.end_epoch = dying
try:
    main(crashing)
except AssertionError:
    print('crashed')
RunFolder.end_epoch, MixUp.mix = end_epoch, strike
run_script(lambda: main(preempted))
'''
STAGE_TWO = ('--pretrained_weights experiments/one --trainable classifier --n_epochs 3 --momentum 0.9 --lr 0.1 --train_eval full '
             '--precision fp32')
METHODS = {  # name -> flags, and additional flags for the same run in one process
    'balanced': ('--do_mixup 0.2 --augment none', ''), 'bsce': ('--loss_fn BSCE --augment none', '--accumulate 2'),
    'mixup': ('--mixing mixup --augment rotate', ''), 'cutmix': ('--mixing cutmix --augment randaugment --sampling class', ''),
    'remix': ('--mixing remix --augment trivial --accumulate 2', '')}
CUT = '--n_epochs 3 --sampling class --momentum 0.9 --ema 0.9'
ON_GPU = ('on_device', 'full')
PREEMPTED = '--n_epochs 3 --ema 0.9 --mixing mixup'


def flags_of(name, flags, data='tiny'):
    return (f'--csv_train {data}/train.csv --data_path {data}/images --n_classes 3 --im_size 32 --model_name tiny_test --init none '
            f'--batch_size 8 --num_workers 0 --device cpu --metric mcc --save_path {name} {flags}')


def start(folder, code, runs):
    """Train `runs`, {name: flags}, in two processes."""
    (folder / 'code.py').write_text(code)
    lines = ['gpu ' * (name in ON_GPU) + flags_of(name, flags, data='more' if PREEMPTED in flags else 'tiny')
             for name, flags in runs.items()]
    return subprocess.run([*TORCHRUN, 'code.py', *lines], cwd=folder, capture_output=True, text=True, env=ENVIRONMENT)


def log_of(folder, name):
    return [json.loads(line) for line in (folder / 'experiments' / name / 'log.jsonl').read_text().splitlines()]


def last_weights(folder, name):
    return read_checkpoint(str(folder / 'experiments' / name / 'last'))['state_dict']


def is_finished(folder, name):
    return (folder / 'experiments' / name / 'val_metrics.txt').exists()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('processes')
    write_images(folder / 'tiny')
    write_images(folder / 'more', {'train': (48, 32, 16), 'val': (3, 3, 3)})  # 12 batches per epoch
    return folder


@pytest.fixture(scope='module')
def trained(folder):
    """All uninterrupted runs, in two processes, and a run with an invalid batch size. Stage one uses everything that has a state."""
    runs = {'one': '--n_epochs 2 --do_mixup 0.2 --ema 0.9 --schedule onecycle --train_eval full', 'short': '--n_epochs 1'}
    runs |= {name: f'{STAGE_TWO} {flags}' for name, (flags, _) in METHODS.items()}
    runs |= {'whole': CUT, 'unbroken': PREEMPTED} | dict.fromkeys(ON_GPU, CUT)
    done = start(folder, TRAIN, runs | {'unequal': '--batch_size 3'})
    assert all(is_finished(folder, name) for name in runs), done.stderr
    return done


def test_only_the_first_process_prints_and_writes(folder, trained):
    assert len(log_of(folder, 'one')) == 2 and trained.stdout.count('Epoch 1/1') == 1


@pytest.mark.parametrize('name', ON_GPU)
def test_images_on_the_device_give_the_same_weights(folder, trained, name):
    assert digest(last_weights(folder, name)) == digest(last_weights(folder, 'whole'))


def test_images_stay_on_the_host_if_they_do_not_fit_in_every_process(trained):
    assert re.findall(r'images \(0.1 MB\) in (\w+) memory', trained.stdout) == ['GPU', 'host']


def test_a_batch_that_cannot_be_split_equally(trained):
    assert trained.returncode
    assert 'error: --batch_size 3 must be divisible by 2 (2 processes x --accumulate 1)' in trained.stderr


def test_sync_bn_on_the_cpu_is_refused(train, monkeypatch):
    two = SimpleNamespace(process_index=0, num_processes=2, device=torch.device('cpu'))
    monkeypatch.setattr('train_lt_mxp.build_accelerator', lambda *args: two)
    with pytest.raises(InputError, match='--sync_bn needs CUDA, not cpu: leave it out'):
        train('--sync_bn')


@pytest.fixture(scope='module')
def single(folder, trained):
    """Stage two in one process."""
    with pytest.MonkeyPatch.context() as m, new_accelerator():
        m.chdir(folder)
        for name, (flags, more) in METHODS.items():
            train_main(get_parser().parse_args(flags_of(f'single_{name}', f'{STAGE_TWO} {flags} {more}').split()))


@pytest.mark.parametrize('method', METHODS)
def test_stage_two_equals_one_process(folder, single, method):
    """Equal up to the order of summation, because a frozen backbone has fixed statistics. Every image gets the same augmentation and
    the same partner."""
    two, one = (last_weights(folder, name) for name in (method, f'single_{method}'))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)
    for a, b in zip(log_of(folder, method), log_of(folder, f'single_{method}'), strict=True):
        assert a['training_loss'] == pytest.approx(b['training_loss'], rel=1e-4)
        for split in ('train', 'val'):  # both evaluate every image exactly once
            assert a[split]['loss'] == pytest.approx(b[split]['loss'], rel=1e-4) and a[split]['bacc'] == b[split]['bacc']


def test_two_processes_save_the_image_hashes_of_one(folder, single):
    two, one = (read_checkpoint(str(folder / 'experiments' / name))['image_hashes'] for name in ('bsce', 'single_bsce'))
    assert torch.equal(two, one)


@pytest.fixture(scope='module')
def broken(folder, trained):
    """A run that crashed between two epochs, and a run that a signal to one of its processes stopped within an epoch."""
    done = start(folder, BREAK, {'cut': CUT, 'preempted': PREEMPTED})
    done.lines = {name: len(log_of(folder, name)) for name in ('cut', 'preempted')}
    done.batches = read_checkpoint(str(folder / 'experiments' / 'preempted' / 'interrupted'))['batches']
    return done


@pytest.fixture(scope='module')
def resumed(folder, broken):
    done = start(folder, TRAIN, {'cut': f'{CUT} --resume', 'preempted': f'{PREEMPTED} --resume'})
    assert done.returncode == 0, done.stderr


def test_a_crash_between_two_epochs_keeps_the_log(broken):
    assert 'crashed' in broken.stdout and broken.lines['cut'] == 2, broken.stderr


def test_a_signal_to_one_process_stops_both_within_the_epoch(broken):
    """Both stop after the same step, the next one at which the ranks synchronise."""
    assert broken.returncode and 'everything is saved' in broken.stderr, broken.stderr
    assert broken.lines['preempted'] == 1 and broken.batches == 10


@pytest.mark.parametrize(('name', 'undisturbed'), [('cut', 'whole'), ('preempted', 'unbroken')])
def test_a_resumed_run_equals_the_uninterrupted_one(folder, resumed, name, undisturbed):
    expected = last_weights(folder, undisturbed)
    assert is_finished(folder, name) and all(torch.equal(expected[key], tensor) for key, tensor in last_weights(folder, name).items())
