"""name -> network with its normalisation. `ARCHS` names the paper's backbones; any other name is a timm model."""
import difflib
import sys
from typing import NamedTuple

import torchvision
from torch import nn

from models.heads import set_head
from models.resnet32 import ResNet32
from models.weights import check_hub, init_classifier, load_weights, read_state_dict, short_waits
from utils.common import InputError

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class Arch(NamedTuple):
    # With attributes n_classes, classifier_name (the last layer, which stage two may re-initialise), fixed_size, and initial_weights: what
    # the builder loaded, in words; empty for random weights.
    model: nn.Module
    mean: tuple
    std: tuple


def _torchvision(builder, classifier_name):
    def build(n_classes, pretrained, im_size):
        model = builder(weights='IMAGENET1K_V1' if pretrained else None, progress=sys.stderr.isatty())
        parent, _, child = classifier_name.rpartition('.')
        head = nn.Linear(model.get_submodule(classifier_name).in_features, n_classes)
        setattr(model.get_submodule(parent), child, head)
        return _arch(model, n_classes, classifier_name, *IMAGENET, initial_weights='IMAGENET1K_V1 of torchvision' if pretrained else '')
    return build


def _timm(name, zero_head=False):
    def build(n_classes, pretrained, im_size):
        import timm  # here, since it takes seconds and the torchvision backbones do without
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, [*ARCHS, *timm.list_models()], n=3, cutoff=0.4)
            raise InputError(f"unknown --model_name {name}: did you mean {', '.join(near) or ', '.join(ARCHS)}?")
        published = timm.get_pretrained_cfg(name)
        if not isinstance(published.classifier, str):  # type: ignore[union-attr]
            several = 'several classifiers' if published.classifier else 'no classifier'  # type: ignore[union-attr]
            raise InputError(f'--model_name {name} has {several}: choose a network with one')
        if pretrained:
            check_hub(published)
        fixed = im_size and published.fixed_input_size  # type: ignore[union-attr]  # such as ViT: one size
        model = timm.create_model(name, pretrained=pretrained, num_classes=n_classes, **({'img_size': im_size} if fixed else {}))
        config = timm.data.resolve_model_data_config(model)
        tag = '.'.join(filter(None, (model.default_cfg['architecture'], model.default_cfg['tag'])))
        return _arch(model, n_classes, model.default_cfg['classifier'], config['mean'], config['std'], zero_head, bool(fixed),
                     f'{tag} of timm' if pretrained else '')
    return build


def _resnet32(n_classes, pretrained, im_size):
    if pretrained:
        raise InputError('resnet32 is for small images, trained from scratch: there are no ImageNet weights of it, give --init none')
    return _arch(ResNet32(n_classes), n_classes, 'fc', *CIFAR)


def _arch(model, n_classes, classifier_name, mean, std, zero_head=False, fixed_size=False, initial_weights=''):
    model.initial_weights = initial_weights
    model.n_classes, model.classifier_name, model.zero_head, model.fixed_size = n_classes, classifier_name, zero_head, fixed_size
    init_classifier(model)
    return Arch(model, tuple(mean), tuple(std))


ARCHS = {
    'mobilenetV2': _torchvision(torchvision.models.mobilenet_v2, 'classifier.1'),
    'resnext50': _torchvision(torchvision.models.resnext50_32x4d, 'fc'),
    'resnet_50': _torchvision(torchvision.models.resnet50, 'fc'),
    'bit_resnext50_1': _timm('resnetv2_50x1_bit.goog_in21k', zero_head=True),
    'resnet32': _resnet32,
}


def get_arch(model_name, n_classes=5, init='none', im_size=None, head='linear'):
    """Build `model_name` for `n_classes`. -> Arch(model, mean, std)

    head: kind of the last layer, a key of models.heads.HEADS.
    im_size: (height, width) of the input, for networks that are built for one size (timm's own where it is None).
    init: 'imagenet' (downloads pretrained weights, or takes them from the local cache), 'none' (random), or the path of
    a local state dict (.pth read with weights_only=True, or .safetensors) of this network, whose last layer may have
    another number of classes. Raises `InputError` for an unknown name and for weights that cannot be had or do not fit.
    The model's attribute `initial_weights` says what was loaded.
    """
    build = ARCHS.get(model_name) or _timm(model_name)

    def with_head(arch):
        set_head(arch.model, head)
        return arch
    if init != 'imagenet':
        try:
            arch = build(n_classes, False, im_size)
        except InputError:
            raise
        except Exception as err:  # networks refuse an image size in ways of their own
            size = 'x'.join(map(str, im_size)) if im_size else 'its own size'
            raise InputError(f'--model_name {model_name} cannot be built for images of {size}: {err}') from err
        arch.model.initial_weights = 'random'
        if init != 'none':
            skipped = load_weights(arch.model, read_state_dict(init), init, skip_classifier_of_other_size=True)
            arch.model.initial_weights = init + (', but a new last layer' if skipped or head == 'cosine' else '')
        return with_head(arch)
    try:
        with short_waits():
            arch = build(n_classes, True, im_size)
    except InputError:
        raise
    except Exception as err:  # each hub client raises kinds of its own, for no network, a proxy, a full disk
        reason = (str(err).strip() or type(err).__name__).splitlines()[0]
        raise InputError(f'the ImageNet weights of {model_name} cannot be loaded ({reason}): train from scratch with '
                         '--init none, or give a local state dict with --init PATH') from err
    if not getattr(arch.model, 'initial_weights', ''):  # of a builder that ignores `pretrained`
        raise InputError(f'--init imagenet: the builder of {model_name} in ARCHS loads no weights (one that does names them in '
                         'model.initial_weights): train from scratch with --init none, or give a local state dict with --init PATH')
    return with_head(arch)
