"""Results of a stage: one line on the console as soon as a check is done, and a JSON file that is complete at any time."""
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
    """A check cannot be made here; the text says why."""


class Found(NamedTuple):
    """What a check found out."""
    figure: str  # for the console
    values: dict = {}  # noqa: RUF012  numbers for the JSON file, by name
    ok: bool = True


class Stage:
    """Checks of one stage.

    `out`: folder of `<name>.json` and of what programs print, `<name>.log`. `toy`: sizes for a CPU. `seconds`: how long the stage may
    take; a check that expects to need more than what is left is skipped. `data`: folder of the synthetic images (see `data.py`).
    `console`: for the lines of the checks. `failed`: whether a check failed.
    """

    def __init__(self, name: str, out: str, toy: bool, seconds: float, data: str, console: TextIO = sys.stdout):
        self.name, self.out, self.toy, self.data, self.console = name, out, toy, data, console
        self.start, self.seconds, self.failed, self.checks = time.monotonic(), seconds, False, []

    @property
    def seconds_left(self) -> float:
        return self.start + self.seconds - time.monotonic()

    def check(self, name: str, function: Callable[..., Found], *args, needs: float = 0) -> Found | None:
        """Call `function(*args)` and record what it found. `needs`: seconds that it is expected to take. -> None where it failed

        An exception is a FAIL, with its first line on the console and its traceback in the log. `Skip` is a SKIP, and so is full
        memory. `Interrupted` ends the stage.
        """
        start = time.monotonic()
        try:
            if needs > self.seconds_left:
                raise Skip(f'needs about {needs:.0f} s, {max(self.seconds_left, 0):.0f} s are left')
            found = function(*args)
        except Skip as skip:
            self.record('SKIP', name, str(skip))
            return None
        except Interrupted:  # the time of the stage is over
            raise
        except Exception as err:
            if full := out_of_memory(err) or (err.__cause__ and out_of_memory(err.__cause__)):  # a training explains it in its own error
                self.record('SKIP', name, full)
                return None
            traceback.print_exc()
            self.record('FAIL', name, f'{type(err).__name__}: {_first_line(err)}', time.monotonic() - start)
            return None
        self.record('PASS' if found.ok else 'FAIL', name, found.figure, time.monotonic() - start, found.values)
        return found

    def record(self, status: str, name: str, figure: str, seconds: float = 0., values: dict | None = None) -> None:
        """Print one line and write the JSON file anew. `status`: PASS, FAIL or SKIP."""
        self.failed |= status == 'FAIL'
        self.checks.append({'name': name, 'status': status, 'figure': figure, 'seconds': round(seconds, 2)} | (values or {}))
        print(f'{status} {name}: {figure}', file=self.console, flush=True)
        write_text(os.path.join(self.out, f'{self.name}.json'),
                   json.dumps({'stage': self.name, 'toy': self.toy} | device_facts() | {'checks': self.checks}, indent=1) + '\n')


def device_facts() -> dict:
    """The card and the versions that a figure depends on."""
    cuda = torch.cuda.is_available()
    return {'device': torch.cuda.get_device_name() if cuda else 'CPU', 'cores': os.cpu_count(),
            'memory_gb': round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1) if cuda else None,
            'torch': str(torch.__version__), 'python': platform.python_version()}


def _first_line(err):
    return (str(err).strip() or '(no message)').splitlines()[0]
