"""Data loader, batch transform and loss for each epoch."""
import time
from argparse import Namespace
from dataclasses import dataclass, field
from typing import Any

from accelerate.state import PartialState
from torch import nn

from utils.combo_loader import ComboLoader
from utils.get_loaders import get_combo_loader, modify_loader
from utils.reproducibility import random_state, set_random_state, set_seeds
from utils.training.batches import BatchTransform
from utils.training.data import TrainingData
from utils.training.mixing import MIXING
from utils.training.network import Network
from utils.training.phases import get_losses, n_deferred, n_mixed, size_in_epoch


@dataclass
class Epoch:
    """The parts that train one epoch, and its progress."""
    number: int  # from 0
    title: str  # for progress bars and messages
    loader: ComboLoader
    transform: BatchTransform
    criterion: nn.Module
    accumulate: int  # batches in a training step
    batches: int = 0  # trained so far
    total: Any = 0.  # sum of their losses; a tensor during the epoch, because reading the value waits for the device
    lr: float | None = None  # at the start of the epoch; None before the first step
    started: float = field(default_factory=time.perf_counter)  # start time, minus the time spent before an interruption

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def resume(self, saved: dict[str, Any]) -> None:
        """Continue from `saved`, a result of `state_dict`. The loader must start at batch `saved['batches']`."""
        self.batches, self.total, self.lr = (saved[name] for name in ('batches', 'total', 'lr'))
        self.started -= saved['seconds']
        self.transform.load_state_dict(saved['prepare'])
        set_random_state(saved['random'])

    def state_dict(self) -> dict[str, Any]:
        """State that `interrupted/` holds in addition to a checkpoint. The key 'prepare' is the transform, for older versions."""
        return {'batches': self.batches, 'total': float(self.total), 'prepare': self.transform.state_dict(), 'lr': self.lr,
                'random': random_state(), 'seconds': self.seconds}


class TrainingPlan:
    """Data loader, batch transform and loss for each epoch of a run.

    With --defer F, re-balancing begins after round(F n_epochs) epochs. Until then, sampling is by instance and the loss is the first of
    `get_deferred_loss_fns`. Mixing is not deferred, because it does not correct for the class frequencies. It is off in the last
    --mixup_off_epochs epochs. With --grow_from below 1, images are smaller at first (`size_in_epoch`). Each loader is built once, so
    that its worker processes persist.
    """

    def __init__(self, args: Namespace, data: TrainingData, network: Network):
        self.args = args
        self.n_steps = args.n_epochs * (len(data.train) // args.batch_size)
        self.n_mixed, self.n_deferred = n_mixed(args), n_deferred(args)
        processes, mixing = PartialState(), MIXING[args.mixing]
        options = {'augment': args.augment, 'seed': args.seed, 'rank': processes.process_index, 'world_size': processes.num_processes}
        self.plain = self.mixed = BatchTransform(network.normalise, **options)
        if mixing:
            self.mixed = mixing(network.normalise, data.class_count, args.mix_alpha, **options)
        paired = mixing is not None and mixing.n_loaders == 2

        def loader_of(sampling):
            loader = data.train_loader
            return get_combo_loader(loader, sampling) if paired else ComboLoader([modify_loader(loader, sampling)])
        self.loaders = [loader_of(args.sampling)] * 2
        if self.n_deferred and args.sampling != 'instance':
            self.loaders[0] = loader_of('instance')
        self.losses = [loss.to(network.normalise.device) for loss in get_losses(args, data.class_count)]

    def epoch(self, number: int, mid_epoch: dict[str, Any] | None = None) -> Epoch:
        """The parts of epoch `number` (from 0), with their random streams at its start. With `mid_epoch`, the state saved at an
        interruption, the epoch continues from there."""
        args, balances, mixes = self.args, number >= self.n_deferred, number < self.n_mixed
        set_seeds([args.seed, number])
        loader, transform = self.loaders[balances], self.mixed if mixes else self.plain
        if not mixes:
            loader = ComboLoader(loader.loaders[:1])  # a second loader would decode images for nothing
        loader.set_epoch(number, mid_epoch['batches'] if mid_epoch else 0)
        transform.set_epoch(number)
        if args.grow_from < 1:
            transform.size = size_in_epoch(args.im_size, args.grow_from, number, args.n_epochs)
        epoch = Epoch(number, f'Epoch {number + 1}/{args.n_epochs}', loader, transform,
                      criterion=self.losses[balances], accumulate=args.accumulate)
        if mid_epoch:
            epoch.resume(mid_epoch)
        return epoch
