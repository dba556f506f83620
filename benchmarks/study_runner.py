"""Run the train and test scripts for a study: in this process, or several at a time in processes of their own."""
import contextlib
import os
import signal
import subprocess
import sys
import threading
import traceback

import test_with_labels_eyepacs
import train_lt_mxp
from utils.cli import ROOT
from utils.common import InputError, Interrupted, no_link, read_text
from utils.testing import scoring

from . import mixing_variants

RESUME = ': run the same command to resume'


def run_training(flags):
    train_lt_mxp.main(train_lt_mxp.get_parser().parse_args(flags), ['train_lt_mxp.py', *flags])


def run_variant(flags):
    mixing_variants.train([VARIANT, *flags])


def run_testing(flags):
    scoring.main(test_with_labels_eyepacs.__doc__, **test_with_labels_eyepacs.DEFAULTS, argv=flags)


VARIANT = 'benchmarks/mixing_variants.py'
SCRIPTS = {'train_lt_mxp.py': run_training, VARIANT: run_variant, 'test_with_labels_eyepacs.py': run_testing}


def script_of(flags):
    """-> the script that trains with `flags`"""
    return VARIANT if '--variant' in flags else 'train_lt_mxp.py'


def first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def last_line(log):
    """-> last line of a log that is not indented: the error of a script that failed"""
    lines = [line for line in read_text(log).splitlines() if line.strip() and not line.startswith(' ')]
    return lines[-1].removeprefix('error: ') if lines else ''


class Runner:
    """Runs scripts. With `jobs` 1 they run in this process, which has already imported the libraries, else each in a new process."""

    def __init__(self, jobs):
        self.jobs, self.lock, self.processes, self.stopped = jobs, threading.Lock(), set(), False

    def call(self, log, script, *flags):
        """Run a script in the root of the repository and append its output to `log`.

        Raises `InputError`, which names the log, if the script fails, and `Interrupted` if it was stopped.
        """
        os.makedirs(os.path.dirname(log), exist_ok=True)
        with open(log, 'a', buffering=1, encoding='utf-8', opener=no_link) as f:
            run = self.in_this_process if self.jobs == 1 else self.in_new_process
            try:
                run(f, script, flags)
            except Interrupted as stop:
                stop.saved = RESUME
                raise
            except (Exception, SystemExit) as err:  # SystemExit: argparse refuses a flag
                raise InputError(f'{script} failed, see {log}: {first_line(err)}') from err

    @staticmethod
    def in_this_process(f, script, flags):
        with contextlib.redirect_stdout(f), contextlib.redirect_stderr(f):
            try:
                SCRIPTS[script](list(flags))
            except Exception:
                traceback.print_exc()
                raise

    def in_new_process(self, f, script, flags):
        with self.lock:
            if self.stopped:
                raise Interrupted(signal.SIGTERM)
            process = subprocess.Popen([sys.executable, os.path.join(ROOT, script), *flags], stdout=f, stderr=subprocess.STDOUT,
                                       env=os.environ | {'OMP_NUM_THREADS': '1', 'PYTHONPATH': ROOT},
                                       process_group=0)  # else Ctrl-C reaches it besides `stop`, and a second signal ends it unsaved
            self.processes.add(process)
        status = process.wait()
        with self.lock:
            self.processes.remove(process)
        if status and self.stopped:
            raise Interrupted(signal.SIGTERM)
        if status:
            raise InputError(last_line(f.name) or f'exit status {status}')

    def stop(self):
        """Ask all processes to save their state and end. No new one is started."""
        with self.lock:
            self.stopped = True
            for process in self.processes:
                process.terminate()


class Queue:
    """Hands out tasks in order to several threads. `items`: pairs of a task and the name of its first training, which tasks may share.

    A task whose first training is running in another thread is handed out after it, so that no thread has to wait for it.
    """

    def __init__(self, items):
        self.pending, self.running, self.changed = list(items), set(), threading.Condition()

    def take(self):
        """-> (task, name of its first training), None if none is left. The caller must `release` the name after the training."""
        with self.changed:
            while self.pending:
                for item in self.pending:
                    if item[1] not in self.running:
                        self.pending.remove(item)
                        self.running.add(item[1])
                        return item
                self.changed.wait()
            return None

    def release(self, name):
        with self.changed:
            self.running.discard(name)
            self.changed.notify_all()

    def clear(self):
        with self.changed:
            self.pending.clear()
            self.changed.notify_all()
