"""Operations against torchvision's, one image at a time; policies by what they promise."""
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from utils.training import augmentation
from utils.training.augmentation import AUGMENT, GEOMETRY, OPERATIONS, apply_operations

CENTRE = slice(6, -6)


def images(n=5, height=40, width=40, seed=0):
    g = torch.Generator().manual_seed(seed)
    small = torch.randint(0, 256, (n, 3, height // 4, width // 4), generator=g).float()
    smooth = torch.nn.functional.interpolate(small, (height, width), mode='bilinear')
    return (smooth + torch.rand(smooth.shape, generator=g) * 6).round().clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize(('operation', 'reference', 'values'), [
    (augmentation.sharpness, TF.adjust_sharpness, (.2, 1., 1.7)), (augmentation.brightness, TF.adjust_brightness, (.3, 1.6)),
    (augmentation.contrast, TF.adjust_contrast, (.3, 1.6)), (augmentation.saturation, TF.adjust_saturation, (.3, 1.6)),
    (augmentation.posterize, lambda x, bits: TF.posterize(x, int(bits)), (2, 4, 8)),
    (augmentation.solarize, lambda x, t: TF.solarize(x, round(255 * t)), (0., 100 / 255, 1.)),
    (augmentation.autocontrast, lambda x, _: TF.autocontrast(x), (0.,)), (augmentation.equalize, lambda x, _: TF.equalize(x), (0.,)),
])
def test_colours(operation, reference, values):
    x = images()
    x[3] = 77  # a flat image
    x[4] = torch.where(x[4] > 120, 255, 3).to(torch.uint8)  # two values
    for value in values:
        got = operation(x.float() / 255, torch.full((5, 1, 1, 1), value)) * 255
        expected = torch.stack([reference(image, value) for image in x])
        assert (got - expected).abs().max() <= 2  # torchvision rounds to bytes in between


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
    """As torchvision's affine, with either sign: the sign is drawn, and both are used."""
    x, magnitude = images(2).float() / 255, .4
    if name.startswith('translate'):
        magnitude = 5 / 40 / GEOMETRY[name][wide]  # whole pixels
    value, matches = magnitude * GEOMETRY[name][wide], []
    plain = {'angle': 0., 'translate': [0, 0], 'scale': 1., 'shear': [0., 0.], 'interpolation': TF.InterpolationMode.BILINEAR}
    affine = [TF.affine(x, **plain | arguments(v)) for v in (-value, value)]
    for sign in (-1., 1.):
        got = apply_operations(x.clone(), np.array([name] * 2), np.full(2, magnitude), np.full(2, sign), wide)
        matches.append([(got - a)[..., CENTRE, CENTRE].abs().max().item() < .02 for a in affine])
    assert sorted(matches) == [[False, True], [True, False]]


def test_one_operation_leaves_the_other_images():
    x = images(len(OPERATIONS)).float() / 255
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
    same = images(1).float().expand(12, -1, -1, -1) / 255
    out = AUGMENT[name](same.clone(), np.random.default_rng(3))
    assert len({tuple(image.flatten().tolist()) for image in out}) >= 8


def test_policies_draw_every_operation(monkeypatch):
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
