"""What a builder returns: a network with its last layer, normalisation and first weights."""
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from torch import nn

from models.weights import init_classifier
from utils.common import InputError

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation of RGB values of 0..1
CIFAR = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class ImageClassifier(nn.Module):
    """The attributes that `as_arch` gives a network, for type checkers: no network derives from this class."""
    n_classes: int
    classifier_name: str  # the last layer
    zero_head: bool  # the last layer starts from zeros
    fixed_size: bool  # images of one size only
    initial_weights: str  # what was loaded, in words


class Arch(NamedTuple):
    model: ImageClassifier  # (B, 3, H, W) -> logits (B, K)
    mean: tuple[float, ...]  # of RGB values of 0..1, (3,)
    std: tuple[float, ...]


Builder = Callable[[int, bool, tuple[int, int] | None], Arch]  # of n_classes, pretrained, im_size (height, width)


def as_arch(model: nn.Module, n_classes: int, classifier_name: str | None = None, mean: Sequence[float] = IMAGENET[0],
            std: Sequence[float] = IMAGENET[1], *, zero_head: bool = False, fixed_size: bool = False, initial_weights: str = '') -> Arch:
    """`model` with the facts that training needs; its last layer is initialised again.

    classifier_name: the last layer, which stage two may re-initialise (default: the last linear or convolutional layer in the order of
    registration). mean, std: of the input, ImageNet's by default. zero_head: initialise the last layer with zeros. fixed_size: the network
    takes images of one size only. initial_weights: the weights that the builder loaded, in words; empty for none.
    Raises `InputError` if there is no such layer, or if it does not have `n_classes` outputs.
    """
    layers = [name for name, module in model.named_modules() if name and isinstance(module, (nn.Linear, nn.Conv2d))]
    name = classifier_name or (layers[-1] if layers else '')
    how = "name the last layer with as_arch(model, n_classes, 'NAME')"
    try:
        n_outputs = len(cast(nn.Parameter, model.get_submodule(name).weight))
    except AttributeError:
        raise InputError(f"the network has no layer '{name}' with weights: {how}") from None
    if n_outputs != n_classes:
        raise InputError(f"layer '{name}' has {n_outputs} outputs instead of {n_classes}, one a class: {how}")
    network = cast(ImageClassifier, model)
    network.n_classes, network.classifier_name, network.zero_head, network.fixed_size = n_classes, name, zero_head, fixed_size
    network.initial_weights = initial_weights
    init_classifier(network)
    return Arch(network, tuple(mean), tuple(std))
