"""Compare the exported network in onnxruntime with PyTorch, and load the exported weights with --init."""
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from models.get_model import get_arch
from tests.next_steps import next_words, parse
from tools.export_model import main
from utils.common import InputError
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


def expected(images):
    """-> logits in float64, computed without the project's own normalisation"""
    loaded = load_model('experiments/a/b')
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
