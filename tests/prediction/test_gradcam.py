"""Grad-CAM compared with finite differences, and on every kind of backbone."""
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from models.get_model import get_arch
from utils.common import InputError
from utils.prediction.gradcam import grad_cam, overlay


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 5, 3, stride=2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))

    def after(self, maps):
        return self.head(self.pool(maps.square()).flatten(1))

    def forward(self, x):
        return self.after(self.features(x))


def test_against_finite_differences():
    torch.manual_seed(0)
    model, x, classes, step = Tiny().double(), torch.randn(6, 3, 9, 11, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2]), 1e-5
    with torch.no_grad():
        maps, expected = model.features(x), []
        for image_maps, c in zip(maps, classes, strict=True):
            gradient = torch.zeros_like(image_maps)
            for k, i, j in np.ndindex(*image_maps.shape):
                logit = []
                for sign in (1, -1):
                    moved = image_maps.clone()
                    moved[k, i, j] += sign * step
                    logit.append(model.after(moved[None])[0, c])
                gradient[k, i, j] = (logit[0] - logit[1]) / (2 * step)
            expected.append((gradient.mean((1, 2))[:, None, None] * image_maps).sum(0).clamp(min=0))
    heat, expected = grad_cam(model, x, classes), torch.stack(expected)
    assert heat.shape == (6, 3, 4) and (expected.amax((1, 2)) > 0).sum() > 2
    torch.testing.assert_close(heat, expected / expected.amax((1, 2), keepdim=True).clamp(min=1e-30), atol=1e-7, rtol=0)


def test_no_position_supports_the_class():
    model = Tiny()
    nn.init.zeros_(model.head[2].weight)
    assert (grad_cam(model, torch.randn(2, 3, 9, 9), torch.tensor([0, 1])) == 0).all()


@pytest.mark.parametrize(('name', 'size', 'map_size'), [
    ('mobilenetV2', (96, 64), (3, 2)), ('resnet_50', 64, (2, 2)), ('bit_resnext50_1', 64, (2, 2)), ('efficientnet_b0', 64, (2, 2)),
    ('convnext_atto', 64, (2, 2)), ('densenet121', 64, (2, 2))])
def test_backbones(name, size, map_size):
    torch.manual_seed(0)
    model = get_arch(name, 3).model
    height, width = size if isinstance(size, tuple) else (size, size)
    nn.init.normal_(model.get_submodule(model.classifier_name).weight)  # the classifier of BiT is initialised to zero
    heat = grad_cam(model, torch.randn(2, 3, height, width), torch.tensor([0, 2]))
    assert heat.shape == (2, *map_size) and ((heat >= 0) & (heat <= 1)).all() and heat.max() == 1


@pytest.mark.parametrize(('name', 'size'), [('vit_tiny_patch16_224', 64), ('swin_tiny_patch4_window7_224', 64)])
def test_networks_without_a_feature_map(name, size):
    model = get_arch(name, 3, im_size=(size, size)).model
    with pytest.raises(InputError, match='has no feature map'):
        grad_cam(model, torch.randn(1, 3, size, size), torch.tensor([0]))


def test_overlay_marks_the_hot_corner():
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 1
    picture = np.asarray(overlay(Image.new('RGB', (1600, 800), (0, 0, 200)), heat)).astype(int)
    assert picture.shape[1] == 1600 and 410 < picture.shape[0] < 500
    assert (picture[:400, :800] == (0, 0, 200)).all() and picture[5, 805, 0] > 100 and (picture[395, -5] == (0, 0, 200)).all()


def test_overlay_draws_the_colours_of_the_heat_map():
    picture = np.asarray(overlay(Image.new('RGB', (300, 300), 'black'), np.zeros((2, 2)))).astype(int)
    assert (picture[302:, :300] == 255).all()  # no caption
    scale = picture[picture.shape[0] - 10, 350:550]
    assert scale[0, 0] < scale[-1, 0] and scale[0, 1] < scale[-1, 1] and scale[0, 2] > scale[-1, 2]  # grey to yellow


@pytest.mark.parametrize('size', [(100, 100), (28, 28), (10, 800), (800, 10), (3, 4000), (1200, 900)])
@pytest.mark.parametrize('caption', ['DR2 71.3 %', 'x' * 1000 + ' 71.3 %', '糖尿病 مرحلة 😀\n<b> 71.3 %'])
def test_overlay_has_room_for_the_caption(size, caption):
    """Dark pixels of the caption lie below the image and do not touch the right edge."""
    picture, without = (np.asarray(overlay(Image.new('RGB', size, 'white'), np.zeros((2, 2)), text)) for text in (caption, ''))
    line = picture[without.shape[0] - picture.shape[0]:][:, :, 0]  # rows that the caption adds, at the bottom
    assert picture.shape[0] > without.shape[0] and picture.shape[1] == without.shape[1] >= 256
    height = picture.shape[0] - 2 * len(line)
    assert (picture[height:height + len(line), :, 0] < 100).any() and (picture[height:, -2:, 0] == 255).all()
