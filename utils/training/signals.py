"""SIGTERM (preemption on a cluster) and Ctrl-C: finish the training step and save everything, so that the run can be resumed."""
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
    """How to resume the run, as the end of the message of an interruption; '' if nothing is saved."""
    return '' if args.do_not_save else how_to_resume(argv, args.save_path, PartialState().num_processes)


class StopSignal:
    """`with StopSignal(hint) as stop:` holds the first SIGTERM or Ctrl-C back until `check()`, which raises `Interrupted`. Within
    `listening()`, it is raised at once. A second signal ends the program as usual. `hint` is appended to the error message."""

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
            error.args = (f': the last finished epoch is saved{self.hint}',)

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
        """True if a stop is pending. It is synchronised across ranks when `ask` is true, because all must stop at the same step."""
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
        """`listening()` while waiting for a batch, which may never come. Not with several processes: they must stop at the same step."""
        return self.listening() if accelerator.num_processes == 1 else contextlib.nullcontext()
