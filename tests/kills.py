"""Scripts that are started to be killed, and runs that are compared."""
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import torch

from tests.halt import FILES
from utils.model_saving_loading import read_checkpoint

ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {'PYTHONUNBUFFERED': '1', 'PYTHONPATH': str(ROOT)}
STATUSES = {-9: 'SIGKILL at any moment', 143: 'SIGTERM within the training loop', -15: 'SIGTERM before it', None: 'after the end'}


def start(folder, command, phase='none', n=0):
    script, *flags = command
    return subprocess.Popen([sys.executable, '-m', 'tests.halt', phase, str(n), str(ROOT / script), *flags], cwd=folder,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def finish(folder, command):
    """-> Counter: how often each phase was passed"""
    process = start(folder, command)
    _, err = process.communicate()
    assert process.returncode == 0, err
    return Counter(json.loads(err.splitlines()[-1]))


def kill_in(folder, command, phase, n):
    """SIGKILL at the `n`-th moment of a phase, proven by the process that holds still there and by its half file. -> False where the
    script ended before"""
    process = start(folder, command, phase, n)
    line = next((line for line in process.stderr if line.startswith('{')), None)
    assert line, 'the script failed'
    if json.loads(line)[phase] < n:
        process.communicate()
        return False
    half = [file for file in folder.rglob(FILES.get(phase, '')) if file.name.endswith(f'.{process.pid}.tmp')]
    assert process.poll() is None and (phase not in FILES or half)
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def kill_at(folder, command, number, seconds):
    """Send `number` so many `seconds` after the network was built, just before the training loop. -> exit status, a key of STATUSES"""
    process = start(folder, command)
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
