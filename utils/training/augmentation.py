"""Policies of augmentation, one table: float images (B, 3, H, W) of 0..1 and a random stream -> as many, each with its own draw."""
import numpy as np
import torch
import torch.nn.functional as F

from utils.training.augment import apply_to, brightness, contrast, draw_params, jitter, move, saturation, warp


def original(x, rng):
    """The original's training transforms."""
    params = draw_params(rng, len(x), x.shape[-1])
    return jitter(move(x, params), params)


def rotate(x, rng, largest=1.2):
    """For images without an upright position: every image is turned by any angle, scaled by 0.8 to `largest` (uniform in the logarithm)
    and shifted by up to 8 % of the width; flips and colour jitter as in the original."""
    n, params = len(x), draw_params(rng, len(x), x.shape[-1])
    params |= {'angle': rng.uniform(-180, 180, n), 'scale': np.exp(rng.uniform(np.log(.8), np.log(largest), n)),
               'shift': rng.uniform(-.08, .08, n) * x.shape[-1]}
    return jitter(move(x, params), params)


def zoom(x, rng):
    """`rotate` with a scale of up to 1.7: for findings of any size."""
    return rotate(x, rng, 1.7)


def none(x, rng):
    return x


def _bytes(x):
    return (x * 255).round_().to(torch.uint8)


def sharpness(x, factor):
    """Away from (factor below 1) or towards the original of a 3x3 smoothing; the border stays."""
    if min(x.shape[-2:]) < 3:
        return x
    kernel = x.new_ones(3, 1, 3, 3)
    kernel[:, :, 1, 1].fill_(5)  # on the device, without a copy to it
    smooth = x.clone()
    smooth[..., 1:-1, 1:-1] = F.conv2d(x, kernel / 13, groups=3)
    return torch.lerp(smooth, x, factor).clamp_(0, 1)


def posterize(x, bits):
    """Keep the highest `bits` bits of each byte."""
    step = (2 ** (8 - bits)).round()  # on a GPU, powers of 2 may not be exact
    return (_bytes(x) / step).floor_() * step / 255


def solarize(x, threshold):
    """Invert values from `threshold` on. A tenth of a grey level below it: whether a byte over 255 equals it depends on the device."""
    return torch.where(x >= threshold - .1 / 255, 1 - x, x)


def autocontrast(x, _):
    """Stretch each channel to 0..1."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low).clamp_min(1e-6), x)


def equalize(x, _):
    """Histogram equalisation of each channel, with Pillow's rounding."""
    values = _bytes(x).flatten(2).long()
    histogram = torch.zeros(*values.shape[:2], 256, dtype=torch.long, device=x.device).scatter_add_(2, values, torch.ones_like(values))
    last = 255 - (histogram.flip(2) > 0).int().argmax(dim=2, keepdim=True)  # the largest value in use
    step = (values.shape[2] - histogram.gather(2, last)) // 255
    before = histogram.cumsum(2) - histogram
    table = torch.div(before + step // 2, step.clamp_min(1), rounding_mode='floor').clamp_(0, 255)
    return torch.where(step[..., None] > 0, table.gather(2, values).view(x.shape) / 255, x)


# operation -> (largest magnitude of RandAugment, of TrivialAugment); shifts are shares of the width
GEOMETRY = {'shear_x': (.3, .99), 'shear_y': (.3, .99), 'translate_x': (.45, .14), 'translate_y': (.45, .14), 'angle': (30., 135.)}
ENHANCE = {'brightness': (brightness, .9, .99), 'contrast': (contrast, .9, .99), 'saturation': (saturation, .9, .99),
           'sharpness': (sharpness, .9, .99)}
OTHER = {'posterize': posterize, 'solarize': solarize, 'autocontrast': autocontrast, 'equalize': equalize}
OPERATIONS = ['identity', *GEOMETRY, *ENHANCE, *OTHER]


def apply_operations(x, names, magnitude, sign, wide):
    """One operation for each image: its name in `names` (B,), its `magnitude` (B,) of 0..1 of the largest, its `sign` (B,) of +-1."""
    matrix, width = np.tile([[1., 0, 0], [0, 1, 0]], (len(x), 1, 1)), x.shape[-1]
    size = {name: sign * magnitude * largest[wide] for name, largest in GEOMETRY.items()}
    for name, (row, column), unit in (('shear_x', (0, 1), 1), ('shear_y', (1, 0), 1), ('translate_x', (0, 2), width),
                                      ('translate_y', (1, 2), width)):
        matrix[:, row, column] += np.where(names == name, size[name] * unit, 0)
    angle = np.deg2rad(np.where(names == 'angle', size['angle'], 0))
    matrix[:, :, :2] = np.where((names == 'angle')[:, None, None],
                                np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1),
                                matrix[:, :, :2])
    moved = np.isin(names, list(GEOMETRY))
    if moved.any():
        x = warp(x, matrix)
    for name, (operation, *largest) in ENHANCE.items():
        apply_to(x, names == name, operation, 1 + sign * magnitude * largest[wide])
    factors = {'posterize': 8 - np.round(magnitude * (6 if wide else 4)), 'solarize': 1 - magnitude}
    for name, operation in OTHER.items():
        apply_to(x, names == name, operation, factors.get(name, magnitude))
    return x


def flip(x, rng):
    """Each flip with probability 1/2, exactly."""
    for axis in (2, 3):
        chosen = torch.from_numpy(rng.random(len(x)) < .5).to(x.device, non_blocking=True)
        x = torch.where(chosen[:, None, None, None], x.flip(axis), x)
    return x


def randaugment(x, rng, n_operations=2, magnitude=9 / 30):
    """Flips, then `n_operations` random operations of one magnitude (Cubuk et al., NeurIPS 2020, with N = 2, M = 9 of 30)."""
    x, n = flip(x, rng), len(x)
    for _ in range(n_operations):
        x = apply_operations(x, rng.choice(OPERATIONS, n), np.full(n, magnitude), rng.choice([-1, 1], n), wide=False)
    return x


def trivial(x, rng):
    """Flips, then one random operation of a random magnitude (Müller and Hutter, ICCV 2021, TrivialAugment Wide)."""
    x, n = flip(x, rng), len(x)
    return apply_operations(x, rng.choice(OPERATIONS, n), rng.integers(31, size=n) / 30, rng.choice([-1, 1], n), wide=True)


AUGMENT = {'original': original, 'rotate': rotate, 'zoom': zoom, 'randaugment': randaugment, 'trivial': trivial, 'none': none}
