"""SIGTERM (a cluster's preemption) and Ctrl-C: the training step is finished, everything is saved, and the run can go on."""
import signal

from .common import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupt:
    """`with interrupt:` takes the signals over. Between `hold()` and `release()` a signal waits for the next `check()`, which raises
    `Interrupted`; otherwise it is raised at once. A second signal ends the program the usual way."""

    def __init__(self):
        self.signal, self.held = None, False

    def __enter__(self):
        self.before = {number: signal.signal(number, self.handle) for number in SIGNALS}
        return self

    def __exit__(self, *error):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def handle(self, number, frame):
        for each, handler in self.before.items():
            signal.signal(each, handler)
        self.signal = number
        if not self.held:
            raise Interrupted(number)

    def hold(self):
        self.held = True

    def release(self):
        self.held = False
        self.check()

    def check(self):
        if self.signal is not None:
            raise Interrupted(self.signal)
