"""Kills a training at random moments, resumes it and compares with the uninterrupted one: python -m tests.faults --kills 20

Not part of the test suite, which does three of these. Every run is killed with SIGKILL (or ended with SIGTERM, as a cluster does)
after a random time, resumed, killed again, and so on until it is finished; then weights, metrics and log lines must be the same,
bit for bit.
"""
import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.conftest import write_images
from utils.model_saving_loading import read_checkpoint

ROOT = Path(__file__).parent.parent
CASES = (
    '--do_mixup 0.2 --sampling prog --momentum 0.9 --patience 0',
    '--loss_fn SEQL --loss_params lam=0.5 --ema 0.9 --schedule onecycle --optimizer adamw --augment trivial',
    '--mixing cutmix --mixup_off_epochs 1 --loss_fn LDAM --defer 0.5 --schedule cosine --optimizer adam --augment randaugment',
    '--pretrained_weights experiments/one --trainable scale --sampling class --ema 0.5 --augment rotate',
)


def command(folder, name, flags):
    base = ('--csv_train train.csv --data_path images --n_classes 3 --im_size 32 --model_name mobilenetV2 --init none --batch_size 4 '
            f'--n_epochs 4 --n_checkpoints 2 --num_workers 0 --metric mcc --train_eval full --save_path {name}')
    return [sys.executable, str(ROOT / 'train_lt_mxp.py'), *base.split(), *flags.split()]


def finish(folder, name, flags, resume=()):
    done = subprocess.run([*command(folder, name, flags), *resume], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def kill(folder, name, flags, number, seconds, resume):
    """-> exit status of the run after the signal; None if it was finished before."""
    process = subprocess.Popen([*command(folder, name, flags), *resume], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True)
    try:
        _, err = process.communicate(timeout=seconds)
        assert process.returncode == 0, err
        return None
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        _, err = process.communicate()
        assert process.returncode in (-number, 128 + number, 0), err
        return process.returncode


def same(folder, one, other):
    states = [read_checkpoint(str(folder / 'experiments' / name / 'last')) for name in (one, other)]
    for a, b in zip(*[sorted(state['state_dict'].items()) for state in states], strict=True):
        assert a[0] == b[0] and torch.equal(a[1], b[1]), a[0]

    def log(name):
        lines = (folder / 'experiments' / name / 'log.jsonl').read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k not in ('seconds', 'images_per_second')} for line in lines]
    assert log(one) == log(other)
    kept = [sorted(f.name for f in (folder / 'experiments' / name).glob('epoch_*')) for name in (one, other)]
    assert kept[0] == kept[1]


def torture(folder, flags, n_kills, rng, longest, startup):
    """Kill one run `n_kills` times, within `longest` seconds after the `startup` seconds of imports. -> exit statuses"""
    shutil.rmtree(folder / 'experiments' / 'cut', ignore_errors=True)
    finish(folder, 'whole', flags + ' --overwrite')
    statuses = []
    for i in range(n_kills):
        run = folder / 'experiments' / 'cut'
        resume = ['--resume'] if i and (run / 'config.cfg').exists() and not (run / 'val_metrics.txt').exists() else ['--overwrite']
        statuses.append(kill(folder, 'cut', flags, rng.choice((signal.SIGKILL, signal.SIGTERM)), startup + rng.uniform(0, longest), resume))
    run = folder / 'experiments' / 'cut'
    if not (run / 'val_metrics.txt').exists():
        finish(folder, 'cut', flags, ['--resume'] if (run / 'config.cfg').exists() else ['--overwrite'])
    same(folder, 'whole', 'cut')
    return statuses


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=20)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = write_images(Path(name))
        start = time.perf_counter()
        finish(folder, 'one', '--n_epochs 1')
        startup = .8 * (time.perf_counter() - start)
        start = time.perf_counter()
        finish(folder, 'timing', CASES[0])
        longest = time.perf_counter() - start - startup
        statuses = []
        for i, flags in enumerate(CASES):
            n_kills = len(range(i, args.kills, len(CASES)))
            statuses += torture(folder, flags, n_kills, rng, longest, startup)
            print(f'{flags}: exit statuses {statuses[-n_kills:]}, the resumed run is the same', flush=True)
    hit = [status for status in statuses if status is not None]
    print(f'{len(hit)} of {args.kills} signals hit a running training (the others came after its end); all runs are the same')


if __name__ == '__main__':
    main()
