"""Image size, mixing, re-balancing and loss of each epoch, derived from the flags."""
from argparse import Namespace

import numpy as np
from numpy.typing import ArrayLike

from utils.data.sampling import get_sampling_probabilities
from utils.losses import CrossEntropy, get_deferred_loss_fns, get_loss_fn
from utils.runs import history
from utils.training.mixing import MIXING


def size_in_epoch(im_size: tuple[int, ...], start: float, epoch: int, n_epochs: int) -> tuple[int, ...]:
    """Progressive resizing (Tan and Le, ICML 2021, section 4): the image size (height, width) in `epoch`, counted from 0.

    Both sides grow linearly from `start` times `im_size` over the first 80 % of the epochs, in multiples of 16 pixels. The last epoch
    always has the full size: with fewer than 5 epochs the images grow faster, and with one epoch they do not grow.
    """
    n_growing = min(.8 * n_epochs, n_epochs - 1)
    share = start + (1 - start) * epoch / n_growing if n_growing else 1
    return tuple(im_size) if share >= 1 else tuple(min(max(round(share * side / 16), 1) * 16, side) for side in im_size)


def n_deferred(args: Namespace) -> int:
    """Number of epochs before re-balancing begins."""
    return history.n_deferred(vars(args))


def n_mixed(args: Namespace) -> int:
    """Number of epochs with mixed batches, counted from the first epoch."""
    return max(args.n_epochs - args.mixup_off_epochs, 0) if args.mixing != 'none' else 0


def get_losses(args: Namespace, class_count: ArrayLike) -> list[CrossEntropy]:
    """The training loss before re-balancing begins, and the loss after that."""
    if n_deferred(args):
        return [*get_deferred_loss_fns(args.loss_fn, class_count, args.sampling == 'instance', **args.loss_params)]
    return [get_loss_fn(args.loss_fn, class_count, **args.loss_params)] * 2


def label_shares(args: Namespace, class_count: ArrayLike, epoch: int) -> np.ndarray:
    """Expected share of each class in the labels of `epoch` (from 0), after sampling and mixing; float64 (K,)."""
    count = np.asarray(class_count, np.float64)
    sampling = args.sampling if epoch >= n_deferred(args) else 'instance'
    shares = count * get_sampling_probabilities(count, sampling, epoch, args.n_epochs)
    mixing = MIXING[args.mixing] if epoch < n_mixed(args) else None
    return mixing.label_shares(shares, count, args.mix_alpha, args.batch_size // args.accumulate) if mixing else shares


def corrects_twice(args: Namespace) -> str | None:
    """Describe how loss and sampler both correct for the class frequencies; None if they do not.

    A loss and a sampler that share the correction, such as LA with tau 0.5 and sqrt, are fine: the raw logits do not favour rare classes.
    """
    loss = get_loss_fn(args.loss_fn, [1000, 10], **args.loss_params)
    if not loss.corrects_prior or args.sampling == 'instance':
        return None
    seen = np.array([1000, 10]) * get_sampling_probabilities([1000, 10], args.sampling, 1, 2)
    prior = loss.implied_prior(seen)
    if prior is not None and prior[0] > .99 * prior[1]:
        return None
    return f'{args.loss_fn} corrects for the class frequencies, and so does --sampling {args.sampling}: use one of them'
