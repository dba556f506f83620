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
    """The parts that train one epoch, and how far it has come."""
    number: int  # from 0
    title: str  # for progress bars and messages
    loader: ComboLoader
    transform: BatchTransform
    criterion: nn.Module
    accumulate: int  # batches in a training step
    batches: int = 0  # done
    total: Any = 0.  # sum of their losses: within the epoch a tensor on the device, since reading it would wait for the device
    lr: float | None = None  # at its start; None before the first step
    started: float = field(default_factory=time.perf_counter)  # had there been no interruption

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def resume(self, saved: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken. The loader must start at batch `saved['batches']`."""
        self.batches, self.total, self.lr = (saved[name] for name in ('batches', 'total', 'lr'))
        self.started -= saved['seconds']
        self.transform.load_state_dict(saved['prepare'])
        set_random_state(saved['random'])

    def state_dict(self) -> dict[str, Any]:
        """What `interrupted/` holds beyond a checkpoint. 'prepare' is what older versions call the transform."""
        return {'batches': self.batches, 'total': float(self.total), 'prepare': self.transform.state_dict(), 'lr': self.lr,
                'random': random_state(), 'seconds': self.seconds}


class TrainingPlan:
    """Data loader, batch transform and loss for each epoch of a run.

    With --defer F, re-balancing begins after round(F n_epochs) epochs: until then images are drawn instance-wise, and the loss is the
    first of `get_deferred_loss_fns`. Mixing stays, since it does not correct for the class frequencies. Nothing is mixed in the last
    --mixup_off_epochs epochs. With --grow_from below 1 images are small at first (`size_in_epoch`). Each loader is built once, so
    that its worker processes stay.
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
        """The parts of epoch `number` (from 0), with their random streams at its start, or where `mid_epoch`, a state of it that was saved
        at an interruption, left them."""
        args, balances, mixes = self.args, number >= self.n_deferred, number < self.n_mixed
        set_seeds([args.seed, number])
        loader, transform = self.loaders[balances], self.mixed if mixes else self.plain
        if not mixes:
            loader = ComboLoader(loader.loaders[:1])  # a second one would be decoded in vain
        loader.set_epoch(number, mid_epoch['batches'] if mid_epoch else 0)
        transform.set_epoch(number)
        if args.grow_from < 1:
            transform.size = size_in_epoch(args.im_size, args.grow_from, number, args.n_epochs)
        epoch = Epoch(number, f'Epoch {number + 1}/{args.n_epochs}', loader, transform,
                      criterion=self.losses[balances], accumulate=args.accumulate)
        if mid_epoch:
            epoch.resume(mid_epoch)
        return epoch
