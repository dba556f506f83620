"""Stage two: start from the weights of stage one, and train the whole network or only its classifier."""
import math
from typing import NamedTuple

import torch
from torch import nn

from models.get_model import Arch, get_arch
from models.heads import get_head, set_head
from models.weights import init_classifier, load_weights
from utils.common import InputError
from utils.model_saving_loading import read_checkpoint


class StageOne(NamedTuple):
    """Facts about the run that stage two starts from; all None without one."""
    facts: dict | None = None  # for config.cfg: path, epoch, metric, score, loaded (number of tensors), im_size
    class_names: list | None = None
    image_hashes: torch.Tensor | None = None  # its `seen_images`; None for checkpoints of version 0.1 as well


def get_stage_two(path: str, model_name: str, n_classes: int, im_size: tuple[int, int], head: str) -> tuple[Arch, StageOne]:
    """Build the network of stage one with the weights at `path` (see `read_checkpoint`) and a last layer of kind `head`, a key of HEADS.

    If stage one had another kind of last layer, the weights that fit are kept ('scaled' wraps the whole layer). The optimizer state is not
    loaded. -> Arch, StageOne. Raises `InputError` if stage one has another network or number of classes.
    """
    parent = read_checkpoint(path)
    if members := parent['config'].get('members'):
        raise InputError(f"--pretrained_weights {parent['folder']} is an ensemble: give one of its networks, such as {members[0]['path']}")
    for flag, own, given in (('--model_name', parent['model_name'], model_name), ('--n_classes', len(parent['class_names']), n_classes)):
        if own != given:
            raise InputError(f"--pretrained_weights {parent['folder']} was trained with {flag} {own}, this run has {given}: "
                             f'give {flag} {own}')
    own_head = parent['config'].get('head', 'linear')
    if (own_head, head) == ('cosine', 'scaled'):
        raise InputError(f"--trainable scale: {parent['folder']} was trained with LDAM, whose cosine classifier already has a scale: "
                         'use --trainable classifier')
    arch = get_arch(model_name, n_classes, 'none', im_size, head=own_head)
    load_weights(arch.model, parent['state_dict'], parent['folder'])
    if head == 'scaled' != own_head:
        set_head(arch.model, 'scaled')
    elif head != own_head:
        fresh = get_arch(model_name, n_classes, 'none', im_size, head=head).model
        load_weights(fresh, arch.model.state_dict(), parent['folder'], skip_classifier_of_other_size=True)
        arch = arch._replace(model=fresh)
    arch.model.initial_weights = parent['folder']
    metric = parent['config']['metric']
    facts = {'path': parent['folder'], 'epoch': parent['epoch'], 'metric': metric, 'score': parent['metrics'].get(metric, math.nan),
             'loaded': len(parent['state_dict']), 'im_size': tuple(parent['im_size'])}
    return arch, StageOne(facts, parent['class_names'], parent['image_hashes'])


def set_trainable(model: nn.Module, trainable: str) -> tuple[list[str], list[str]]:
    """Freeze what `trainable` excludes. -> names of the frozen and of the re-initialised parameters.

    'all': nothing is frozen. 'classifier': only the last layer is trained, re-initialised (cRT). 'scale': only one factor per class is
    trained, on the output of the unchanged last layer (LWS). Both are from Kang et al., ICLR 2020. `train_mode` keeps the statistics of
    frozen layers fixed.
    """
    if trainable == 'all':
        return [], []
    model.requires_grad_(False)
    if trainable == 'scale':
        get_head(model).scale.requires_grad_(True)
    else:
        get_head(model).requires_grad_(True)
        init_classifier(model)
    names = dict(model.named_parameters())
    frozen = [name for name, parameter in names.items() if not parameter.requires_grad]
    return frozen, [name for name in names if name not in frozen and trainable == 'classifier']


def train_mode(model: nn.Module) -> None:
    """Set training mode. With a frozen backbone, only the classifier is set, so BatchNorm and Dropout before it stay fixed."""
    frozen = not all(parameter.requires_grad for parameter in model.parameters())
    model.train(not frozen)
    get_head(model).train()


def describe_start(initial_weights: str, im_size: tuple[int, int], parent: dict | None, frozen: list[str],
                   reinitialised: list[str]) -> str:
    """Describe the initial weights of a run in one line. `initial_weights`: see `get_arch`."""
    parts = [f'initial weights: {initial_weights}']
    if parent:
        parts = [f"stage two from {parent['path']} (epoch {parent['epoch']}, {parent['metric']} {100 * parent['score']:.2f})",
                 f"{parent['loaded']} tensors loaded"]
        if parent['im_size'] != im_size:
            parts += ['stage one was trained at {}x{}, not at {}x{}'.format(*parent['im_size'], *im_size)]
    if frozen:
        parts += [f"re-initialised: {', '.join(reinitialised)}"] if reinitialised else ['last layer kept, one scale per class trained']
        parts += [f'{len(frozen)} parameter tensors frozen, with BatchNorm statistics']
    return '; '.join(parts)
