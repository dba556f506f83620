"""Files in the forms of RETFound, DINO, MoCo and others, with small random networks, are compared with what timm loads from them."""
import argparse
import re
import signal

import pytest
import timm
import torch
from torch import nn

from models.get_model import as_arch, get_arch
from models.published import load_file
from tests.tiny_network import NAME, TinyNetwork
from utils.common import InputError, Interrupted

SMALL = {'depth': 2, 'embed_dim': 48, 'num_heads': 3}
MAE, DINO2, DINO2_REG, DINO3 = ('vit_large_patch16_224.mae', 'vit_small_patch14_dinov2', 'vit_small_patch14_reg4_dinov2',
                                'vit_small_patch16_dinov3_qkvb')


def network(name=MAE, n_classes=5, **changes):
    return as_arch(timm.create_model(name, num_classes=n_classes, **SMALL | changes), n_classes, 'head').model


def random_weights(name, **changes):
    """State dict of a network without classifier. Trained weights are neither zeros nor ones, which some layers start from."""
    state = timm.create_model(name, num_classes=0, **SMALL | changes).state_dict()
    return {key: torch.randn_like(tensor) / 5 for key, tensor in state.items()}


def mae_file(name=MAE, **changes):
    """As RETFound: MAE's encoder and decoder, and the state of the training."""
    decoder = {'mask_token': torch.randn(1, 1, 32), 'decoder_pos_embed': torch.randn(1, 197, 32),
               'decoder_embed.weight': torch.randn(32, 48), 'decoder_blocks.0.norm1.weight': torch.randn(32)}
    weights = random_weights(name, **changes)
    return weights, {'model': weights | decoder, 'optimizer': {'state': {}}, 'epoch': 799, 'args': argparse.Namespace(lr=1e-3)}


def dino2_file(registers):
    """As dinov2_vits14_pretrain.pth, or dinov2_vits14_reg4_pretrain.pth: 37 x 37 patches and the class token have positions."""
    weights = random_weights(DINO2_REG if registers else DINO2)
    weights |= {'pos_embed': torch.randn(1, 1 + 37 * 37, 48), 'mask_token': torch.randn(1, 48)}
    if registers:
        weights['register_tokens'] = weights.pop('reg_token')
    return weights


def dino3_file():
    """As dinov3_vits16_pretrain_lvd1689m.pth"""
    weights = {}
    for name, tensor in random_weights(DINO3).items():
        if name.endswith('q_bias'):
            bias = [tensor, torch.zeros_like(tensor), torch.randn_like(tensor)]
            weights[name.replace('q_bias', 'qkv.bias')] = torch.cat(bias)
            weights[name.replace('q_bias', 'qkv.bias_mask')] = torch.ones(3 * len(tensor))
        elif not name.endswith('v_bias'):
            weights[name.replace('gamma_1', 'ls1.gamma').replace('gamma_2', 'ls2.gamma').replace('reg_token', 'storage_tokens')] = tensor
    return weights | {'mask_token': torch.randn(1, 48), 'rope_embed.periods': torch.randn(4)}


def loaded_by_timm(name, weights, **changes):
    source = {'state_dict': weights, 'num_classes': 0, 'hf_hub_id': None, 'url': ''}
    return timm.create_model(name, pretrained=True, num_classes=0, pretrained_cfg_overlay=source, **SMALL | changes)


@pytest.fixture
def save(tmp_path):
    def save(content):
        torch.save(content, tmp_path / 'w.pth')
        return str(tmp_path / 'w.pth')
    return save


def assert_same_features(model, reference, size=(224, 224)):
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        got = model.eval().forward_head(model.forward_features(images), pre_logits=True)
        assert torch.equal(got, reference.eval()(images))


def assert_kept(model, before, prefix):
    """The tensors called `prefix` have their values of `before`, a copy of the state dict."""
    assert [name for name, tensor in model.state_dict().items() if name.startswith(prefix) and not torch.equal(tensor, before[name])] == []


@pytest.mark.parametrize('size', [(224, 224), (256, 256), (128, 320), (112, 448)], ids=lambda size: '{}x{}'.format(*size))
def test_mae_equals_timm(save, size):
    """The last size has as many patches as the first."""
    weights, content = mae_file()
    model = network(img_size=size)
    load_file(model, save(content))
    assert_same_features(model, loaded_by_timm(MAE, weights, img_size=size), size)
    grid = size[0] // 16, size[1] // 16
    if grid != (14, 14):
        assert torch.equal(model.pos_embed, timm.layers.resample_abs_pos_embed(weights['pos_embed'], grid, (14, 14)))


def test_the_parts_of_a_file_are_reported(save):
    fit = load_file(network(img_size=256), save(mae_file()[1]))
    assert fit.describe() == ('30 tensors loaded; left out: mask_token (1 tensor), decoder (3 tensors); new: head (2 tensors); '
                              'position embedding resized to 16x16')


def test_mae_with_average_pooling(save):
    """As in RETFound's fine-tuning: the norm of the class token is left out, and the norm of the mean is new."""
    weights, content = mae_file()
    model = network(global_pool='avg')
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fit = load_file(model, save(content))
    assert 'left out: mask_token (1 tensor), norm (2 tensors), decoder (3 tensors); new: fc_norm (2 tensors), head (2' in fit.describe()
    assert_kept(model, before, 'fc_norm')
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items() if name not in fit.new)


def test_a_fine_tuned_file_with_average_pooling(save):
    weights = random_weights(MAE, global_pool='avg')
    model = network(global_pool='avg')
    load_file(model, save({'model': weights | {'head.weight': torch.randn(2, 48), 'head.bias': torch.randn(2)}}))
    assert_same_features(model, loaded_by_timm(MAE, weights, global_pool='avg'))


def test_the_error_for_average_pooling_names_the_remedy(save):
    with pytest.raises(InputError, match=r'norm\.weight is missing .*unknown: fc_norm\.weight, fc_norm\.bias; .*global_pool'):
        load_file(network(), save(random_weights(MAE, global_pool='avg')))


@pytest.mark.parametrize('size', [(224, 224), (518, 518), (112, 280)], ids=lambda size: '{}x{}'.format(*size))
@pytest.mark.parametrize('name', [DINO2, DINO2_REG])
def test_dinov2_equals_timm(save, name, size):
    weights, model = dino2_file(name == DINO2_REG), network(name, img_size=size)
    fit = load_file(model, save(weights))
    assert_same_features(model, loaded_by_timm(name, weights, img_size=size), size)
    resized = f'; position embedding resized to {size[0] // 14}x{size[1] // 14}' if size[0] < 518 else ''
    assert fit.describe() == f'{len(fit.loaded)} tensors loaded; left out: mask_token (1 tensor); new: head (2 tensors){resized}'


def test_dinov3_equals_timm(save, capsys):
    weights, model = dino3_file(), network(DINO3, img_size=224)
    load_file(model, save(weights))
    printed = capsys.readouterr().out
    assert_same_features(model, loaded_by_timm(DINO3, weights, img_size=224))
    assert printed == ''


DINO3_WITHOUT_BIASES = 'vit_small_patch16_dinov3'


def test_the_biases_of_dinov3_need_a_network_with_biases(save):
    with pytest.raises(InputError, match=r'blocks\.0\.attn\.qkv\.bias is unknown .* 2 of the .* the --model_name that ends in _qkvb'):
        load_file(network(DINO3_WITHOUT_BIASES, img_size=224), save(dino3_file()))


def test_biases_of_zero_need_no_network_with_biases(save):
    """As dinov3_vitl16_pretrain_lvd1689m.pth"""
    weights = {name: torch.zeros_like(tensor) if name.endswith('qkv.bias') else tensor for name, tensor in dino3_file().items()}
    model = network(DINO3_WITHOUT_BIASES, img_size=224)
    assert load_file(model, save(weights)).describe().endswith(' tensors loaded; left out: mask_token (1 tensor); new: head (2 tensors)')
    assert_same_features(model, loaded_by_timm(DINO3_WITHOUT_BIASES, weights, img_size=224))


def test_registers_need_a_network_with_registers(save):
    with pytest.raises(InputError, match='register_tokens is unknown'):
        load_file(network(DINO2), save(dino2_file(registers=True)))


def prefixed(prefix, weights):
    return {prefix + name: tensor for name, tensor in weights.items()}


OTHER = {'x.weight': torch.zeros(1)}
FORMS = {
    'DataParallel': lambda w: prefixed('module.', w), 'torch.compile': lambda w: prefixed('_orig_mod.', w),
    'both': lambda w: prefixed('module._orig_mod.', w), 'Lightning': lambda w: {'state_dict': prefixed('model.', w)},
    'Lightning with a classifier': lambda w: {'state_dict': prefixed('model.backbone.', w) | prefixed('model.head.', OTHER)},
    'DINO': lambda w: {'student': OTHER, 'teacher': prefixed('backbone.', w) | prefixed('head.mlp.', OTHER)},
    'DINOv2': lambda w: {'teacher': prefixed('backbone.', w) | prefixed('dino_head.', OTHER) | prefixed('ibot_head.', OTHER)},
    'DINOv2, in chunks': lambda w: {'teacher': prefixed('backbone.', {re.sub(r'^blocks.(.)', r'blocks.\1.\1', n): w[n] for n in w})},
    'DINOv2, whole model': lambda w: {'model': prefixed('teacher.backbone.', w) | prefixed('student.backbone.', w)},
    'MoCo v2': lambda w: {'state_dict': prefixed('module.encoder_q.', w) | prefixed('module.encoder_k.', w)
                          | {'module.queue': torch.zeros(2), 'module.queue_ptr': torch.zeros(1)}},
    'MoCo v3': lambda w: {'state_dict': prefixed('module.base_encoder.', w) | prefixed('module.momentum_encoder.', w)
                          | prefixed('module.predictor.', OTHER)},
    'encoder and projector': lambda w: prefixed('encoder.', w) | prefixed('projector.', OTHER)}


@pytest.mark.parametrize('form', FORMS)
def test_prefixes_are_removed(save, form):
    weights, model = dino2_file(registers=True), network(DINO2_REG, img_size=224)
    load_file(model, save(FORMS[form](weights)))
    assert_same_features(model, loaded_by_timm(DINO2_REG, weights, img_size=224))


@pytest.mark.parametrize('form', FORMS)
def test_prefixes_are_removed_for_networks_that_are_not_of_timm(save, form):
    weights = {name: torch.randn(tensor.shape) for name, tensor in TinyNetwork(3).state_dict().items() if name.startswith('features')}
    model = get_arch(NAME, 3, save(FORMS[form](weights))).model
    assert all(torch.equal(model.state_dict()[name], tensor.to(model.state_dict()[name].dtype)) for name, tensor in weights.items())


def test_the_prefixes_of_the_network_itself_stay(save):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = TinyNetwork(3)

    source, model = Wrapped(), as_arch(Wrapped(), 3).model
    load_file(model, save({'state_dict': prefixed('module.', source.state_dict())}))
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(('change', 'message'), [
    (lambda w: w | {'cls_mask': torch.zeros(1)}, r'cls_mask is unknown to the network \(0 of its 32 tensors do not fit, 1 of the 31 in'),
    (lambda w: {name: tensor for name, tensor in w.items() if name != 'blocks.1.mlp.fc1.bias'},
     r'blocks\.1\.mlp\.fc1\.bias is missing \(1 of its 32 tensors do not fit, 0 of the 29 in the file are unknown\)$'),
    (lambda w: w | {'norm.bias': torch.zeros(49)}, r'norm\.bias has shape \(49,\) instead of \(48,\)'),
    (lambda w: {re.sub(r'^blocks.(.)', r'blocks.\1.0', name): tensor for name, tensor in w.items()},
     r'blocks\.0\.norm1\.weight is missing .*; unknown: blocks\.0\.0\.norm1\.weight, blocks\.0\.0\.norm1\.bias, .*, \.\.\.$')],
    ids=['unknown', 'missing', 'other shape', 'the same block in two chunks'])
def test_other_differences_are_errors(save, change, message):
    with pytest.raises(InputError, match=rf'w\.pth does not fit the network: {message}'):
        load_file(network(), save(change(random_weights(MAE))))


def clip_file():
    return prefixed('visual.trunk.', random_weights(MAE)) | {'text.token_embedding.weight': torch.randn(7, 4), 'logit_scale': torch.ones(1)}


def test_the_text_encoder_of_a_clip_file_is_reported(save):
    fit = load_file(network(), save(clip_file()))
    assert fit.describe() == '30 tensors loaded; left out: text (1 tensor), logit_scale (1 tensor); new: head (2 tensors)'


@pytest.mark.parametrize(('name', 'weights', 'lost'), [
    (MAE, clip_file, 'other.weight'), ('eva02_tiny_patch14_224', lambda: random_weights('eva02_tiny_patch14_224'), 'x_rope.weight')])
def test_an_unknown_tensor_that_timm_drops_is_an_error(save, name, weights, lost):
    with pytest.raises(InputError, match=rf'{lost} is unknown to the network \(0 of'):
        load_file(network(name), save(weights() | {lost: torch.randn(2)}))


@pytest.mark.parametrize('name', ['rope.freqs_cos', 'blocks.0.attn.rope.freqs_sin', 'blocks.0.attn.relative_position_index'])
def test_tables_that_the_network_computes_are_ignored(save, name):
    """As in the files of EVA-02, whose tables timm drops, except for the last one."""
    model, weights = network('eva02_tiny_patch14_224'), random_weights('eva02_tiny_patch14_224')
    assert load_file(model, save(weights | {name: torch.randn(4, 4)})).describe() == (
        f'{len(weights)} tensors loaded; new: head (2 tensors)')


def test_the_layer_before_a_classifier_is_left_out(save):
    """As in timm's first files of networks trained on ImageNet-21k."""
    fit = load_file(network(), save(random_weights(MAE) | {'pre_logits.fc.weight': torch.randn(48, 48)}))
    assert fit.describe() == '30 tensors loaded; left out: pre_logits (1 tensor); new: head (2 tensors)'


def test_beit_after_pretraining(save):
    name = 'beit_base_patch16_224'
    weights = {key.replace('fc_norm', 'norm'): tensor for key, tensor in random_weights(name).items()}
    head = {'mask_token': torch.randn(1, 1, 48), 'lm_head.weight': torch.randn(9, 48), 'lm_head.bias': torch.randn(9)}
    fit = load_file(network(name), save({'model': weights | head}))
    assert 'norm (2 tensors), mask_token (1 tensor), lm_head (2 tensors); new: fc_norm (2 tensors), head (2 tensors)' in fit.describe()


def test_files_without_the_counters_of_batchnorm(save):
    """As torch before 0.4.1 wrote them."""
    weights = {name: torch.rand(tensor.shape) for name, tensor in TinyNetwork(3).state_dict().items() if 'num_batches' not in name}
    model = get_arch(NAME, 3).model
    assert load_file(model, save(weights)).describe() == '12 tensors loaded'
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in weights.items())


def test_a_single_missing_counter_is_an_error(save):
    weights = TinyNetwork(3).state_dict()
    del weights['features.1.num_batches_tracked']
    with pytest.raises(InputError, match=r'features\.1\.num_batches_tracked is missing'):
        load_file(get_arch(NAME, 3).model, save(weights))


def test_two_classifiers_of_one_name_are_an_error(save):
    """The one within the backbone and the one beside it: neither replaces the other silently."""
    weights = network().state_dict()
    heads = {name: tensor for name, tensor in weights.items() if name.startswith('head.')}
    with pytest.raises(InputError, match=r'w\.pth contains both backbone\.head\.weight and head\.weight: '):
        load_file(network(), save(prefixed('backbone.', weights) | heads))


def test_an_interruption_ends_the_conversion(save, monkeypatch):
    def stop(state, model):
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr('timm.models.vision_transformer.checkpoint_filter_fn', stop)
    with pytest.raises(Interrupted):
        load_file(network(), save(random_weights(MAE)))


def test_averaged_weights_are_preferred_and_named(save):
    weights, model = random_weights(MAE), network()
    fit = load_file(model, save({'state_dict': random_weights(MAE), 'state_dict_ema': weights}))
    assert fit.describe() == "30 tensors loaded from 'state_dict_ema'; new: head (2 tensors)"
    assert torch.equal(model.cls_token, weights['cls_token'])


def test_a_failed_load_changes_nothing(save):
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError):
        load_file(model, save(random_weights(MAE) | {'strange': torch.zeros(1)}))
    assert_kept(model, before, '')


def test_a_classifier_of_the_same_size_is_loaded(save):
    source, model = network(), network()
    nn.init.normal_(source.head.bias)
    assert load_file(model, save(source.state_dict())).describe() == '32 tensors loaded'
    assert torch.equal(model.head.bias, source.head.bias)


def test_a_classifier_of_another_size_is_left_out(save):
    fit = load_file(network(n_classes=4), save(network().state_dict()))
    assert fit.new_classifier and fit.describe() == '30 tensors loaded; left out: head (2 tensors); new: head (2 tensors)'


@pytest.mark.parametrize('head', ['cosine', 'scaled'])
def test_a_classifier_of_another_kind_is_left_out_as_a_whole(save, head):
    """The class vectors of a cosine classifier would fit a linear one, which also has a bias."""
    model = get_arch(NAME, 3).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fit = load_file(model, save(get_arch(NAME, 3, head=head).model.state_dict()))
    assert fit.new == ['classifier.1.weight', 'classifier.1.bias']
    assert_kept(model, before, 'classifier.1')


def test_a_cosine_classifier_replaces_that_of_the_file(save, capsys):
    path = save(get_arch(NAME, 3).model.state_dict())
    get_arch(NAME, 3, path, head='cosine')
    assert capsys.readouterr().out == (f'* --init {path}: 12 tensors loaded; left out: classifier.1 (2 tensors); '
                                       'new: classifier.1 (2 tensors)\n')


def test_the_grid_of_positions_follows_the_image_size_of_a_checkpoint(save):
    """A checkpoint of this project trained on 112 x 448 pixels has as many patches as one of 224 x 224."""
    weights = random_weights(MAE, img_size=(112, 448))
    content = {'state_dict': weights, 'im_size': (112, 448)}
    same, other = network(img_size=(112, 448)), network(img_size=(128, 256))
    assert 'resized' not in load_file(same, save(content)).describe()
    assert torch.equal(same.pos_embed, weights['pos_embed'])
    assert load_file(other, save(content)).describe().endswith('position embedding resized to 8x16')
    assert torch.equal(other.pos_embed, timm.layers.resample_abs_pos_embed(weights['pos_embed'], (8, 16), (7, 28)))


def test_a_rectangle_of_unknown_size_is_kept(save):
    """The file does not name its image size, and its patches form no square."""
    weights, model = random_weights(MAE, img_size=(160, 320)), network(img_size=(160, 320))
    assert load_file(model, save(weights)).describe() == '30 tensors loaded; new: head (2 tensors)'
    assert torch.equal(model.pos_embed, weights['pos_embed'])


def test_a_patch_embedding_of_another_size_is_reported(save):
    model = network('vit_large_patch14_224')
    assert load_file(model, save(random_weights(MAE))).describe().endswith(
        'patch embedding resized to 14x14; position embedding resized to 16x16')
