"""The state that training changes: network, moving average, optimizer and learning rate."""
from argparse import Namespace
from typing import Any

from accelerate import Accelerator

from models.weights import load_weights
from utils.common import InputError
from utils.training.network import Network
from utils.training.optim import OPTIMIZERS, MovingAverage, Schedule


class TrainState:
    """The state of a training.

    `trained` is the network itself. `evaluated` is the network to score and save: the moving average with --ema, otherwise `trained`.
    Training steps call `model`, as wrapped by `accelerator`. Evaluation calls `eval_model`.
    """

    def __init__(self, args: Namespace, network: Network, accelerator: Accelerator, n_steps: int):
        optimizer = OPTIMIZERS[args.optimizer](network.model, args)
        self.schedule = Schedule(args, optimizer, n_steps)
        self.averaged = MovingAverage(network.model, args.ema) if args.ema else None
        self.trained, self.evaluated = network.model, self.averaged.module if self.averaged else network.model
        self.eval_model = network.entry(self.evaluated)
        self.model, self.optimizer = accelerator.prepare(network.entry(network.model), optimizer)
        self.mean, self.std = network.mean, network.std

    @property
    def lr(self) -> float:
        """The learning rate, with --layer_decay that of the last layer."""
        return max(group['lr'] for group in self.optimizer.param_groups)

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.after_step()
        if self.averaged:
            self.averaged.update(self.trained)

    def checkpoint(self) -> dict[str, Any]:
        """The weights to use, their normalisation, and the state that `load` needs to resume training."""
        average = {'trained': self.trained.state_dict(), 'n_averaged': self.averaged.n_averaged} if self.averaged else {}
        return {'mean': self.mean, 'std': self.std, 'state_dict': self.evaluated.state_dict(),
                'optimizer': self.optimizer.state_dict(), 'schedule': self.schedule.state_dict()} | average

    def load(self, checkpoint: dict[str, Any] | None) -> None:
        """Resume from `checkpoint` (see `read_checkpoint`), if there is one. Raises `InputError` if it does not fit this run."""
        if checkpoint is None:
            return
        folder = checkpoint['folder']
        load_weights(self.evaluated, checkpoint['state_dict'], folder)
        if self.averaged:
            if not {'trained', 'n_averaged'} <= set(checkpoint):
                raise InputError(f'{folder} has no state for --ema: start the run again with --overwrite')
            load_weights(self.trained, checkpoint['trained'], folder)
            self.averaged.n_averaged.copy_(checkpoint['n_averaged'])
        try:
            self.optimizer.load_state_dict(checkpoint['optimizer'])
            self.schedule.load_state_dict(checkpoint['schedule'])
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as err:  # from another network or optimizer
            raise InputError(f'{folder}: the optimizer state does not fit this run: start it again with --overwrite') from err
