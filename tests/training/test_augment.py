"""Batched augmentation against torchvision's functional transforms, one image at a time, with the same parameters."""
import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from utils.training.augment import JITTER, draw_params, jitter, move, warp

B = 24


@pytest.fixture
def images():
    x = torch.rand(B, 3, 37, 52, generator=torch.Generator().manual_seed(5))
    x[0] = 0  # black, white, grey and pure colours: hue and saturation are undefined there
    x[1] = 1
    x[2] = .5
    x[3] = torch.tensor([1., 0., 0.]).view(3, 1, 1)
    x[4] = x[4, :1]
    return x


@pytest.fixture
def params():
    return draw_params(np.random.default_rng(3), B, 52)


def test_move(images, params):
    for i, out in enumerate(move(images, params)):
        expected = TF.affine(images[i], float(params['angle'][i]), [int(params['shift'][i]), 0], float(params['scale'][i]), [0., 0.],
                             interpolation=InterpolationMode.BILINEAR)
        expected = TF.hflip(expected) if params['hflip'][i] else expected
        expected = TF.vflip(expected) if params['vflip'][i] else expected
        torch.testing.assert_close(out, expected, atol=2e-4, rtol=0)


def test_move_combines_all_parts(images, params):
    """What the distribution never draws together still follows torchvision's order of scale, rotation and shift."""
    rng = np.random.default_rng(1)
    both = params | {'scale': rng.uniform(.8, 1.3, B).astype(np.float32), 'shift': rng.integers(-5, 6, B).astype(np.float32),
                     'angle': rng.uniform(-180, 180, B).astype(np.float32), 'hflip': np.zeros(B), 'vflip': np.zeros(B)}
    for i, out in enumerate(move(images, both)):
        expected = TF.affine(images[i], float(both['angle'][i]), [int(both['shift'][i]), 0], float(both['scale'][i]), [0., 0.],
                             interpolation=InterpolationMode.BILINEAR)
        torch.testing.assert_close(out, expected, atol=2e-4, rtol=0)


def test_positions_are_exact_in_lower_precision():
    """Under autocast, and so on a GPU whose matrix products are rounded, every pixel stays at its place to a hundredth of a pixel."""
    rows, columns = torch.meshgrid(torch.arange(64.), torch.arange(512.), indexing='ij')
    with torch.autocast('cpu', torch.bfloat16):
        out = warp(torch.stack([columns, rows])[None], np.array([[[1., 0, 3], [0, 1, -2]]]))[0]
    assert (out[0, 2:, :-3] - columns[2:, 3:]).abs().max() < .01 and (out[1, 2:, :-3] - rows[:-2, 3:]).abs().max() < .01


@pytest.mark.parametrize('name', JITTER)
def test_one_operation(images, params, name):
    reference = getattr(TF, f'adjust_{name}')
    out = JITTER[name](images, torch.from_numpy(params[name]).view(-1, 1, 1, 1))
    for i in range(B):
        torch.testing.assert_close(out[i], reference(images[i], float(params[name][i])), atol=2e-6, rtol=0)


def test_large_hue_shifts(images):
    shift = torch.linspace(-.5, .5, B)
    out = JITTER['hue'](images, shift.view(-1, 1, 1, 1))
    for i in range(B):
        torch.testing.assert_close(out[i], TF.adjust_hue(images[i], float(shift[i])), atol=1e-5, rtol=0)


def test_jitter_in_the_order_of_each_image(images, params):
    out = jitter(images.clone(), params)
    for i in range(B):
        expected = images[i]
        for operation in np.argsort(params['order'][i]):
            name = list(JITTER)[operation]
            expected = getattr(TF, f'adjust_{name}')(expected, float(params[name][i]))
        torch.testing.assert_close(out[i], expected, atol=1e-5, rtol=0)


def test_distribution():
    n, width = 60_000, 200
    p = draw_params(np.random.default_rng(0), n, width)
    scaled, shifted, turned = p['scale'] != 1, p['shift'] != 0, p['angle'] != 0
    assert not (scaled & turned).any() and not (shifted & turned).any() and not (scaled & shifted).any()
    assert np.mean(scaled) == pytest.approx(1 / 3, abs=.01) and np.mean(turned) == pytest.approx(1 / 3, abs=.01)
    for values, low, high in ((p['scale'][scaled], .95, 1.2), (p['angle'][turned], -45, 45), (p['brightness'], .75, 1.25),
                              (p['contrast'], .75, 1.25), (p['saturation'], .75, 1.25), (p['hue'], -.01, .01)):
        assert low <= values.min() and values.max() <= high + 1e-6
        assert values.mean() == pytest.approx((low + high) / 2, abs=.01 * (high - low))
        assert values.std() == pytest.approx((high - low) / 12 ** .5, rel=.02)
    assert np.abs(p['shift']).max() == 10 and (p['shift'] % 1 == 0).all()
    assert p['hflip'].mean() == pytest.approx(.5, abs=.01) and p['vflip'].mean() == pytest.approx(.5, abs=.01)
    orders, counts = np.unique(p['order'], axis=0, return_counts=True)
    assert len(orders) == 24 and counts == pytest.approx(n / 24, rel=.1)
