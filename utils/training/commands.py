"""Run commands of a series, several at a time, and resume the series where it stopped."""
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from utils.cli import IN_SERIES, ROOT, duration
from utils.common import InputError, Interrupted

RESUME = ': run the same command to resume'
SIGNALS = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, 'SIGHUP') else [])]  # SIGHUP: the terminal is closed
POLL = .2  # seconds between two looks at the running processes


class Command(NamedTuple):
    """A script of this project with its flags, run in the working folder. It is skipped if `is_done()`."""
    title: str  # for the console, such as 'train own/plain/seed0'
    words: list[str]  # without the interpreter: ['train_lt_mxp.py', ...] or ['-m', 'tools.report', ...]
    is_done: Callable[[], bool] = lambda: False
    before_start: Callable[[], list[str]] = list  # -> further words, known only when the command starts
    cost: float = 0.  # relative duration, for the ETA; 0: short

    def text(self) -> str:
        return shlex.join(['python', *self.words])


class Series:
    """Runs commands on up to `n_jobs` GPUs or processes at a time. `expected`: all commands of the series, for the ETA."""

    def __init__(self, n_jobs: int, n_gpus: int, expected: Sequence[Command]) -> None:
        left = [command for command in expected if not command.is_done()]
        self.n_jobs, self.n_gpus, self.n_all, self.n_started = n_jobs, n_gpus, len(left), 0
        self.running: dict[int, tuple[Command, subprocess.Popen, float, threading.Thread | None]] = {}  # slot -> ...
        self.cost_left = sum(command.cost for command in left)
        self.cost_done = self.seconds = 0.  # of finished commands with a cost

    def run(self, commands: Iterable[Command]) -> None:
        """Run the commands that are not done, and wait for them. Raises `InputError` if one fails; the others end first.

        A signal ends the running commands, which save their state, and raises `Interrupted`.
        """
        before = {number: signal.signal(number, _interrupt) for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN}
        failed: list[str] = []
        try:
            for command in commands:
                if command.is_done():
                    continue
                while len(self.running) == self.n_jobs:
                    failed += self._reap()
                if failed:
                    break
                self._start(command)
            while self.running:
                failed += self._reap()
        except BaseException as stop:
            for _, process, _, _ in self.running.values():
                process.terminate()
            for _, process, _, _ in self.running.values():
                process.wait()
            if isinstance(stop, KeyboardInterrupt):
                raise KeyboardInterrupt(RESUME) from None
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if failed:
            raise InputError(f"failed: {', '.join(failed)} (see above){RESUME}")

    def _start(self, command):
        slot = next(i for i in range(self.n_jobs) if i not in self.running)
        self.n_started += 1
        print(f'[{self.n_started}/{self.n_all}{self._eta()}] {command.title}\n$ {command.text()}', file=sys.stderr, flush=True)
        script = command.words if command.words[0] == '-m' else [os.path.join(ROOT, command.words[0]), *command.words[1:]]
        shared = self.n_jobs > 1
        sys.stdout.flush()  # else what was printed before appears after the output of the command, if that goes to a file
        process = subprocess.Popen(
            [sys.executable, *script, *command.before_start()], env=os.environ | {'PYTHONPATH': ROOT, IN_SERIES: '1'} | self._device(slot),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if shared else None, stderr=subprocess.STDOUT if shared else None,
            process_group=0)  # else Ctrl-C would reach it besides `terminate`, and the second signal would end it unsaved
        thread = threading.Thread(target=_copy_lines, args=(process.stdout, command.title)) if shared else None
        if thread:
            thread.start()
        self.running[slot] = command, process, time.monotonic(), thread

    def _device(self, slot):
        if self.n_jobs == 1:
            return {}
        if self.n_gpus:
            return {'CUDA_VISIBLE_DEVICES': str(slot % self.n_gpus)}
        return {'OMP_NUM_THREADS': str(-(-(os.cpu_count() or 1) // self.n_jobs))}

    def _eta(self):
        if not self.cost_done or not self.cost_left:
            return ''
        return f', about {duration(self.cost_left * self.seconds / self.cost_done / self.n_jobs)} left'

    def _reap(self):
        """Wait a moment for running commands. -> titles of those that failed"""
        time.sleep(POLL)
        failed = []
        for slot, (command, process, start, thread) in list(self.running.items()):
            if process.poll() is not None:
                if thread:
                    thread.join()
                del self.running[slot]
                if command.cost:
                    self.seconds += time.monotonic() - start
                    self.cost_done += command.cost
                    self.cost_left -= command.cost
                failed += [command.title] if process.returncode else []
        return failed


def _interrupt(number, frame):
    raise Interrupted(number, RESUME)


def _copy_lines(stream, title):
    """Print the lines of `stream`, each after `title`."""
    with stream:
        for line in stream:
            sys.stdout.write(f"{title}: {line.decode(errors='replace')}")
            sys.stdout.flush()


def script_of(commands: Sequence[Command]) -> str:
    """-> shell script with the commands, to run in the root of the repository"""
    return '\n'.join(['#!/usr/bin/env bash', 'set -euo pipefail', *(command.text() for command in commands), ''])
