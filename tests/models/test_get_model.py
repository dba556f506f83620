import pytest
import torch
from torch import nn

from models.get_model import ARCHS, as_arch, get_arch
from tests.tiny_network import NAME, TinyNetwork
from utils.common import InputError

NETWORKS = [name for name in ARCHS if name != NAME]


@pytest.mark.parametrize('name', [*NETWORKS, 'resnet10t'])
def test_arch(name):
    model, mean, std = get_arch(name, n_classes=7)
    head = model.get_submodule(model.classifier_name)
    assert head.weight.shape[0] == 7 and model.n_classes == 7 and len(mean) == len(std) == 3
    own = {'bit_resnext50_1': (.5, .5, .5), 'resnet32': (.4914, .4822, .4465), 'resnet18_28': (.5, .5, .5)}
    assert mean == own.get(name, (.485, .456, .406))
    assert (head.weight == 0).all() == (name == 'bit_resnext50_1')
    assert [n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1] == model.classifier_name
    with torch.no_grad():
        assert model.eval()(torch.rand(2, 3, 64, 64)).shape == (2, 7)


def test_resnet32():
    """It has 0.46 million weights (He et al., CVPR 2016, table 6) and an 8 x 8 feature map; the shortcut keeps the channels."""
    model = get_arch('resnet32', 10).model.eval()
    assert sum(p.numel() for p in model.parameters()) == 464_154
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert model.blocks(torch.relu(model.bn1(model.conv1(x)))).shape == (2, 64, 8, 8)
        block = model.blocks[5]
        nn.init.zeros_(block.bn2.weight)
        features = torch.rand(1, 16, 6, 6)
        out = block(features)
    assert torch.equal(out[:, 8:24], features[:, :, ::2, ::2]) and not out[:, :8].any() and not out[:, 24:].any()


def test_resnet18_28():
    """The weights of ResNet-18, but for a 3 x 3 first layer, and a map of 4 x 4 features for 28 x 28 pixels: nothing is pooled before."""
    model = get_arch('resnet18_28', 5).model.eval()
    features = []
    model.layer4.register_forward_hook(lambda module, inputs, output: features.append(output.shape))
    with torch.no_grad():
        model(torch.rand(2, 3, 28, 28))
    assert features == [(2, 512, 4, 4)]
    assert sum(p.numel() for p in model.parameters()) == 11_689_512 - 64 * 3 * (49 - 9) - 995 * 513  # 5 classes instead of 1,000


def test_the_filters_of_resnet18_28_are_drawn_as_by_default():
    """Uniformly up to 1 / sqrt(fan_in), as in the code of the MedMNIST paper."""
    for name, module in get_arch('resnet18_28', 5).model.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.abs().max().item() == pytest.approx(module.weight[0].numel() ** -.5, rel=.05), name


@pytest.mark.parametrize('name', ['resnet32', 'resnet18_28'])
def test_networks_for_small_images_have_no_imagenet_weights(name):
    with pytest.raises(InputError, match=f'{name} is for small images and has no ImageNet weights: use --init none'):
        get_arch(name, 10, init='imagenet')


def test_network_built_for_one_size():
    with torch.no_grad():
        assert get_arch('vit_tiny_patch16_224', 3, im_size=(48, 64)).model.eval()(torch.rand(1, 3, 48, 64)).shape == (1, 3)


def test_unknown_name():
    with pytest.raises(InputError, match='unknown --model_name mobilnetV2: did you mean mobilenetV2'):
        get_arch('mobilnetV2', 3)


@pytest.mark.parametrize('form', ['plain', 'wrapped', 'safetensors'])
def test_init_from_file(tmp_path, form):
    """The backbone is loaded from a state dict with another number of classes; the last layer stays random."""
    source = get_arch('mobilenetV2', 1000).model
    state, path = source.state_dict(), str(tmp_path / 'weights.pth')
    if form == 'safetensors':
        from safetensors.torch import save_file
        path = str(tmp_path / 'weights.safetensors')
        save_file(state, path)
    else:
        torch.save({'state_dict': {f'module.{k}': v for k, v in state.items()}} if form == 'wrapped' else state, path)
    model = get_arch('mobilenetV2', 4, init=path).model
    own = model.state_dict()
    assert all(torch.equal(own[name], state[name]) for name in own if not name.startswith('classifier'))
    assert own['classifier.1.weight'].shape == (4, 1280)


def test_init_errors(tmp_path):
    with pytest.raises(InputError, match='no such weights file'):
        get_arch('mobilenetV2', 4, init=str(tmp_path / 'absent.pth'))
    (tmp_path / 'text.pth').write_text('hello')
    with pytest.raises(InputError, match=r'text\.pth cannot be read as a state dict'):
        get_arch('mobilenetV2', 4, init=str(tmp_path / 'text.pth'))
    torch.save(get_arch('resnet10t', 4).model.state_dict(), tmp_path / 'other.pth')
    with pytest.raises(InputError, match=r'other\.pth does not fit the network: features\.0\.0\.weight is missing') as error:
        get_arch('mobilenetV2', 4, init=str(tmp_path / 'other.pth'))
    n_own, n_other = (len(get_arch(name, 4).model.state_dict()) for name in ('mobilenetV2', 'resnet10t'))
    # Weight and bias of the last layer may be new, and those of another one may be left out.
    assert f'({n_own - 2} of its {n_own} tensors do not fit, {n_other - 2} of the {n_other} in the file are unknown)' in str(error.value)
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(InputError, match='does not contain a state dict'):
        get_arch('mobilenetV2', 4, init=str(tmp_path / 'list.pth'))


def test_imagenet_without_network(monkeypatch):
    """One line tells how to continue, whatever error the hub client raises."""
    def offline(*args, **kwargs):
        raise OSError('<urlopen error [Errno -3] Temporary failure in name resolution>\nmore')
    monkeypatch.setattr(torch.hub, 'load_state_dict_from_url', offline)
    monkeypatch.setattr('torchvision.models._api.load_state_dict_from_url', offline)
    with pytest.raises(InputError, match=r'ImageNet weights of resnet_50 cannot be loaded .*--init none, or .* --init PATH') as error:
        get_arch('resnet_50', 5, init='imagenet')
    assert '\n' not in str(error.value)


def test_imagenet_weights_are_used(monkeypatch):
    """With --init imagenet, the backbone gets the weights of the hub. Here the hub returns random weights."""
    from torchvision.models import mobilenet_v2
    state = mobilenet_v2().state_dict()
    monkeypatch.setattr('torchvision.models._api.load_state_dict_from_url', lambda *args, **kwargs: state)
    model = get_arch('mobilenetV2', 5, init='imagenet').model
    assert model.initial_weights == 'IMAGENET1K_V1 of torchvision'
    own = model.state_dict()
    assert all(torch.equal(own[name], state[name]) for name in own if not name.startswith('classifier'))


def test_random_weights_are_reported_as_random():
    assert get_arch(NAME, 3).model.initial_weights == 'random'


@pytest.mark.parametrize(('n_classes', 'head', 'addition'), [
    (3, 'linear', ''), (4, 'linear', ', but a new last layer'), (3, 'cosine', ', but a new last layer')])
def test_a_file_is_reported_as_the_initial_weights(tmp_path, n_classes, head, addition):
    path = str(tmp_path / 'w.pth')
    torch.save(get_arch(NAME, 3).model.state_dict(), path)
    assert get_arch(NAME, n_classes, path, head=head).model.initial_weights == path + addition


def own_builder(loaded):
    def build(n_classes, pretrained, im_size):
        return as_arch(TinyNetwork(n_classes), n_classes, 'classifier.1', initial_weights=loaded)
    return build


def test_imagenet_is_refused_for_a_builder_that_loads_no_weights(monkeypatch):
    monkeypatch.setitem(ARCHS, 'own', own_builder(''))
    with pytest.raises(InputError, match=r'^--init imagenet: the builder of own does not report .*--init none, .*--init PATH$'):
        get_arch('own', 3, 'imagenet')


def test_a_builder_reports_its_weights(monkeypatch):
    monkeypatch.setitem(ARCHS, 'own', own_builder('RETFound'))
    assert get_arch('own', 3, 'imagenet').model.initial_weights == 'RETFound'


def test_timm_weights_are_reported_by_their_tag(monkeypatch):
    """The tag tells, for example, ImageNet-21k from ImageNet-1k."""
    import timm
    create = timm.create_model
    monkeypatch.setattr(timm, 'create_model', lambda name, pretrained, **kwargs: create(name, **kwargs))
    monkeypatch.setattr('models.get_model.check_hub', lambda published: None)
    assert get_arch('bit_resnext50_1', 3, 'imagenet').model.initial_weights == 'resnetv2_50x1_bit.goog_in21k of timm'
