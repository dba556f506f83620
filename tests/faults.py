"""Kills a training at random moments, resumes it and compares with the uninterrupted one.

Not part of the test suite, which does three of these. Every run is killed with SIGKILL (or ended with SIGTERM, as a cluster does)
after a random time, resumed, killed again, and so on until it is finished; then weights, metrics and log lines must be the same,
bit for bit.

Example:

  python -m tests.faults --kills 20
"""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from tests.conftest import write_images
from utils.console import say_next, script_parser
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
    """Send `number` so many `seconds` after the network was built, just before the training loop. -> exit status; None if the run was
    finished before."""
    process = subprocess.Popen([*command(folder, name, flags), *resume], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, env=os.environ | {'PYTHONUNBUFFERED': '1'})
    for line in process.stdout:
        if 'trainable parameters' in line:
            break
    try:
        _, err = process.communicate(timeout=seconds)
        assert process.returncode == 0, err
        return None
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        _, err = process.communicate()
        assert process.returncode in (-number, 128 + number, 0), err
        return process.returncode or None


def training_seconds(folder, flags):
    """From the built network to the end of an uninterrupted run."""
    process = subprocess.Popen(command(folder, 'timing', flags + ' --overwrite'), cwd=folder, stdout=subprocess.PIPE, text=True,
                               env=os.environ | {'PYTHONUNBUFFERED': '1'})
    start = 0.
    for line in process.stdout:
        if 'trainable parameters' in line:
            start = time.perf_counter()
    assert process.wait() == 0 and start
    return time.perf_counter() - start


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


def torture(folder, flags, n_kills, rng):
    """Kill one run `n_kills` times at random moments of its training; one that gets to its end starts anew. -> exit statuses: -9 killed,
    143 ended by the handler within the training loop, -15 ended before it, None finished."""
    shutil.rmtree(folder / 'experiments' / 'cut', ignore_errors=True)
    finish(folder, 'whole', flags + ' --overwrite')
    longest, statuses, run = training_seconds(folder, flags), [], folder / 'experiments' / 'cut'

    def how():
        return ['--resume'] if (run / 'config.cfg').exists() and not (run / 'val_metrics.txt').exists() else ['--overwrite']
    for _ in range(n_kills):
        statuses.append(kill(folder, 'cut', flags, rng.choice((signal.SIGKILL, signal.SIGTERM)), rng.uniform(0, .6 * longest), how()))
    if not (run / 'val_metrics.txt').exists():
        finish(folder, 'cut', flags, how())
    same(folder, 'whole', 'cut')
    return statuses


def get_parser():
    parser = script_parser(__doc__)
    parser.add_argument('--kills', type=int, default=20, metavar='N', help='signals, over all cases')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='random seed of their moments and kinds')
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    rng, statuses = random.Random(args.seed), []
    with tempfile.TemporaryDirectory() as name:
        folder = write_images(Path(name))
        finish(folder, 'one', '--n_epochs 1')
        for i, flags in enumerate(CASES):
            statuses.append(torture(folder, flags, len(range(i, args.kills, len(CASES))), rng))
            print(f'{flags}: exit statuses {statuses[-1]}, the resumed run is the same', flush=True)
    counts = Counter(status for of_case in statuses for status in of_case)
    print(f'{args.kills} signals: {counts[-9]} SIGKILL, {counts[143]} SIGTERM within the training loop, {counts[-15]} SIGTERM before it, '
          f'{counts[None]} after the end; all runs are the same')
    say_next('run all tests', 'bash', 'tests/run.sh')


if __name__ == '__main__':
    main()
