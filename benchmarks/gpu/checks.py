"""Checks of a stage: a console line for each finished check, and a JSON file that is always up to date."""
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple, TextIO

import torch

from utils.common import Interrupted, out_of_memory, write_text


class Skip(Exception):
    """The check cannot run here. The text gives the reason."""


class Found(NamedTuple):
    """Result of a check."""
    figure: str  # text for the console
    values: dict = {}  # noqa: RUF012  values for the JSON file, by name
    ok: bool = True


class Stage:
    """Runs the checks of one stage and records their results.

    `out`: folder for `<name>.json`, and for `<name>.log` with the output of the programs. `toy`: use small sizes, for a CPU. `seconds`:
    time limit of the stage; a check is skipped if it expects to need more than the remaining time. `data`: folder of the synthetic
    images (see `data.py`). `console`: stream for the result lines. `failed`: whether any check has failed.
    """

    def __init__(self, name: str, out: str, toy: bool, seconds: float, data: str, console: TextIO = sys.stdout):
        self.name, self.out, self.toy, self.data, self.console = name, out, toy, data, console
        self.start, self.seconds, self.failed, self.checks = time.monotonic(), seconds, False, []

    @property
    def seconds_left(self) -> float:
        return self.start + self.seconds - time.monotonic()

    def check(self, name: str, function: Callable[..., Found], *args, needs: float = 0) -> Found | None:
        """Call `function(*args)` and record its result. `needs`: expected seconds. -> the result, or None after an exception or a skip

        An exception is recorded as FAIL: the console shows its first line, and the log has the traceback. `Skip` and out-of-memory
        errors are recorded as SKIP, and so is `Interrupted`, which ends the stage.
        """
        start = time.monotonic()
        try:
            if needs > self.seconds_left:
                raise Skip(f'needs about {needs:.0f} s, but only {max(self.seconds_left, 0):.0f} s are left')
            found = function(*args)
        except Skip as skip:
            self.record('SKIP', name, str(skip))
            return None
        except Interrupted:  # the time limit of the stage
            self.record('SKIP', name, 'stopped, since the time of its stage is over', time.monotonic() - start)
            raise
        except Exception as err:
            if full := out_of_memory(err) or (err.__cause__ and out_of_memory(err.__cause__)):  # training wraps it in its own error
                self.record('SKIP', name, full)
                return None
            traceback.print_exc()
            self.record('FAIL', name, f'{type(err).__name__}: {_first_line(err)}', time.monotonic() - start)
            return None
        self.record('PASS' if found.ok else 'FAIL', name, found.figure, time.monotonic() - start, found.values)
        return found

    def record(self, status: str, name: str, figure: str, seconds: float = 0., values: dict | None = None) -> None:
        """Print one line and rewrite the JSON file. `status`: PASS, FAIL or SKIP."""
        self.failed |= status == 'FAIL'
        self.checks.append({'name': name, 'status': status, 'figure': figure, 'seconds': round(seconds, 2)} | (values or {}))
        print(f'{status} {name}: {figure}', file=self.console, flush=True)
        write_text(os.path.join(self.out, f'{self.name}.json'),
                   json.dumps({'stage': self.name, 'toy': self.toy} | device_facts() | {'checks': self.checks}, indent=1) + '\n')


def device_facts() -> dict:
    """-> the device and the versions that a measurement depends on"""
    cuda = torch.cuda.is_available()
    return {'device': torch.cuda.get_device_name() if cuda else 'CPU', 'cores': os.cpu_count(),
            'memory_gb': round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1) if cuda else None,
            'torch': str(torch.__version__), 'python': platform.python_version()}


def _first_line(err):
    return (str(err).strip() or '(no message)').splitlines()[0]
