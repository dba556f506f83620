"""The network of a run: build it, load its initial weights, and test a forward pass before any image is decoded."""
import copy
from argparse import Namespace
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from models.get_model import get_arch
from models.heads import get_head
from utils.common import InputError, out_of_memory
from utils.losses import LOSSES
from utils.prediction.inference import Normalise
from utils.reproducibility import random_state, set_random_state
from utils.training.optim import layer_groups
from utils.training.phases import size_in_epoch
from utils.training.two_stage import StageOne, describe_start, get_stage_two, set_trainable, train_mode


class LastLayer(nn.Module):
    """The last layer of `network`, for cached features: (B, C) or (B, C, 1, 1) -> logits (B, K)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network  # the whole network, whose other layers are frozen

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return get_head(self.network)(features)


@dataclass
class Network:
    """The network of a run and its initial state.

    `model` is the whole network, as saved in checkpoints. With `on_features`, the data loaders yield the inputs of its last layer
    (`cache_features`), and training and evaluation call only that layer.
    """
    model: Any  # nn.Module, with the attributes of `Arch.model`
    mean: tuple  # of the input, per channel
    std: tuple
    head: str  # key of HEADS
    stage_one: StageOne
    frozen: list[str]  # names of parameters
    reinitialised: list[str]
    normalise: Normalise  # uint8 batch -> input
    on_features: bool = False

    def entry(self, model: nn.Module) -> nn.Module:
        """The module to call for the logits of `model`, which is the network or its moving average."""
        return LastLayer(model) if self.on_features else model

    def describe(self, args: Namespace) -> str:
        n_trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        start = describe_start(self.model.initial_weights, args.im_size, self.stage_one.facts, self.frozen,
                               reinitialised=self.reinitialised)
        scale = f'input: mean {_shown(self.mean)}, std {_shown(self.std)}'
        return f'* {args.model_name}: {n_trainable:,} trainable parameters; {scale}; {start}'

    def to(self, accelerator: Accelerator, sync_bn: bool = False) -> None:
        """Move the network to the device of `accelerator`. `sync_bn`: compute BatchNorm statistics over all processes."""
        if sync_bn and accelerator.num_processes > 1:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        self.model = self.model.to(accelerator.device, memory_format=torch.channels_last)
        self.normalise = Normalise(accelerator.device, self.mean, self.std)


def _shown(values: tuple) -> str:
    """(.485, .456, .406) -> '0.485 0.456 0.406'; (.5, .5, .5) -> '0.5'"""
    return ' '.join(f'{value:.4g}' for value in (values if len(set(values)) > 1 else values[:1]))


def build_network(args: Namespace, accelerator: Accelerator) -> Network:
    """Build the network with its initial weights on the CPU, and check it with `check_forward`. Raises `InputError` if the weights cannot
    be loaded or do not fit, if the check fails, or if --layer_decay finds no layers."""
    with accelerator.local_main_process_first():  # it downloads weights for the others
        network = initial_network(args)
    if args.layer_decay < 1:
        layer_groups(network.model, args)  # only for its errors
    check_forward(network.model, args, args.batch_size // args.accumulate // (1 if args.sync_bn else accelerator.num_processes))
    return network


def initial_network(args: Namespace) -> Network:
    head = 'scaled' if args.trainable == 'scale' else LOSSES[args.loss_fn].head
    if args.pretrained_weights:
        arch, stage_one = get_stage_two(args.pretrained_weights, args.model_name, args.n_classes, args.im_size, head=head)
    else:
        arch, stage_one = get_arch(args.model_name, args.n_classes, args.init, args.im_size, head=head), StageOne()
    if args.grow_from < 1 and arch.model.fixed_size:
        raise InputError(f'--grow_from {args.grow_from:g}: {args.model_name} takes images of one size only, leave the flag out')
    frozen, reinitialised = set_trainable(arch.model, args.trainable)
    model, mean, std = arch
    return Network(model, mean, std, head=head, stage_one=stage_one, frozen=frozen, reinitialised=reinitialised,
                   normalise=Normalise('cpu', mean, std))


def check_forward(model: nn.Module, args: Namespace, n_images: int) -> None:
    """Raise `InputError` if `model`, on the CPU, cannot evaluate images of --im_size or train on a batch of `n_images`.

    A copy of the network gets images of zeros: one of --im_size in evaluation mode, and at most two of the smallest training size in
    training mode. The network and the random streams do not change.
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
    except Exception as err:  # networks raise errors of all kinds
        if full := out_of_memory(err):
            raise InputError(f'{full} by --model_name {args.model_name} for a batch of {n_images} at {height}x{width}: use a smaller '
                             '--im_size') from err
        if 'more than 1 value per channel' in str(err):
            cut, smaller = (f' and --accumulate {args.accumulate}', ' or a smaller --accumulate') if args.accumulate > 1 else ('', '')
            raise InputError(f'--batch_size {args.batch_size}{cut}: BatchNorm needs two or more images in a batch at '
                             f'{height}x{width}: use a larger --batch_size{smaller}') from err
        reason = (str(err).strip() or type(err).__name__).splitlines()[0]
        raise InputError(f'--model_name {args.model_name} cannot process images of {height}x{width} ({reason}): try a larger --im_size'
                         + (', or leave out --grow_from' if args.grow_from < 1 else '')) from err
    if not isinstance(logits, torch.Tensor) or logits.shape != (n_images, args.n_classes):
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else f'a {type(logits).__name__}'
        raise InputError(f'--model_name {args.model_name} returns {shape} instead of one logit per class: choose another network')
