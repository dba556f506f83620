"""Compare the exported network in onnxruntime and in timm with PyTorch, and load the exported weights with --init."""
import json
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from models import timm_folder
from models.get_model import ARCHS, get_arch
from models.heads import HEADS
from models.timm_folder import check_timm_has, whole_folder
from tests.factories import checkpoint, picture
from tests.next_steps import next_words, parse
from tools import ensemble_runs
from tools.export_model import main
from utils.common import InputError
from utils.data.images import read_image
from utils.model_saving_loading import FILE_NAME, load_model, read_checkpoint, save_model

onnxruntime = pytest.importorskip('onnxruntime')


def train_one(train, network, classifier):
    """Train one epoch, then replace the weights of the classifier: after one epoch, the predictions are nearly the same for all images."""
    train(f'--save_path a/b --model_name {network}')
    folder = read_checkpoint('experiments/a/b')['folder']
    info = torch.load(f'{folder}/{FILE_NAME}', weights_only=True)
    del info['sha256']
    weight, generator = info['state_dict'][f'{classifier}.weight'], torch.Generator().manual_seed(0)
    info['state_dict'][f'{classifier}.weight'] = torch.randn(weight.shape, generator=generator)
    save_model(folder, info)


def expected(images, run='experiments/a/b'):
    """-> logits in float64, computed without the project's own normalisation"""
    loaded = load_model(run)
    mean, std = (np.array(loaded.info[name]).reshape(1, 3, 1, 1) for name in ('mean', 'std'))
    with torch.inference_mode():
        return loaded.model.double().eval()(torch.from_numpy((images / 255. - mean) / std)).numpy()


@pytest.mark.parametrize(('kind', 'output', 'network', 'classifier'), [
    ('uint8', 'probabilities', 'resnet10t', 'fc'), ('float', 'logits', 'tiny_test', 'classifier.1')])
def test_export(train, tiny, capsys, kind, output, network, classifier):
    train_one(train, network, classifier)
    main(['--load_path', 'experiments/a/b', '--images', str(tiny / 'images'), '--input', kind, '--output', output])
    out = capsys.readouterr().out
    assert 'on 39 images' in out and parse(next_words(out))[1].init == 'results/a/b/model.safetensors'
    session = onnxruntime.InferenceSession('results/a/b/model.onnx')
    assert json.loads(session.get_modelmeta().custom_metadata_map['class_names']) == ['class0', 'class1', 'class2']
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), np.uint8)
    logits = expected(images)
    probs = np.exp(logits - logits.max(1, keepdims=True))
    wanted = logits if output == 'logits' else probs / probs.sum(1, keepdims=True)
    for n in (1, 2, 5):
        given = images[:n] if kind == 'uint8' else images[:n].astype(np.float32) / 255
        found, = session.run([output], {'images': given})
        np.testing.assert_allclose(found, wanted[:n], atol=1e-4)
    assert np.ptp(wanted, axis=0).max() > 1e-3  # otherwise a network that ignores its input would pass

    text = Path('results/a/b/model.json').read_text()
    facts = json.loads(text)
    assert facts['class_names'] == ['class0', 'class1', 'class2'] and facts['class_count'] == [12, 6, 4] and facts['im_size'] == [32, 32]
    assert facts['run'] == 'a/b' and facts['onnx']['input'] == kind and 'bacc' in facts['metrics'] and str(tiny) not in text
    model = get_arch(network, 3, 'results/a/b/model.safetensors').model
    for name, value in load_model('experiments/a/b').model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    train(f'--save_path c --model_name {network} --init results/a/b/model.safetensors')


def test_errors(train, tmp_path):
    train_one(train, 'tiny_test', 'classifier.1')
    with pytest.raises(InputError, match=r'model\.onnx is not written: its output differs from PyTorch by .* more than --tolerance 0'):
        main(['--load_path', 'experiments/a/b', '--tolerance', '0'])
    assert list((tmp_path / 'results' / 'a' / 'b').iterdir()) == []
    (tmp_path / 'x.jpg').write_text('text')
    with pytest.raises(InputError, match=r'--images: x\.jpg: not an image in a supported format'):
        main(['--load_path', 'experiments/a/b', '--images', 'x.jpg'])


def test_a_private_export(train, tmp_path):
    train_one(train, 'tiny_test', 'classifier.1')
    before = os.umask(0o022)
    try:
        main(['--load_path', 'experiments/a/b', '--private'])
    finally:
        os.umask(before)
    folder = tmp_path / 'results/a/b'
    assert {path.name for path in folder.iterdir()} == {'model.onnx', 'model.safetensors', 'model.json'}
    assert not any(path.stat().st_mode & 0o077 for path in (folder, *folder.iterdir()))


# --format timm

TIMM = ['--load_path', 'experiments/a/b', '--format', 'timm']


def in_timm(folder='results/a/b/timm'):
    """-> network that timm loads, what timm knows about its input (tuples, numbers and words)"""
    model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    data = timm.data.resolve_model_data_config(model)
    return model, {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}


def logits_of(model, data, images):
    """uint8 images (N, 3, H, W) -> logits (N, K), with the normalisation of timm"""
    mean, std = (torch.tensor(data[name]).view(1, 3, 1, 1) for name in ('mean', 'std'))
    with torch.inference_mode():
        return model((torch.from_numpy(images) / 255 - mean) / std).numpy()


def save_run(network, im_size=(32, 32), head='linear'):
    """Save a checkpoint of an untrained network, with another normalisation than timm's and random weights in its classifier."""
    arch = get_arch(network, 3, im_size=im_size, head=head)
    if head == 'linear':
        torch.nn.init.normal_(arch.model.get_parameter(f'{arch.model.classifier_name}.weight'))
    info = checkpoint(model_name=network, class_names=['a', 'b', 'c'], class_count=[3, 2, 1], im_size=im_size, mean=(.1, .2, .3),
                      std=(.4, .5, .6), state_dict=arch.model.state_dict())
    info['config'] |= {'model_name': network, 'im_size': im_size, 'class_names': ['a', 'b', 'c'], 'class_count': [3, 2, 1], 'head': head}
    save_model('experiments/a/b', info)


@pytest.mark.parametrize(('network', 'classifier'), [('resnet10t', 'fc'), ('vit_tiny_patch16_224', 'head')])
def test_a_trained_network_has_the_same_logits_in_timm(train, tiny, capsys, network, classifier):
    train_one(train, network, classifier)
    main([*TIMM, '--images', str(tiny / 'images')])
    assert 'on 39 images' in capsys.readouterr().out
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), np.uint8)
    found, wanted = logits_of(*in_timm(), images), expected(images)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert np.ptp(wanted, axis=0).max() > 1e-3  # otherwise a network that ignores its input would pass


@pytest.mark.parametrize(('network', 'im_size'), [
    ('bit_resnext50_1', (32, 32)), ('test_vit', (32, 64)), ('test_efficientnet', (48, 32)), ('tf_efficientnet_lite0', (32, 32))])
def test_other_networks_and_sizes_have_the_same_logits_in_timm(tmp_path, monkeypatch, network, im_size):
    monkeypatch.chdir(tmp_path)
    save_run(network, im_size)
    main([*TIMM, '--out', 'out'])
    model, data = in_timm('out/timm')
    images = np.random.default_rng(0).integers(0, 256, (5, 3, *im_size), np.uint8)
    np.testing.assert_allclose(logits_of(model, data, images), expected(images), atol=1e-3, rtol=1e-4)
    assert data['input_size'] == (3, *im_size)


@pytest.fixture
def exported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_run('test_efficientnet')
    main(TIMM)
    return tmp_path / 'results/a/b/timm'


def test_the_folder_holds_two_files(exported):
    assert {path.name for path in exported.iterdir()} == {'config.json', 'model.safetensors'}
    assert [path.name for path in exported.parent.iterdir()] == ['timm']


def test_class_names_are_the_labels_of_timm(exported):
    assert in_timm(exported)[0].pretrained_cfg['label_names'] == ['a', 'b', 'c']
    assert json.loads((exported / 'config.json').read_text())['label_names'] == ['a', 'b', 'c']


def test_timm_normalises_as_the_run(exported):
    data = in_timm(exported)[1]
    assert data['mean'] == (.1, .2, .3) and data['std'] == (.4, .5, .6)


def test_timm_says_nothing_of_its_own_weights(exported):
    config = json.loads((exported / 'config.json').read_text())['pretrained_cfg']
    assert not any(config.get(name) for name in ('tag', 'license', 'origin_url', 'hf_hub_id', 'url'))


def test_the_weights_are_those_of_the_run(exported):
    saved = load_file(exported / 'model.safetensors')
    state = load_model('experiments/a/b').model.state_dict()
    assert list(saved) and set(saved) == set(state) and all(torch.equal(saved[name], state[name]) for name in state)


@pytest.mark.parametrize('extension', ['png', 'jpg'])
def test_transforms_of_timm_prepare_an_image_as_the_run(exported, extension):
    picture(0, (40, 50)).save(f'x.{extension}')
    data = in_timm(exported)[1]
    mean, std = (torch.tensor(data[name]).view(3, 1, 1) for name in ('mean', 'std'))
    given = timm.data.create_transform(**data)(Image.open(f'x.{extension}').convert('RGB'))
    torch.testing.assert_close(given, (read_image(f'x.{extension}', (32, 32)) / 255 - mean) / std)


def test_the_next_command_predicts(exported, capsys):
    main(TIMM)
    module, args, _ = parse(next_words(capsys.readouterr().out))
    assert module.__name__ == 'tools.predict' and args.load_path == 'experiments/a/b'


def test_a_second_export_replaces_the_first(exported):
    (exported / 'config.json').write_text('{}')
    main(TIMM)
    assert in_timm(exported)[1]['mean'] == (.1, .2, .3) and [path.name for path in exported.parent.iterdir()] == ['timm']


def test_a_folder_with_other_files_is_kept(exported):
    (exported / 'notes.txt').write_text('mine')
    with pytest.raises(InputError, match=r'a/b/timm exists and holds more than config\.json and model\.safetensors: choose another --out'):
        main(TIMM)
    assert (exported / 'notes.txt').read_text() == 'mine'


def test_a_private_folder_for_timm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_run('test_efficientnet')
    before = os.umask(0o022)
    try:
        main([*TIMM, '--private'])
    finally:
        os.umask(before)
    folder = tmp_path / 'results/a/b/timm'
    assert not any(path.stat().st_mode & 0o077 for path in (folder, *folder.iterdir()))


def test_others_can_read_a_folder_that_is_not_private(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_run('test_efficientnet')
    before = os.umask(0o022)
    try:
        main(TIMM)
    finally:
        os.umask(before)
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in (tmp_path / 'results/a/b/timm').iterdir())


@pytest.mark.parametrize(('flags', 'line'), [
    ('--input float', '--input float has no effect with --format timm'),
    ('--output logits', '--output logits has no effect with --format timm'), ('--out results/a/b', None)])
def test_flags_of_onnx_have_no_effect(exported, capsys, flags, line):
    main([*TIMM, *flags.split()])
    assert [row for row in capsys.readouterr().out.splitlines() if 'Warning' in row] == ([f'* Warning: {line}'] if line else [])


def test_nothing_is_left_if_the_logits_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_run('test_efficientnet')
    save = timm_folder.save_timm_folder
    monkeypatch.setattr('tools.export_model.save_timm_folder',
                        lambda folder, model, info: save(folder, model, info | {'mean': (.1, .2, .4)}))
    with pytest.raises(InputError, match=r'a/b/timm is not written: its logits differ from PyTorch by \S+, more than --tolerance 0\.0001$'):
        main(TIMM)
    assert list((tmp_path / 'results/a/b').iterdir()) == []


def test_an_earlier_folder_stays_if_the_export_fails(exported):
    before = (exported / 'config.json').read_text()
    with pytest.raises(InputError, match='more than --tolerance -1'):
        main([*TIMM, '--tolerance', '-1'])
    assert (exported / 'config.json').read_text() == before and [path.name for path in exported.parent.iterdir()] == ['timm']


def test_weights_that_timm_cannot_load_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_run('test_efficientnet')
    network = load_model('experiments/a/b')
    monkeypatch.setattr(timm, 'create_model', lambda *args, **kwargs: 1 / 0)
    monkeypatch.setattr('tools.export_model.load_model', lambda *args: network)
    with pytest.raises(InputError, match=r'--format timm: timm cannot load test_efficientnet \(division by zero\): use --format onnx'):
        main(TIMM)
    assert list((tmp_path / 'results/a/b').iterdir()) == []


def test_weights_that_share_memory_are_refused(tmp_path):
    model = get_arch('test_efficientnet', 3).model
    model.classifier.bias = model.bn2.bias
    with pytest.raises(InputError, match=r'timm cannot save test_efficientnet \(Some tensors share memory'):
        timm_folder.save_timm_folder(str(tmp_path), model, checkpoint(model_name='test_efficientnet'))


@pytest.mark.parametrize('network', [name for name in ARCHS if name != 'bit_resnext50_1'])
def test_networks_that_timm_lacks_are_refused(network):
    with torch.device('meta'), pytest.raises(InputError, match=f'^--format timm: {network} is not a network of timm: use --format onnx$'):
        check_timm_has(get_arch(network, 3, im_size=(32, 32)).model, network, {})


def test_an_own_network_is_refused(tmp_path):
    (tmp_path / 'net.py').write_text('import timm\n\n\ndef build(n_classes, pretrained, im_size):\n'
                                     "    return timm.create_model('test_efficientnet', num_classes=n_classes)\n")
    name = f'{tmp_path}/net.py:build'
    with pytest.raises(InputError, match=r'net\.py:build is not a network of timm'):
        check_timm_has(get_arch(name, 3).model, name, {})


@pytest.mark.parametrize('head', [head for head in HEADS if head != 'linear'])
def test_other_heads_are_refused(tmp_path, monkeypatch, head):
    monkeypatch.chdir(tmp_path)
    save_run('test_efficientnet', head=head)
    with pytest.raises(InputError, match=f'networks of timm have a linear classifier, but this run has a {head} one: use --format onnx$'):
        main(TIMM)
    assert not (tmp_path / 'results').exists()


def test_an_ensemble_is_refused(train):
    for seed in (0, 1):
        train(f'--save_path a/seed{seed} --seed {seed} --model_name test_efficientnet')
    ensemble_runs.main(['experiments/a/seed0', 'experiments/a/seed1', '--out', 'experiments/a/b'])
    with pytest.raises(InputError, match='an ensemble of 2 networks is not a network of timm: export its members one by one, first with '
                                         '--load_path experiments/a/seed0'):
        main(TIMM)


def test_a_failure_leaves_no_temporary_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt), whole_folder(str(tmp_path / 'x')) as temporary:
        (Path(temporary) / 'config.json').write_text('{}')
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
