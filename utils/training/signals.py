"""SIGTERM (a cluster's preemption) and Ctrl-C: the training step is finished, everything is saved, and the run can go on."""
import contextlib
import signal

import torch

from utils.common import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupt:
    """`with interrupt:` takes the signals over. Between `hold()` and `release()` a signal waits for the next `check()`, which raises
    `Interrupted`; otherwise, and within `waiting()`, it is raised at once. A second signal ends the program the usual way.
    `resume`: how the user goes on, empty where nothing is saved; told at the end."""

    def __init__(self, resume=''):
        self.signal, self.held, self.resume = None, False, resume

    def __enter__(self):
        self.before = {number: signal.signal(number, self.handle) for number in SIGNALS}
        return self

    def __exit__(self, kind, error, trace):
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.resume and isinstance(error, Interrupted):
            error.saved = f': everything is saved{self.resume}'
        elif self.resume and isinstance(error, KeyboardInterrupt):
            error.args = (f': the last epoch that was done is saved{self.resume}',)

    def handle(self, number, frame):
        for each, handler in self.before.items():
            signal.signal(each, handler)
        self.signal = number
        if not self.held:
            raise Interrupted(number)

    def asked(self, accelerator, look):
        """Whether a signal waits. Several processes, which have to stop at the same step, ask each other when `look` is true."""
        if accelerator.num_processes > 1 and look:
            number = torch.tensor([self.signal or 0], device=accelerator.device)
            self.signal = accelerator.gather(number).max().item() or None
        return self.signal is not None and (accelerator.num_processes == 1 or look)

    @contextlib.contextmanager
    def waiting(self, accelerator):
        """Between two steps, while the loader prepares images: a signal does not wait for a batch that may never come. One of several
        processes waits all the same, since all have to stop at the same step."""
        if accelerator.num_processes > 1:
            yield
            return
        self.release()
        try:
            yield
        finally:
            self.hold()

    def hold(self):
        self.held = True

    def release(self):
        self.held = False
        self.check()

    def check(self):
        if self.signal is not None:
            raise Interrupted(self.signal)
