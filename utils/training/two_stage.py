"""Stage two: start from the weights of a finished stage one, with all of the network trainable or the classifier alone."""
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
    """What stage two knows of the run that it starts from; all None where there is none."""
    facts: dict | None = None  # for config.cfg: path, epoch, metric, score, loaded (number of tensors), im_size
    class_names: list | None = None
    image_hashes: torch.Tensor | None = None  # its `seen_images`; None in checkpoints of version 0.1, too


def get_stage_two(path: str, model_name: str, n_classes: int, im_size: tuple[int, int], head: str) -> tuple[Arch, StageOne]:
    """The network of stage one with the weights at `path` (see `read_checkpoint`) and a last layer of kind `head`, a key of HEADS;
    where stage one had another kind it takes over what fits ('scaled' takes all of it, inside). No optimizer state is taken over.

    -> Arch, StageOne. Raises `InputError` if stage one is of another network or number of classes.
    """
    parent = read_checkpoint(path)
    for flag, own, given in (('--model_name', parent['model_name'], model_name), ('--n_classes', len(parent['class_names']), n_classes)):
        if own != given:
            raise InputError(f"--pretrained_weights {parent['folder']} was trained with {flag} {own}, this run has {given}: "
                             f'give {flag} {own}')
    own_head = parent['config'].get('head', 'linear')
    if (own_head, head) == ('cosine', 'scaled'):
        raise InputError(f"--trainable scale: {parent['folder']} was trained with LDAM, whose cosine classifier has a scale of its own")
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
    """'all'; 'classifier': the last layer alone, initialised anew (cRT); 'scale': one factor per class on the output of the
    last layer as it is (LWS, both Kang et al., ICLR 2020). The rest is frozen, and `train_mode` keeps its statistics fixed.
    -> names of the frozen and of the re-initialised parameters."""
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
    """Training mode; with a frozen backbone for the classifier alone, so that BatchNorm and Dropout before it are fixed."""
    frozen = not all(parameter.requires_grad for parameter in model.parameters())
    model.train(not frozen)
    get_head(model).train()


def describe_start(initial_weights: str, im_size: tuple[int, int], parent: dict | None, frozen: list[str],
                   reinitialised: list[str]) -> str:
    """What a run starts from, in one line. `initial_weights`: see `get_arch`."""
    parts = [f'initial weights: {initial_weights}']
    if parent:
        parts = [f"stage two from {parent['path']} (epoch {parent['epoch']}, {parent['metric']} {100 * parent['score']:.2f})",
                 f"{parent['loaded']} tensors loaded"]
        if parent['im_size'] != im_size:
            parts += ['stage one saw images of {}x{}, not of {}x{}'.format(*parent['im_size'], *im_size)]
    if frozen:
        parts += [f"re-initialised: {', '.join(reinitialised)}"] if reinitialised else ['the last layer kept, its scale per class trained']
        parts += [f'{len(frozen)} parameter tensors frozen, with their BatchNorm statistics']
    return '; '.join(parts)
