"""Data loader, batch transform and loss for each epoch."""
import time
from argparse import Namespace
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate.state import PartialState
from numpy.typing import ArrayLike
from torch import nn

from utils.combo_loader import ComboLoader
from utils.data.sampling import get_sampling_probabilities
from utils.get_loaders import get_combo_loader, modify_loader
from utils.losses import CrossEntropy, get_deferred_loss_fns, get_loss_fn
from utils.reproducibility import random_state, set_random_state, set_seeds
from utils.training.batches import BatchTransform
from utils.training.mixing import MIXING

if TYPE_CHECKING:  # network.py imports this file
    from utils.training.data import TrainingData
    from utils.training.network import Network


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
        """What `interrupted/` holds beyond a checkpoint."""
        return {'batches': self.batches, 'total': float(self.total), 'prepare': self.transform.state_dict(), 'lr': self.lr,
                'random': random_state(), 'seconds': self.seconds}


def size_in_epoch(im_size: tuple[int, ...], start: float, epoch: int, n_epochs: int) -> tuple[int, ...]:
    """Progressive resizing: (height, width) in an epoch (from 0). Both sides grow from `start` times those of `im_size`, linearly over
    the first 80 % of the epochs, in multiples of 16 pixels (Tan and Le, ICML 2021, section 4). The last epoch always has all of it, so
    that with less than 5 epochs they grow faster, and with one not at all."""
    n_growing = min(.8 * n_epochs, n_epochs - 1)
    share = start + (1 - start) * epoch / n_growing if n_growing else 1
    return tuple(im_size) if share >= 1 else tuple(min(max(round(share * side / 16), 1) * 16, side) for side in im_size)


def n_deferred(args: Namespace) -> int:
    """How many epochs go by before re-balancing begins."""
    return round(args.defer * args.n_epochs)


def n_mixed(args: Namespace) -> int:
    """In how many epochs, from the first one, batches are mixed."""
    return max(args.n_epochs - args.mixup_off_epochs, 0) if args.mixing != 'none' else 0


def get_losses(args: Namespace, class_count: ArrayLike) -> list[CrossEntropy]:
    """The training loss before re-balancing begins, and the one from then on."""
    if n_deferred(args):
        return [*get_deferred_loss_fns(args.loss_fn, class_count, args.sampling == 'instance', **args.loss_params)]
    return [get_loss_fn(args.loss_fn, class_count, **args.loss_params)] * 2


def label_shares(args: Namespace, class_count: ArrayLike, epoch: int) -> np.ndarray:
    """Expected shares of the classes in the labels that a loss is given in `epoch` (from 0), as sampled and mixed; float64 (K,)."""
    count = np.asarray(class_count, np.float64)
    sampling = args.sampling if epoch >= n_deferred(args) else 'instance'
    shares = count * get_sampling_probabilities(count, sampling, epoch, args.n_epochs)
    mixing = MIXING[args.mixing] if epoch < n_mixed(args) else None
    return mixing.label_shares(shares, count, args.mix_alpha, args.batch_size // args.accumulate) if mixing else shares


class TrainingPlan:
    """Data loader, batch transform and loss for each epoch of a run.

    With --defer F, re-balancing begins after round(F n_epochs) epochs: until then images are drawn instance-wise, and the loss is the
    first of `get_deferred_loss_fns`. Mixing stays, since it does not correct for the class frequencies. Nothing is mixed in the last
    --mixup_off_epochs epochs. With --grow_from below 1 images are small at first (`size_in_epoch`). Each loader is built once, so
    that its worker processes stay.
    """

    def __init__(self, args: Namespace, data: 'TrainingData', network: 'Network'):
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


def corrects_twice(args: Namespace) -> str | None:
    """What the flags do twice about the class frequencies, in words; None if nothing. A loss and a sampler that share the correction,
    such as LA with tau 0.5 and sqrt, are none: the raw logits carry no prior that prefers the rare class."""
    loss = get_loss_fn(args.loss_fn, [1000, 10], **args.loss_params)
    if not loss.corrects_prior or args.sampling == 'instance':
        return None
    seen = np.array([1000, 10]) * get_sampling_probabilities([1000, 10], args.sampling, 1, 2)
    prior = loss.implied_prior(seen)
    if prior is not None and prior[0] > .99 * prior[1]:
        return None
    return f'{args.loss_fn} corrects for the class frequencies, and so does --sampling {args.sampling}: use one of them'
