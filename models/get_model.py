"""Build a network by name: one of the paper's backbones (`ARCHS`), a timm model, or a function in a file of the user."""
import difflib
import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

from torch import nn

from models.arch import CIFAR, HALVES, Arch, Builder, as_arch
from models.heads import set_head
from models.own_network import own_builder
from models.published import load_file
from models.small_images import ResNet32, resnet18_28
from models.weights import check_hub, short_waits
from utils.common import InputError


def _torchvision(name: str, classifier_name: str) -> Builder:
    def build(n_classes: int, pretrained: bool, im_size: tuple[int, int] | None) -> Arch:
        import torchvision  # imported here because it takes seconds
        model = torchvision.models.get_model(name, weights='IMAGENET1K_V1' if pretrained else None, progress=sys.stderr.isatty())
        parent, _, child = classifier_name.rpartition('.')
        head = nn.Linear(cast(nn.Linear, model.get_submodule(classifier_name)).in_features, n_classes)
        setattr(model.get_submodule(parent), child, head)
        return as_arch(model, n_classes, classifier_name, initial_weights='IMAGENET1K_V1 of torchvision' if pretrained else '')
    return build


def _timm(name: str, zero_head: bool = False) -> Builder:
    def build(n_classes: int, pretrained: bool, im_size: tuple[int, int] | None) -> Arch:
        import timm  # imported here because it takes seconds
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, [*ARCHS, *timm.list_models()], n=3, cutoff=0.4)
            if name.endswith('.py'):
                raise InputError(f'--model_name {name} lacks the function: use {name}:FUNCTION')
            raise InputError(f"unknown --model_name {name}: did you mean {', '.join(near) or ', '.join(ARCHS)}?")
        published = timm.get_pretrained_cfg(name)
        if not isinstance(published.classifier, str):  # type: ignore[union-attr]
            several = 'several classifiers' if published.classifier else 'no classifier'  # type: ignore[union-attr]
            raise InputError(f'--model_name {name} has {several}: choose a network with one')
        if pretrained:
            check_hub(published)
        fixed = im_size and published.fixed_input_size  # type: ignore[union-attr]  # one image size, as for ViT
        sizes: dict[str, Any] = {'img_size': im_size} if fixed else {}
        model = timm.create_model(name, pretrained=pretrained, num_classes=n_classes, **sizes)
        config = timm.data.resolve_model_data_config(model)
        built = cast(dict[str, Any], model.default_cfg)
        tag = '.'.join(filter(None, (built['architecture'], built['tag'])))
        return as_arch(model, n_classes, built['classifier'], config['mean'], std=config['std'], zero_head=zero_head,
                       fixed_size=bool(fixed), initial_weights=f'{tag} of timm' if pretrained else '')
    return build


def _small_images(name: str, network: Callable[[int], nn.Module], scaling: tuple[Sequence[float], Sequence[float]]) -> Builder:
    def build(n_classes: int, pretrained: bool, im_size: tuple[int, int] | None) -> Arch:
        if pretrained:
            raise InputError(f'{name} is for small images and has no ImageNet weights: use --init none to train it from scratch')
        return as_arch(network(n_classes), n_classes, 'fc', *scaling)
    return build


ARCHS: dict[str, Builder] = {
    'mobilenetV2': _torchvision('mobilenet_v2', 'classifier.1'),
    'resnext50': _torchvision('resnext50_32x4d', 'fc'),
    'resnet_50': _torchvision('resnet50', 'fc'),
    'bit_resnext50_1': _timm('resnetv2_50x1_bit.goog_in21k', zero_head=True),
    'resnet32': _small_images('resnet32', ResNet32, CIFAR),  # standard for CIFAR
    'resnet18_28': _small_images('resnet18_28', resnet18_28, HALVES),  # MedMNIST
}


def get_arch(model_name: str, n_classes: int = 5, init: str = 'none', im_size: tuple[int, int] | None = None,
             head: str = 'linear') -> Arch:
    """Build the network `model_name` for `n_classes`.

    model_name: a key of ARCHS, the name of a timm model, or path/to/file.py:function (see `own_builder`).
    init: 'imagenet' (pretrained weights, downloaded or from the local cache), 'none' (random), or the path of a file with weights of this
    network (see `load_file`). Its last layer may have a different number of classes.
    im_size: (height, width) of the input, for networks that are built for one size (default: timm's).
    head: type of the last layer, a key of models.heads.HEADS.

    The attribute `initial_weights` of the model describes the loaded weights. Raises `InputError` for an unknown name, an image size that
    the network does not accept, and weights that cannot be loaded or do not fit.
    """
    build = ARCHS.get(model_name) or own_builder(model_name) or _timm(model_name)
    if init == 'imagenet':
        arch = _pretrained(build, model_name, n_classes, im_size)
    else:
        arch = _untrained(build, model_name, n_classes, im_size)
        if init != 'none':
            loaded = load_file(arch.model, init, new_classifier=head == 'cosine')
            print(f'* --init {init}: {loaded.describe()}')
            arch.model.initial_weights = init + (', but a new last layer' if loaded.new_classifier else '')
    set_head(arch.model, head)
    return arch


def _untrained(build: Builder, model_name: str, n_classes: int, im_size: tuple[int, int] | None) -> Arch:
    try:
        arch = build(n_classes, False, im_size)
    except InputError:
        raise
    except Exception as err:  # networks raise various errors for image sizes that they do not accept
        size = 'x'.join(map(str, im_size)) if im_size else 'its own size'
        raise InputError(f'--model_name {model_name} cannot be built for images of {size}: {err}') from err
    arch.model.initial_weights = arch.model.initial_weights or 'random'
    return arch


def _pretrained(build: Builder, model_name: str, n_classes: int, im_size: tuple[int, int] | None) -> Arch:
    try:
        with short_waits():
            arch = build(n_classes, True, im_size)
    except InputError:
        raise
    except Exception as err:  # each hub client has its own error types for no network, a proxy or a full disk
        reason = (str(err).strip() or type(err).__name__).splitlines()[0]
        raise InputError(f'the ImageNet weights of {model_name} cannot be loaded ({reason}): train from scratch with '
                         '--init none, or load a local state dict with --init PATH') from err
    if not arch.model.initial_weights:
        raise InputError(f'--init imagenet: the builder of {model_name} does not report which weights it loaded '
                         "(as_arch(..., initial_weights='...')): train from scratch with --init none, or load a local state dict with "
                         '--init PATH')
    return arch
