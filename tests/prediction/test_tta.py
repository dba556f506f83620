"""Test-time augmentation: views compared with NumPy and Pillow, and the mean over them."""
from argparse import Namespace
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from utils.get_loaders import get_test_cls_loader
from utils.prediction.inference import Normalise, collect_logits, to_predictions
from utils.prediction.tta import dihedral_views, get_views, magnified

WHOLE = [1.]


@pytest.mark.parametrize('n', [1, 2, 4])
def test_dihedral_views_are_exact(n):
    image = torch.arange(3 * 4 * 6, dtype=torch.uint8).view(1, 3, 4, 6)
    views = [view.numpy() for view in dihedral_views(image, n)]
    expected = []
    for i in range(n):
        turned = np.rot90(image.numpy(), i * 4 // n, (2, 3))
        expected += [turned, turned[:, :, ::-1]]
    assert len(views) == 2 * n and all((a == b).all() for a, b in zip(views, expected, strict=True))


@pytest.mark.parametrize('zoom', [1, 1.2, 1.4, 3, 1000])
def test_magnified_against_pillow(zoom):
    height, width = 30, 45
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    h, w = (max(round(side / zoom), 1) for side in (height, width))
    top, left = round((height - h) / 2), round((width - w) / 2)
    expected = Image.fromarray(pixels).crop((left, top, left + w, top + h)).resize((width, height), Image.Resampling.BILINEAR)
    found = magnified(torch.from_numpy(pixels).permute(2, 0, 1)[None], zoom)[0].permute(1, 2, 0).numpy()
    assert np.abs(found.astype(int) - np.asarray(expected).astype(int)).max() <= 1


@pytest.mark.parametrize(('n', 'zooms'), [
    (0, WHOLE), (1, WHOLE), (3, WHOLE), (4, WHOLE), (0, [1.25]), (4, [1.5, 1.25]), (1, [1., 1.2, 1.4])])
def test_mean_of_probabilities(tiny, n, zooms):
    torch.manual_seed(0)
    net, normalise = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 3)), Normalise('cpu', (.5, .5, .5), (.5, .5, .5))
    loader = get_test_cls_loader(tiny / 'test.csv', tiny / 'images', 2, (12, 12))
    logits = collect_logits(net, loader, normalise, nullcontext, views=get_views(Namespace(dihedral_tta=n, zoom_tta=zooms)))
    images = torch.stack([loader.dataset[i][0] for i in range(8)])
    with torch.no_grad():
        expected = torch.stack([net(normalise(view)).softmax(1) for zoom in zooms
                                for view in (dihedral_views(magnified(images, zoom), n) if n else [magnified(images, zoom)])])
    assert len(logits.values) == len(zooms) * (2 * n or 1)
    p = to_predictions(logits)
    np.testing.assert_allclose(p.probs, expected.mean(0), atol=1e-6)
    assert (p.preds == expected.mean(0).argmax(1).numpy()).all()
