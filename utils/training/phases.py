"""What the flags of a training mean for each of its epochs: image size, mixing, re-balancing, loss."""
from argparse import Namespace

import numpy as np
from numpy.typing import ArrayLike

from utils.data.sampling import get_sampling_probabilities
from utils.losses import CrossEntropy, get_deferred_loss_fns, get_loss_fn
from utils.training.mixing import MIXING


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
