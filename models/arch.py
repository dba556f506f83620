"""The return value of a network builder: the network with its classifier, input normalisation and initial weights."""
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from torch import nn

from models.weights import init_classifier
from utils.common import InputError

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation of RGB values in 0..1
CIFAR = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
HALVES = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


class ImageClassifier(nn.Module):
    """Attributes that `as_arch` adds to a network. Only for type checkers: no network derives from this class."""
    n_classes: int
    classifier_name: str  # name of the last layer
    zero_head: bool  # initialise the last layer with zeros
    fixed_size: bool  # the network accepts images of one size only
    initial_weights: str  # description of the loaded weights


class Arch(NamedTuple):
    model: ImageClassifier  # (B, 3, H, W) -> logits (B, K)
    mean: tuple[float, ...]  # of RGB values in 0..1, (3,)
    std: tuple[float, ...]


Builder = Callable[[int, bool, tuple[int, int] | None], Arch]  # arguments: n_classes, pretrained, im_size (height, width)


def as_arch(model: nn.Module, n_classes: int, classifier_name: str | None = None, mean: Sequence[float] = IMAGENET[0],
            std: Sequence[float] = IMAGENET[1], *, zero_head: bool = False, fixed_size: bool = False, initial_weights: str = '') -> Arch:
    """Add to `model` the attributes that training needs, and re-initialise its last layer.

    classifier_name: the last layer, which stage two may re-initialise (default: the linear or convolutional layer that was registered
    last). mean, std: normalisation of the input (default: ImageNet). zero_head: initialise the last layer with zeros. fixed_size: the
    network accepts images of one size only. initial_weights: description of the weights that the builder loaded, empty if none.
    Raises `InputError` if the layer does not exist or does not have `n_classes` outputs.
    """
    layers = [name for name, module in model.named_modules() if name and isinstance(module, (nn.Linear, nn.Conv2d))]
    name = classifier_name or (layers[-1] if layers else '')
    how = "name the last layer with as_arch(model, n_classes, 'NAME')"
    try:
        n_outputs = len(cast(nn.Parameter, model.get_submodule(name).weight))
    except AttributeError:
        raise InputError(f"the network has no layer '{name}' with weights: {how}") from None
    if n_outputs != n_classes:
        raise InputError(f"layer '{name}' has {n_outputs} outputs instead of {n_classes}, one per class: {how}")
    network = cast(ImageClassifier, model)
    network.n_classes, network.classifier_name, network.zero_head, network.fixed_size = n_classes, name, zero_head, fixed_size
    network.initial_weights = initial_weights
    init_classifier(network)
    return Arch(network, tuple(mean), tuple(std))
