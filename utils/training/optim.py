"""Optimizers, learning-rate schedules and the moving average of the weights."""
import copy
import math
from argparse import Namespace

import torch
from torch import nn
from torch.optim import lr_scheduler

from utils.common import InputError
from utils.evaluation import SMALLER_IS_BETTER


def decayed_and_not(model: nn.Module, weight_decay: float) -> list[dict]:
    """Parameter groups: weight decay for matrices and filters, none for biases and normalisation layers."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [{'params': [p for p in trainable if p.ndim > 1], 'weight_decay': weight_decay},
            {'params': [p for p in trainable if p.ndim <= 1], 'weight_decay': 0.}]


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def layer_groups(model: nn.Module, args: Namespace, *, spare_vectors: bool = False) -> list[dict]:
    """Parameter groups for --layer_decay: the last layer has the rate `args.lr`, and each layer before it `args.layer_decay` times that of
    the next one (Clark et al., ICLR 2020, ELECTRA; Bao et al., ICLR 2022, BEiT).

    The layers are those of timm, such as the blocks of a ViT. In a network that is not timm's, each 12 weight tensors before the
    classifier are a layer. spare_vectors: no weight decay for biases and normalisation layers. Raises `InputError` if there is one layer.
    """
    from timm.optim import param_groups_layer_decay  # imported here because it takes seconds
    if not hasattr(model, 'pretrained_cfg'):  # where timm looks up how the names of the classifier start
        model.pretrained_cfg = {'classifier': f'{model.classifier_name}.'}  # type: ignore[assignment]
    groups = param_groups_layer_decay(model, args.wd, layer_decay=args.layer_decay, weight_decay_exclude_1d=spare_vectors)
    if {group['lr_scale'] for group in groups} == {1} and all(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f'--layer_decay {args.layer_decay:g}: all weights of {args.model_name} are in one layer: leave the flag out')
    return [{'params': group['params'], 'weight_decay': group['weight_decay'], 'lr': args.lr * group['lr_scale']} for group in groups]


def _groups(model, args, *, spare_vectors=False):
    if args.layer_decay < 1:
        return layer_groups(model, args, spare_vectors=spare_vectors)
    return [group for group in decayed_and_not(model, args.wd) if group['params']] if spare_vectors else trainable_parameters(model)


def _fused(model):
    """On CUDA, update all parameters in one kernel."""
    return {'fused': True} if next(model.parameters()).is_cuda else {}


# sgd and adam decay every parameter, as in the original. adamw excludes biases and normalisation layers, which is common practice.
OPTIMIZERS = {
    'sgd': lambda model, args: torch.optim.SGD(_groups(model, args), args.lr, args.momentum, weight_decay=args.wd, **_fused(model)),
    'adam': lambda model, args: torch.optim.Adam(_groups(model, args), args.lr, weight_decay=args.wd, **_fused(model)),
    'adamw': lambda model, args: torch.optim.AdamW(_groups(model, args, spare_vectors=True), args.lr, **_fused(model)),
}
SCHEDULES = {'plateau': 0., 'step': 0., 'cosine': .05, 'onecycle': .3}  # name -> default fraction of warm-up steps
SHORT = 10  # after a shorter decay, the last step would still have more than a few percent of the rate


class Schedule:
    """Learning-rate schedule. Call `after_step()` after each training step and `after_epoch(value)` with the validation metric (None:
    skip the epoch).

    plateau: divide by 10 after more than `patience` epochs without improvement, as in the original. step: divide by 10 after 1/2 and after
    3/4 of the steps (He et al., CVPR 2016, section 4.2). cosine: half a cosine from `lr` to `min_lr` over the whole training. onecycle:
    torch's OneCycleLR (Smith and Topin, 2018), which also varies the momentum. `warmup`: fraction of all steps in which the rate rises,
    linearly from 1 % of lr or, for onecycle, along a cosine from 4 %.

    cosine and onecycle reach their minimum after the last step, so the last step is close to it. If a long warm-up leaves fewer than
    SHORT steps, they reach it at the last step, which would otherwise have a high rate.

    With --layer_decay, the rates of the groups of `optimizer` keep their ratios, and `lr` and `min_lr` are those of the last layer.
    """

    def __init__(self, args: Namespace, optimizer: torch.optim.Optimizer, n_steps: int):
        name, warmup, lr, min_lr = args.schedule, args.warmup, args.lr, args.min_lr
        self.name, self.lr, self.min_lr = name, lr, min_lr
        rates = [group['lr'] for group in optimizer.param_groups]
        n_warm, end = round(warmup * n_steps), n_steps
        self.by_step: lr_scheduler.LRScheduler | None = None
        self.by_epoch: lr_scheduler.ReduceLROnPlateau | None = None
        if n_warm > max(n_steps / 2, n_steps - SHORT) and name in ('cosine', 'onecycle') and n_steps > 1:
            end = n_steps - 1
            n_warm = min(n_warm, end - 1)
        if name == 'onecycle':
            if warmup * (end + 1) == 1:  # a warm-up of zero steps, by which torch would divide
                warmup = math.nextafter(warmup, 0)
            self.by_step = lr_scheduler.OneCycleLR(optimizer, rates, total_steps=end + 1, pct_start=warmup)
        elif name in ('cosine', 'step'):
            def cosine(step):
                floor = min_lr / lr
                return floor + (1 - floor) * (1 + math.cos(math.pi * min((step - n_warm) / max(end - n_warm, 1), 1))) / 2

            def stairs(step):
                return .1 ** ((step >= n_steps / 2) + (step >= 3 * n_steps / 4))
            decay = cosine if name == 'cosine' else stairs
            self.by_step = lr_scheduler.LambdaLR(optimizer, lambda step: .01 + .99 * step / n_warm if step < n_warm else decay(step))
        else:
            self.by_step = lr_scheduler.LinearLR(optimizer, .01, total_iters=n_warm) if n_warm else None
            # By default, torch ignores a step down by less than 1e-8, which the first layers of a deep network may need.
            lowest = {'min_lr': [min_lr * rate / lr for rate in rates], 'eps': 0} if len(set(rates)) > 1 else {'min_lr': min_lr}
            self.by_epoch = lr_scheduler.ReduceLROnPlateau(optimizer, 'min' if args.metric in SMALLER_IS_BETTER else 'max', factor=.1,
                                                           patience=args.patience, **lowest)
        self.steps, self.n_warm = 0, n_warm

    def after_step(self) -> None:
        self.steps += 1
        if self.by_step and (self.by_epoch is None or self.steps <= self.n_warm):
            self.by_step.step()

    def after_epoch(self, value: float | None) -> None:
        if self.by_epoch and value is not None and self.steps >= self.n_warm:
            self.by_epoch.step(value)

    def finished(self, history: list[dict]) -> bool:
        """True if the plateau schedule has trained an epoch at the minimum rate after starting at a higher one. `history`: the records
        of log.jsonl."""
        return self.name == 'plateau' and bool(history) and history[-1]['lr'] <= self.min_lr * (1 + 1e-6) < self.lr

    def state_dict(self) -> dict:
        return {'steps': self.steps} | {name: getattr(self, name).state_dict() for name in ('by_step', 'by_epoch') if getattr(self, name)}

    def load_state_dict(self, state: dict) -> None:
        self.steps = state['steps']
        for name in ('by_step', 'by_epoch'):
            if getattr(self, name):
                getattr(self, name).load_state_dict(state[name])


def _tensors(model, floating):
    """Weights that are trained, and buffers of `model`: those that are floating-point numbers, or those that are not.

    Frozen weights are left out: their average is the weights, and to compute it takes longer than to train a last layer.
    """
    return [tensor for tensor in (*trainable_parameters(model), *model.buffers()) if tensor.is_floating_point() == floating]


class MovingAverage:
    """Exponential moving average `module` of weights and BatchNorm statistics, after `n_averaged` updates.

    After n updates the decay is at most (1 + n) / (10 + n), so that even short trainings forget the random initial weights. Torch's
    `AveragedModel` copies its counter to the device in each update, and the CPU would wait for that.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.module, self.decay, self.n_averaged = copy.deepcopy(model), decay, torch.tensor(0)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        n = int(self.n_averaged)
        decay = min(self.decay, (1 + n) / (10 + n)) if n else 0
        torch._foreach_lerp_(_tensors(self.module, floating=True), _tensors(model, floating=True), 1 - decay)
        if counters := _tensors(self.module, floating=False):  # of BatchNorm
            torch._foreach_copy_(counters, _tensors(model, floating=False))
        self.n_averaged += 1
