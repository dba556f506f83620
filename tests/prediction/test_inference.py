from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.factories import write_images
from utils.common import InputError
from utils.get_loaders import ClassDataset, get_eval_loader, get_test_cls_loader
from utils.prediction.inference import Normalise, collect_logits, predict


class Net(nn.Module):
    """Network whose output depends on the orientation of the image, and on the evaluation mode of BatchNorm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 12 * 12, 3))

    def forward(self, x):
        return self.layers(x)


@pytest.fixture
def normalise():
    return Normalise('cpu', (.5, .5, .5), (.5, .5, .5))


@pytest.mark.parametrize('batch_size', [1, 2, 8])
def test_every_image_once_with_plain_cross_entropy(tiny, normalise, batch_size):
    loader, net = get_test_cls_loader(tiny / 'test.csv', tiny / 'images', batch_size, (12, 12)), Net()
    p = predict(net, loader, normalise, nullcontext)
    images = torch.stack([loader.dataset[i][0] for i in range(8)])
    with torch.no_grad():
        logits = net.eval()(normalise(images)).double().numpy()
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert p.image_ids == loader.dataset.image_ids and (p.labels == loader.dataset.labels).all()
    np.testing.assert_allclose(p.probs, probs, atol=1e-6)
    assert (p.preds == probs.argmax(1)).all()
    assert p.loss == pytest.approx(-np.log(probs[np.arange(8), p.labels]).mean(), rel=1e-5)


def test_images_are_prepared_in_full_precision(tiny):
    """Preparing images may include augmentation, which must not run in bfloat16."""
    seen = []

    def prepare(images):
        seen.append(torch.is_autocast_enabled('cpu'))
        return images.float()
    predict(Net(), get_test_cls_loader(tiny / 'test.csv', tiny / 'images', 8, (12, 12)), prepare,
            lambda: torch.autocast('cpu', torch.bfloat16))
    assert seen == [False]


def test_without_labels(tiny, normalise):
    p = predict(Net(), get_test_cls_loader(tiny / 'test.csv', tiny / 'images', 4, (12, 12), test=True), normalise, nullcontext)
    assert p.labels is None and np.isnan(p.loss) and len(p.preds) == 8


def test_diverged_network(tiny, normalise):
    net = Net()
    net.layers[2].weight.data.fill_(float('nan'))
    with pytest.raises(InputError, match='returns NaN'):
        predict(net, get_test_cls_loader(tiny / 'test.csv', tiny / 'images', 2, (12, 12)), normalise, nullcontext)


class NanForOneColour(nn.Module):
    def forward(self, x):
        return torch.where(x.flatten(1).std(1, keepdim=True) == 0, torch.nan, torch.ones(len(x), 3))


def test_a_nan_in_the_second_process_names_the_right_image(tmp_path):
    """The second process scores images 1, 3, 5 and 7, so its second image is the fourth of the csv."""
    write_images(tmp_path)
    data = ClassDataset(tmp_path / 'test.csv', tmp_path / 'images', (12, 12))
    Image.new('RGB', (28, 28)).save(data.paths[3])
    loader = get_eval_loader(data, 2, rank=1, world_size=2)
    with pytest.raises(InputError, match=f'NaN for {data.image_ids[3]}: this image is of one colour'):
        collect_logits(NanForOneColour(), loader, torch.Tensor.float, nullcontext)
