"""What trains in which epoch: loader, batch preparation and loss, as the flags combine them."""
from typing import NamedTuple

import numpy as np
from torch import nn

from utils.combo_loader import ComboLoader
from utils.data.sampling import get_sampling_probabilities
from utils.get_loaders import get_combo_loader, modify_loader
from utils.losses import get_deferred_loss_fns, get_loss_fn
from utils.training.batches import Plain
from utils.training.mixing import MIXING


class Phase(NamedTuple):
    loader: ComboLoader
    prepare: Plain
    criterion: nn.Module


def size_in_epoch(im_size, start, epoch, n_epochs):
    """Progressive resizing: (height, width) in an epoch (from 0). Both sides grow from `start` times those of `im_size`, linearly over
    the first 80 % of the epochs, in multiples of 16 pixels (Tan and Le, ICML 2021, section 4). The last epoch always has all of it, so
    that with less than 5 epochs they grow faster, and with one not at all."""
    n_growing = min(.8 * n_epochs, n_epochs - 1)
    share = start + (1 - start) * epoch / n_growing if n_growing else 1
    return tuple(im_size) if share >= 1 else tuple(min(max(round(share * side / 16), 1) * 16, side) for side in im_size)


def n_deferred(args):
    """How many epochs go by before re-balancing begins."""
    return round(args.defer * args.n_epochs)


def n_mixed(args):
    """In how many epochs, from the first one, batches are mixed."""
    return max(args.n_epochs - args.mixup_off_epochs, 0) if args.mixing != 'none' else 0


def get_losses(args, class_count):
    """The training loss before re-balancing begins, and the one from then on."""
    if n_deferred(args):
        return get_deferred_loss_fns(args.loss_fn, class_count, args.sampling == 'instance', **args.loss_params)
    return [get_loss_fn(args.loss_fn, class_count, **args.loss_params)] * 2


def label_shares(args, class_count, epoch):
    """Expected shares of the classes in the labels that a loss is given in `epoch` (from 0), as sampled and mixed; float64 (K,)."""
    count = np.asarray(class_count, np.float64)
    sampling = args.sampling if epoch >= n_deferred(args) else 'instance'
    shares = count * get_sampling_probabilities(count, sampling, epoch, args.n_epochs)
    mixing = MIXING[args.mixing] if epoch < n_mixed(args) else None
    return mixing.label_shares(shares, count, args.mix_alpha, args.batch_size // args.accumulate) if mixing else shares


class Method:
    """`phase(epoch)` gives the parts of the batch loop for an epoch (from 0), of which the first `batches` are left out.

    With `defer` F, re-balancing begins after round(F n_epochs) epochs: until then images are drawn instance-wise, and the loss is
    the one of `get_deferred_loss_fns`; the mixing stays, since it is not what corrects. In the last `mixup_off_epochs`
    epochs nothing is mixed. With `grow_from` below 1 images are small at first: `size_in_epoch`. Loaders are built once each, so that
    their worker processes stay.
    """

    def __init__(self, args, train_loader, class_count, normalise, rank=0, world_size=1):
        mixing = MIXING[args.mixing]
        self.im_size, self.grow_from, self.n_epochs = args.im_size, args.grow_from, args.n_epochs
        self.n_mixed, self.n_deferred = n_mixed(args), n_deferred(args)
        self.plain = Plain(normalise, args.augment, args.seed, rank, world_size)
        self.mixed = self.plain
        if mixing:
            self.mixed = mixing(normalise, class_count, args.mix_alpha, args.augment, args.seed, rank, world_size)
        paired = mixing is not None and mixing.n_loaders == 2

        def loader_of(sampling):
            return get_combo_loader(train_loader, sampling) if paired else ComboLoader([modify_loader(train_loader, sampling)])
        self.loaders = [loader_of(args.sampling)] * 2
        if self.n_deferred and args.sampling != 'instance':
            self.loaders[0] = loader_of('instance')
        self.losses = [loss.to(normalise.device) for loss in get_losses(args, class_count)]

    def phase(self, epoch, batches=0):
        balancing, mixing = epoch >= self.n_deferred, epoch < self.n_mixed
        loader, prepare = self.loaders[balancing], self.mixed if mixing else self.plain
        if not mixing:
            loader = ComboLoader(loader.loaders[:1])  # a second one would be decoded in vain
        loader.set_epoch(epoch, batches)
        prepare.set_epoch(epoch)
        if self.grow_from < 1:
            prepare.size = size_in_epoch(self.im_size, self.grow_from, epoch, self.n_epochs)
        return Phase(loader, prepare, self.losses[balancing])


def corrects_twice(args):
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
