"""SIGTERM (a cluster's preemption) and Ctrl-C: the training step is finished, everything is saved, and the run can go on."""
import contextlib
import signal
from argparse import Namespace
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.state import PartialState

from utils.cli import how_to_resume
from utils.common import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def resume_hint(argv: list[str] | None, args: Namespace) -> str:
    """How the user continues the run after an interruption, to be appended to its message; '' where nothing is saved."""
    return '' if args.do_not_save else how_to_resume(argv, args.save_path, PartialState().num_processes)


class StopSignal:
    """`with StopSignal(hint) as stop:` holds back the first SIGTERM or Ctrl-C until `check()`, which raises `Interrupted`. Within
    `listening()` it is raised at once. A second signal ends the program as usual. `hint` completes the message of the end."""

    def __init__(self, hint: str = ''):
        self.signal: int | None = None
        self.held, self.hint = True, hint

    def __enter__(self) -> 'StopSignal':
        self.before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, kind, error, trace) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.hint and isinstance(error, Interrupted):
            error.saved = f': everything is saved{self.hint}'
        elif self.hint and isinstance(error, KeyboardInterrupt):
            error.args = (f': the last epoch that was done is saved{self.hint}',)

    def _handle(self, number, frame):
        for each, handler in self.before.items():
            signal.signal(each, handler)
        self.signal = number
        if not self.held:
            raise Interrupted(number)

    def check(self) -> None:
        """Raise `Interrupted` if a signal is pending."""
        if self.signal is not None:
            raise Interrupted(self.signal)

    def is_pending(self, accelerator: Accelerator, ask: bool) -> bool:
        """Whether a signal is pending. Several processes must stop at the same step: they ask each other when `ask` is true."""
        if accelerator.num_processes > 1 and ask:
            number = torch.tensor([self.signal or 0], device=accelerator.device)
            self.signal = accelerator.gather(number).max().item() or None
        return self.signal is not None and (accelerator.num_processes == 1 or ask)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Raise `Interrupted` for a pending signal, and at once for one that arrives within the block."""
        self.held = False
        try:
            self.check()
            yield
        finally:
            self.held = True

    def waiting(self, accelerator: Accelerator) -> contextlib.AbstractContextManager:
        """`listening()` while a batch is awaited, which may never come. Several processes wait on: they must stop at the same step."""
        return self.listening() if accelerator.num_processes == 1 else contextlib.nullcontext()
