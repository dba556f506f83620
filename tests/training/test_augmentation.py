"""Batched augmentation compared with torchvision's functional transforms on single images, and properties of the policies."""
import colorsys
import itertools

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF
from torchvision.transforms.v2 import functional as TV2

from utils.training import augmentation
from utils.training.augmentation import AUGMENT, BLENDS, GEOMETRY, OPERATIONS, apply_operations, draw_params, hue, jitter, move, warp

CENTRE = slice(6, -6)
B = 24
JITTER = *BLENDS, 'hue'  # the columns of `order`
ORDERS = np.array(list(itertools.permutations(range(4))))


def blended(name, images, factor):
    amounts = augmentation.blend_amounts(np.full(len(images), list(BLENDS).index(name)), factor)
    return augmentation.blend(images.clone(), torch.from_numpy(amounts).float()[..., None, None])


def jittered(image, params, i):
    """torchvision's operations in float64, in the order of image i."""
    image = image.double()
    for operation in np.argsort(params['order'][i]):
        image = getattr(TF, f'adjust_{JITTER[operation]}')(image, float(params[JITTER[operation]][i]))
    return image


def largest_error(images, params):
    expected = torch.stack([jittered(image, params, i) for i, image in enumerate(images)])
    return (jitter(images.clone(), params) - expected).abs().max().item()


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
    """Scale, rotation and shift in one transform follow torchvision's order, although the policy never combines them."""
    rng = np.random.default_rng(1)
    both = params | {'scale': rng.uniform(.8, 1.3, B).astype(np.float32), 'shift': rng.integers(-5, 6, B).astype(np.float32),
                     'angle': rng.uniform(-180, 180, B).astype(np.float32), 'hflip': np.zeros(B), 'vflip': np.zeros(B)}
    for i, out in enumerate(move(images, both)):
        expected = TF.affine(images[i], float(both['angle'][i]), [int(both['shift'][i]), 0], float(both['scale'][i]), [0., 0.],
                             interpolation=InterpolationMode.BILINEAR)
        torch.testing.assert_close(out, expected, atol=2e-4, rtol=0)


def test_positions_are_exact_in_lower_precision():
    """Positions are exact to a hundredth of a pixel under autocast, and therefore also on GPUs that round matrix products."""
    rows, columns = torch.meshgrid(torch.arange(64.), torch.arange(512.), indexing='ij')
    with torch.autocast('cpu', torch.bfloat16):
        out = warp(torch.stack([columns, rows])[None], np.array([[[1., 0, 3], [0, 1, -2]]]))[0]
    assert (out[0, 2:, :-3] - columns[2:, 3:]).abs().max() < .01 and (out[1, 2:, :-3] - rows[:-2, 3:]).abs().max() < .01


@pytest.mark.parametrize('name', BLENDS)
def test_one_blend(images, params, name):
    out = blended(name, images, params[name])
    for i in range(B):
        expected = getattr(TF, f'adjust_{name}')(images[i].double(), float(params[name][i]))
        torch.testing.assert_close(out[i].double(), expected, atol=5e-7, rtol=0)


@pytest.mark.parametrize('largest', [.01, .5])
def test_hue(images, largest):
    shift = torch.linspace(-largest, largest, B)
    out = hue(images.clone(), shift.view(-1, 1, 1, 1))
    for i in range(B):
        torch.testing.assert_close(out[i].double(), TF.adjust_hue(images[i].double(), float(shift[i])), atol=2e-6, rtol=0)


def test_hue_equals_colorsys():
    """On all colours with channels 0, 1/4 ... 1, and on shades that differ in the last digits."""
    colours = torch.tensor(list(itertools.product(np.arange(5) / 4, repeat=3)))
    colours = torch.cat([colours, .7 + 1e-7 * colours, 1e-30 * colours]).float()
    for shift in (-.5, -.3, -.01, 0., .004, .2, .5):
        out = hue(colours.T.reshape(1, 3, 1, -1).clone(), torch.full((1, 1, 1, 1), shift))[0, :, 0].T
        for got, colour in zip(out.tolist(), colours.tolist(), strict=True):
            h, saturation, value = colorsys.rgb_to_hsv(*colour)
            assert got == pytest.approx(colorsys.hsv_to_rgb((h + shift) % 1, saturation, value), abs=2e-6)


@pytest.mark.parametrize('seed', range(3))
def test_jitter_uses_the_order_of_each_image(images, seed):
    params = draw_params(np.random.default_rng(seed), B, 52)
    assert largest_error(images, params | {'order': np.random.default_rng(seed).permutation(ORDERS)}) < 3e-6


@pytest.mark.parametrize('order', ORDERS, ids=str)
def test_jitter_with_one_order(images, order):
    """In a batch of one, and with no image that has fewer or more blends before the hue shift."""
    params = draw_params(np.random.default_rng(0), B, 52) | {'order': np.tile(order, (B, 1))}
    assert largest_error(images, params) < 3e-6
    assert largest_error(images[-1:], {name: values[-1:] for name, values in params.items()}) < 3e-6


@pytest.mark.parametrize('values', [2, 3], ids=['black and white', 'and grey'])
def test_jitter_of_extreme_values(values):
    images = torch.randint(values, (B, 3, 9, 31), generator=torch.Generator().manual_seed(0)) / (values - 1)
    assert largest_error(images, draw_params(np.random.default_rng(4), B, 31)) < 3e-6


def test_jitter_keeps_the_range():
    images = torch.rand(B, 3, 20, 31, generator=torch.Generator().manual_seed(2)).mul_(1.2).sub_(.1).clamp_(0, 1)
    for seed in range(20):
        out = jitter(images.clone(), draw_params(np.random.default_rng(seed), B, 31))
        assert out.min() >= 0 and out.max() <= 1


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


def smooth_images(n=5, height=40, width=40, seed=0):
    g = torch.Generator().manual_seed(seed)
    small = torch.randint(0, 256, (n, 3, height // 4, width // 4), generator=g).float()
    smooth = torch.nn.functional.interpolate(small, (height, width), mode='bilinear')
    return (smooth + torch.rand(smooth.shape, generator=g) * 6).round().clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize(('operation', 'reference', 'values'), [
    (augmentation.sharpness, TV2.adjust_sharpness, (.2, 1., 1.7)),
    (augmentation.posterize, lambda x, bits: TV2.posterize(x, int(bits)), (2, 4, 8)),
    (augmentation.solarize, lambda x, t: TV2.solarize(x, round(255 * t)), (0., 100 / 255, 1.)),
    (augmentation.autocontrast, lambda x, _: TV2.autocontrast(x), (0.,)), (augmentation.equalize, lambda x, _: TV2.equalize(x), (0.,)),
])
def test_colours(operation, reference, values):
    x = smooth_images()
    x[3] = 77  # a flat image
    x[4] = torch.where(x[4] > 120, 255, 3).to(torch.uint8)  # two values
    for value in values:
        got = operation(x.float() / 255, torch.full((5, 1, 1, 1), value)) * 255
        expected = torch.stack([reference(image, value) for image in x])
        assert (got - expected).abs().max() <= 2  # torchvision rounds to bytes in between


@pytest.mark.parametrize('name', BLENDS)
@pytest.mark.parametrize('sign', [-1, 1])
@pytest.mark.parametrize('wide', [False, True])
def test_blends_of_a_policy(name, sign, wide):
    x = smooth_images().float() / 255
    out = apply_operations(x.clone(), np.array([name] * 5), np.full(5, .6), np.full(5, sign), wide)
    expected = getattr(TF, f'adjust_{name}')(x.double(), 1 + sign * .6 * (.99 if wide else .9))
    torch.testing.assert_close(out.double(), expected, atol=1e-6, rtol=0)


def test_posterize_does_not_depend_on_the_last_digit():
    x = torch.arange(256.).view(1, 1, 16, 16) / 255
    assert torch.equal(augmentation.posterize(x, torch.tensor(5 - 1e-6)), augmentation.posterize(x, torch.tensor(5.)))


def test_solarize_does_not_depend_on_the_last_digit():
    x, threshold = torch.arange(256.).view(1, 1, 16, 16) / 255, torch.tensor(51 / 255)
    inverted = [augmentation.solarize(x * factor, threshold) != x * factor for factor in (1 - 1e-7, 1, 1 + 1e-7)]
    assert all(mask.sum() == 256 - 51 for mask in inverted)


@pytest.mark.parametrize(('name', 'arguments'), [
    ('angle', lambda v: {'angle': v}), ('shear_x', lambda v: {'shear': [np.degrees(np.arctan(v)), 0]}),
    ('shear_y', lambda v: {'shear': [0, np.degrees(np.arctan(v))]}),
    ('translate_x', lambda v: {'translate': [round(40 * v), 0]}), ('translate_y', lambda v: {'translate': [0, round(40 * v)]}),
])
@pytest.mark.parametrize('wide', [False, True])
def test_geometry(name, arguments, wide):
    """Equal to torchvision's affine with one of the two signs, which does not matter because the sign is random."""
    x, magnitude = smooth_images(2).float() / 255, .4
    if name.startswith('translate'):
        magnitude = 5 / 40 / GEOMETRY[name][wide]  # whole pixels
    value, matches = magnitude * GEOMETRY[name][wide], []
    plain = {'angle': 0., 'translate': [0, 0], 'scale': 1., 'shear': [0., 0.], 'interpolation': TV2.InterpolationMode.BILINEAR}
    affine = [TV2.affine(x, **plain | arguments(v)) for v in (-value, value)]
    for sign in (-1., 1.):
        got = apply_operations(x.clone(), np.array([name] * 2), np.full(2, magnitude), np.full(2, sign), wide)
        matches.append([(got - a)[..., CENTRE, CENTRE].abs().max().item() < .02 for a in affine])
    assert sorted(matches) == [[False, True], [True, False]]


def test_an_operation_changes_only_its_images():
    x = smooth_images(len(OPERATIONS)).float() / 255
    for i, name in enumerate(OPERATIONS):
        names = np.array(['identity'] * len(x), dtype=object)
        names[i] = name
        changed = (apply_operations(x.clone(), names, np.full(len(x), .6), np.ones(len(x)), True) - x).abs().amax((1, 2, 3)) > .01
        assert changed.tolist() == [j == i and name != 'identity' for j in range(len(x))], name


@pytest.mark.parametrize('name', AUGMENT)
@pytest.mark.parametrize('shape', [(1, 3, 8, 8), (9, 3, 24, 36), (2, 3, 2, 5)])
def test_every_policy(name, shape):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    for seed in range(6):
        first, again = (AUGMENT[name](x.clone(), np.random.default_rng(seed)) for _ in range(2))
        assert first.shape == x.shape and torch.equal(first, again) and first.min() >= 0 and first.max() <= 1.0001
    assert torch.equal(first, x) == (name == 'none')


@pytest.mark.parametrize('name', [name for name in AUGMENT if name != 'none'])
def test_one_draw_per_image(name):
    same = smooth_images(1).float().expand(12, -1, -1, -1) / 255
    out = AUGMENT[name](same.clone(), np.random.default_rng(3))
    assert len({tuple(image.flatten().tolist()) for image in out}) >= 8


def test_policies_draw_all_operations_equally_often(monkeypatch):
    seen = {}

    def spy(x, names, magnitude, sign, wide):
        seen.setdefault(wide, []).append((names, magnitude))
        return x
    monkeypatch.setattr(augmentation, 'apply_operations', spy)
    x, rng = torch.zeros(3000, 3, 2, 2), np.random.default_rng(0)
    augmentation.randaugment(x, rng), augmentation.trivial(x, rng)
    assert len(seen[False]) == 2 and len(seen[True]) == 1
    for names, _ in seen[False] + seen[True]:
        share = np.array([(names == name).mean() for name in OPERATIONS])
        assert abs(share - 1 / 14).max() < .02
    assert set(seen[False][0][1]) == {.3} and len(set(seen[True][0][1])) == 31
