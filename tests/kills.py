"""Start scripts, kill them, and compare the runs that result."""
import json
import multiprocessing
import os
import signal
import sys
from collections import Counter
from unittest import mock

import torch

from tests import halt
from tests.factories import ROOT
from utils.model_saving_loading import read_checkpoint

STATUSES = {-9: 'SIGKILL at any moment', 143: 'SIGTERM within the training loop', -15: 'SIGTERM before it', None: 'after the end'}
# A process that has imported everything. Scripts are forked from it, since importing again for each script takes much longer.
SERVER = multiprocessing.get_context('forkserver')
SERVER.set_forkserver_preload(['tests.halt', 'train_lt_mxp', 'tools.report', 'utils.testing.scoring'])


def _run(folder, out, err, *args):
    os.chdir(folder)
    for number, pipe in ((1, out), (2, err)):
        os.dup2(pipe.fileno(), number)
    sys.stdout, sys.stderr = (open(number, 'w', buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    halt.run(*args)


class Script:
    """A script in a separate process. `out` and `err` are its output streams."""

    def __init__(self, folder, command, phase='none', n=0):
        (out, to_out), (err, to_err) = (SERVER.Pipe(duplex=False) for _ in range(2))
        script, *flags = command
        self.process = SERVER.Process(target=_run, args=(str(folder), to_out, to_err, phase, n, str(ROOT / script), flags))
        with mock.patch.dict(os.environ, PYTHONPATH=str(ROOT)):
            self.process.start()
        for pipe in (to_out, to_err):
            pipe.close()
        self.out, self.err = (open(os.dup(pipe.fileno()), encoding='utf-8') for pipe in (out, err))  # noqa: SIM115

    def end(self):
        """-> exit status and the rest of stderr"""
        self.out.read()
        err = self.err.read()
        self.process.join()
        return self.process.exitcode, err


def finish(folder, command):
    """-> Counter: how often each phase was reached"""
    status, err = Script(folder, command).end()
    assert status == 0, err
    return Counter(json.loads(err.splitlines()[-1]))


def kill_in(folder, command, phase, n):
    """Send SIGKILL at the `n`-th time of a phase, after checking for the paused process and its half-written file.

    -> False if the script ended before
    """
    script = Script(folder, command, phase, n)
    line = next((line for line in script.err if line.startswith('{')), None)
    assert line, 'the script failed'
    if json.loads(line)[phase] < n:
        script.end()
        return False
    half = [file for file in folder.rglob(halt.FILES.get(phase, '')) if f'.{script.process.pid}-' in file.name]
    assert script.process.is_alive() and (phase not in halt.FILES or half)
    script.process.kill()
    return script.end()[0] == -signal.SIGKILL


def kill_at(folder, command, number, seconds):
    """Send the signal `number` some `seconds` after the network was built, just before the training loop. -> exit status, see STATUSES"""
    script = Script(folder, command)
    for line in script.out:
        if 'trainable parameters' in line:
            break
    script.process.join(seconds)
    if not script.process.is_alive():
        status, err = script.end()
        assert status == 0, err
        return None
    os.kill(script.process.pid, number)
    status, err = script.end()
    assert status in (-number, 128 + number, 0), err
    return status or None


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
