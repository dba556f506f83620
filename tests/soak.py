"""Soak test: train many epochs in one process and check that its resources do not grow.

It trains on a tiny generated data set with the real train function. After each epoch it records the memory, open files, threads and child
processes. It compares the medians over the last fifth of the epochs with those over the epochs from a tenth to three tenths. It fails if
memory grows by more than 2 % and 8 MB, or anything else grows at all.

Examples:

  python -m tests.soak --epochs 200
  python -m tests.soak --epochs 200 --flags="--num_workers 2 --no_cache --tensorboard"
"""
import contextlib
import io
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from tests.factories import train_flags, write_images
from train_lt_mxp import get_parser as train_parser
from train_lt_mxp import main as train_main
from utils.cli import say_next, script_parser
from utils.training.run_folder import RunFolder

MEMORY = 1.02, 8.  # growth within the noise of the allocator: factor, and MB


class Held(NamedTuple):
    memory_mb: float
    files: int
    threads: int
    children: int


def held():
    """Return the resources of this process and its children.

    Memory is the resident memory without file pages, which the system evicts at will. Pages that a child shares with its parent count
    in both.
    """
    process = psutil.Process()
    children = process.children(recursive=True)
    memory = [each.memory_info() for each in (process, *children)]
    return Held(sum(each.rss - each.shared for each in memory) / 1e6, process.num_fds(), process.num_threads(), len(children))


@contextlib.contextmanager
def noted_epochs(also=lambda epoch: None):
    """-> list that gets one `Held` at the end of each training epoch. `also(epoch)` is called before."""
    samples, end_epoch = [], RunFolder.end_epoch

    def noted(run, *args):
        end_epoch(run, *args)
        also(len(run.history))
        samples.append(held())
    RunFolder.end_epoch = noted
    try:
        yield samples
    finally:
        RunFolder.end_epoch = end_epoch


def growth(samples):
    """-> list of the resources that grew, as text"""
    n = len(samples)
    early, late = (np.median(part, axis=0) for part in (samples[n // 10:3 * n // 10], samples[-(n // 5):]))
    grown = [late[0] > max(early[0] * MEMORY[0], early[0] + MEMORY[1]), *(late[1:] > early[1:])]
    return [f'{name}: {a:.0f} -> {b:.0f}' for name, a, b, more in zip(Held._fields, early, late, grown, strict=True) if more]


def soak(folder, n_epochs, flags='', also=lambda epoch: None):
    """Train in the empty `folder`. -> list of `Held`, one per epoch"""
    write_images(folder / 'set')
    with contextlib.chdir(folder), noted_epochs(also) as samples, contextlib.redirect_stdout(io.StringIO()):
        flags = f'--do_mixup 0.2 --sampling prog --ema 0.9 --patience {n_epochs} {flags} --n_epochs {n_epochs}'
        train_main(train_parser().parse_args(train_flags(folder / 'set', flags)))
    return samples


def get_parser():
    parser = script_parser(__doc__)
    parser.add_argument('--epochs', type=int, default=200, metavar='N', help='number of epochs')
    parser.add_argument('--flags', default='', metavar='"..."', help='more flags for the training script, in quotes')
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        samples = soak(Path(folder), args.epochs, args.flags)
    print('\n'.join(['epoch  ' + '  '.join(Held._fields), *(
        f'{i + 1:5d}  {s.memory_mb:9.1f}  {s.files:5d}  {s.threads:7d}  {s.children:8d}' for i, s in enumerate(samples)
        if i in (0, len(samples) - 1) or (i + 1) % (len(samples) // 10 or 1) == 0)]))
    grown = growth(samples)
    print(f"{len(samples)} epochs: {'; '.join(grown) if grown else 'no growth'}")
    if grown:
        raise SystemExit(1)
    say_next('run all tests', 'bash', 'tests/run.sh')


if __name__ == '__main__':
    main()
