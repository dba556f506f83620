"""Two processes on the CPU make the same run as one: from the real entry point, through torchrun."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from utils.model_saving_loading import read_checkpoint

from .conftest import write_images

ROOT = Path(__file__).parent.parent
TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2']


ENVIRONMENT = os.environ | {'ACCELERATE_USE_CPU': 'true', 'CUDA_VISIBLE_DEVICES': ''}


def base_flags(tiny):
    return (f'--csv_train {tiny}/train.csv --data_path {tiny}/images --n_classes 3 --im_size 32 --model_name mobilenetV2 --init none '
            '--batch_size 8 --num_workers 0 --metric mcc').split()


def run(folder, tiny, flags, processes=2, check=True):
    command = (TORCHRUN if processes == 2 else [sys.executable]) + [str(ROOT / 'train_lt_mxp.py'), *base_flags(tiny), *flags.split()]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0 or not check, done.stderr
    return done


def log_of(folder, name):
    return [json.loads(line) for line in (folder / 'experiments' / name / 'log.jsonl').read_text().splitlines()]


@pytest.fixture(scope='module')
def folder(tiny, tmp_path_factory):
    """Stage one in two processes, with all that has a state."""
    folder = tmp_path_factory.mktemp('processes')
    run(folder, tiny, '--save_path one --n_epochs 2 --do_mixup 0.2 --ema 0.9 --schedule onecycle --train_eval full')
    return folder


def test_first_process_speaks_and_writes(folder, tiny):
    assert len(log_of(folder, 'one')) == 2 and (folder / 'experiments' / 'one' / 'val_metrics.txt').exists()
    done = run(folder, tiny, '--save_path one2 --n_epochs 1')
    assert done.stdout.count('Epoch 1/1') == 1


@pytest.mark.parametrize(('method', 'single'), [
    ('--do_mixup 0.2 --augment none', ''), ('--loss_fn BSCE --augment none', '--accumulate 2'), ('--mixing mixup --augment rotate', ''),
    ('--mixing cutmix --augment randaugment --sampling class', ''), ('--mixing remix --augment trivial --accumulate 2', '')])
def test_stage_two_equals_one_process(folder, tiny, method, single):
    """A frozen backbone has fixed statistics, so that nothing but the order of the sums differs: every image is augmented alike and
    mixed with the same partner."""
    flags = ('--pretrained_weights experiments/one --trainable classifier --n_epochs 3 --momentum 0.9 --lr 0.1 '
             f'--train_eval full --overwrite {method} --save_path')
    run(folder, tiny, f'{flags} two')
    run(folder, tiny, f'{flags} single {single}', processes=1)
    two, single = (read_checkpoint(str(folder / 'experiments' / name / 'last'))['state_dict'] for name in ('two', 'single'))
    for name, tensor in single.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)
    for a, b in zip(log_of(folder, 'two'), log_of(folder, 'single'), strict=True):
        assert a['training_loss'] == pytest.approx(b['training_loss'], rel=1e-4)
        for split in ('train', 'val'):  # every image exactly once, in both
            assert a[split]['loss'] == pytest.approx(b[split]['loss'], rel=1e-4) and a[split]['bacc'] == b[split]['bacc']


def test_resume(folder, tiny):
    """After a crash between two epochs, with two processes, as without one."""
    flags = '--n_epochs 3 --sampling class --momentum 0.9 --ema 0.9'
    run(folder, tiny, f'{flags} --save_path whole')
    crash = ('import runpy, sys, utils.run_folder as r\nend = r.RunFolder.end_epoch\n'
             'def dying(self, record, *rest):\n    end(self, record, *rest)\n    assert record["epoch"] < 2, "crash"\n'
             'r.RunFolder.end_epoch = dying\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name="__main__")\n')
    (folder / 'crash.py').write_text(f'import sys\nsys.path.insert(0, {str(ROOT)!r})\n{crash}')
    command = [*TORCHRUN, 'crash.py', str(ROOT / 'train_lt_mxp.py'), *base_flags(tiny), *f'{flags} --save_path cut'.split()]
    died = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=ENVIRONMENT)
    assert died.returncode and len(log_of(folder, 'cut')) == 2
    run(folder, tiny, f'{flags} --save_path cut --resume')
    whole, cut = (read_checkpoint(str(folder / 'experiments' / name / 'last'))['state_dict'] for name in ('whole', 'cut'))
    assert all(torch.equal(whole[name], tensor) for name, tensor in cut.items())


STRIKE = f'''
import os, runpy, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from utils.mixing import MixUp
mix, calls = MixUp.mix, []
def strike(*args):
    calls.append(1)
    if os.environ["RANK"] == "1" and len(calls) == 12 + 3:  # in the third batch of the second epoch
        os.kill(os.getpid(), signal.SIGTERM)
    return mix(*args)
MixUp.mix = strike
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
'''


def test_a_signal_to_one_process_stops_both_within_the_epoch(tmp_path):
    """After the same step, the next at which they ask each other; resumed, the run ends as if it had not been stopped."""
    tiny = write_images(tmp_path / 'more', {'train': (48, 32, 16), 'val': (3, 3, 3)})  # 12 batches an epoch
    flags = '--n_epochs 3 --ema 0.9 --mixing mixup --save_path'
    run(tmp_path, tiny, f'{flags} unbroken')
    (tmp_path / 'strike.py').write_text(STRIKE)
    command = [*TORCHRUN, 'strike.py', str(ROOT / 'train_lt_mxp.py'), *base_flags(tiny), *f'{flags} preempted'.split()]
    struck = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
    assert struck.returncode and 'everything is saved' in struck.stderr and len(log_of(tmp_path, 'preempted')) == 1, struck.stderr
    assert read_checkpoint(str(tmp_path / 'experiments' / 'preempted' / 'interrupted'))['batches'] == 10
    run(tmp_path, tiny, f'{flags} preempted --resume')
    unbroken, preempted = (read_checkpoint(str(tmp_path / 'experiments' / name / 'last'))['state_dict']
                           for name in ('unbroken', 'preempted'))
    assert all(torch.equal(unbroken[name], tensor) for name, tensor in preempted.items())


def test_unequal_parts(folder, tiny):
    done = run(folder, tiny, '--save_path three --batch_size 3', check=False)
    assert done.returncode and 'error: --batch_size 3 cannot be cut into equal parts for 2 processes x --accumulate 1' in done.stderr
