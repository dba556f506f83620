"""A forward pass before anything is decoded or written, so that a network, an image size and a batch that do not fit end in one line."""
import copy

import torch
from torch import nn

from utils.common import InputError, out_of_memory
from utils.reproducibility import random_state, set_random_state
from utils.training.plan import size_in_epoch
from utils.training.two_stage import train_mode


def check_forward(model: nn.Module, args, n_images: int) -> None:
    """Raise `InputError` if `model`, on the CPU, cannot score images of --im_size or train on a batch of `n_images` as `args` ask.

    A copy of the network sees zeros: one image of --im_size in evaluation mode, and at most two of the smallest size of the training in
    training mode. The network and the random streams stay as they are.
    """
    network, state = copy.deepcopy(model), random_state()
    smallest = size_in_epoch(args.im_size, args.grow_from, 0, args.n_epochs)
    try:
        _forward(network.eval(), args, 1, args.im_size)
        train_mode(network)
        _forward(network, args, min(n_images, 2), smallest)
    finally:
        set_random_state(state)


@torch.no_grad()
def _forward(network, args, n_images, size):
    height, width = size
    try:
        logits = network(torch.zeros(n_images, 3, height, width))
    except Exception as err:  # each network has kinds of its own
        if full := out_of_memory(err):
            raise InputError(f'{full} by --model_name {args.model_name} for {n_images} of the images, of {height}x{width}: use a smaller '
                             '--im_size') from err
        if 'more than 1 value per channel' in str(err):
            cut = f' and --accumulate {args.accumulate}' if args.accumulate > 1 else ''
            raise InputError(f'--batch_size {args.batch_size}{cut}: BatchNorm needs two or more images in a batch at a size of '
                             f'{height}x{width}') from err
        reason = (str(err).strip() or type(err).__name__).splitlines()[0]
        raise InputError(f'--model_name {args.model_name} cannot process images of {height}x{width} ({reason}): try a larger --im_size'
                         + (', or leave out --grow_from' if args.grow_from < 1 else '')) from err
    if not isinstance(logits, torch.Tensor) or logits.shape != (n_images, args.n_classes):
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else f'a {type(logits).__name__}'
        raise InputError(f'--model_name {args.model_name} returns {shape} instead of one logit per class: choose another network')
