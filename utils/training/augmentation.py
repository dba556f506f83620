"""Batched augmentation on the device (table `AUGMENT`): float images (B, 3, H, W) in 0..1, each with its own random draw.

To add a policy, write a function of a batch and a random generator and add it to `AUGMENT`. It may change its batch in place.
"""
import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

Operation = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # images (M, 3, H, W), parameters (M, N, 1, 1) -> images


class Draws(Protocol):
    """The methods of numpy's Generator that policies call."""

    def random(self, size: int, /) -> np.ndarray: ...
    def uniform(self, low: float, high: float, size: int, /) -> np.ndarray: ...
    def integers(self, high: int, /, *, size: int) -> np.ndarray: ...
    def choice(self, values: Any, size: int, /) -> np.ndarray: ...
    def permuted(self, rows: Any, /, *, axis: int) -> np.ndarray: ...


Policy = Callable[[torch.Tensor, Draws], torch.Tensor]

GRAY = (0.2989, 0.587, 0.114)  # ITU-R 601-2 luma, as torchvision's rgb_to_grayscale
# name -> shares of the grey image and of its mean in the image to blend with, which is black if both are 0
BLENDS = {'brightness': (0, 0), 'contrast': (0, 1), 'saturation': (1, 0)}


def draw_params(rng: Draws, n: int, width: int) -> dict[str, np.ndarray]:
    """Draw parameters for `n` images of `width` pixels from the distribution of the original's training transforms.

    Geometry: a scale of 0.95..1.20, a horizontal shift of up to 5 % (whole pixels), or a rotation of up to 45 degrees. Colour: factors of
    0.75..1.25 for brightness, contrast and saturation and a hue shift of up to 0.01 turns, in random order. Each flip has probability 1/2.

    Returns float32 arrays (n,): `scale`, `shift` (pixels), `angle` (degrees, clockwise), `hflip`, `vflip` and the four jitter factors.
    `order` (n, 4) is the position of brightness, contrast, saturation and hue.
    """
    kind = rng.integers(3, size=n)
    shift = np.round(rng.uniform(-.05 * width, .05 * width, n))
    params = {'scale': np.where(kind == 0, rng.uniform(.95, 1.20, n), 1), 'shift': np.where(kind == 1, shift, 0),
              'angle': np.where(kind == 2, rng.uniform(-45, 45, n), 0)}
    params |= {'hflip': rng.random(n) < .5, 'vflip': rng.random(n) < .5}
    params |= {name: rng.uniform(.75, 1.25, n) for name in ('brightness', 'contrast', 'saturation')}
    params['hue'] = rng.uniform(-.01, .01, n)
    params = {name: value.astype(np.float32) for name, value in params.items()}
    return params | {'order': rng.permuted(np.tile(np.arange(4), (n, 1)), axis=1)}


def to_device(values: np.ndarray, x: torch.Tensor) -> torch.Tensor:
    """Copy a few numbers to the device of `x` as float32, without waiting for it."""
    return torch.from_numpy(values.astype(np.float32)).to(x.device, non_blocking=True)


def warp(x: torch.Tensor, matrix: np.ndarray) -> torch.Tensor:
    """Resample float images (B, C, H, W) bilinearly, with 0 outside.

    `matrix` (B, 2, 3) maps the position (x, y) of an output pixel to that of an input pixel, both in pixels from the image centre.

    Unlike `F.affine_grid`, positions are computed without a matrix product. At 512 pixels, TF32 would shift them by up to 0.1 pixels and
    bfloat16 by 2.
    """
    height, width = x.shape[-2:]
    units = np.array([[1, height / width, 2 / width], [width / height, 1, 2 / height]])  # `grid_sample` measures in half image sizes
    positions = [(2 * np.arange(n) + 1 - n) / n for n in (width, height)]
    theta, across, down = to_device(np.concatenate([(matrix * units).ravel(), *positions]), x).split([matrix.size, width, height])
    of_x, of_y, offset = theta.view(-1, 2, 3, 1, 1).unbind(2)  # (B, 2, 1, 1)
    grid = of_x * across + torch.addcmul(offset, of_y, down[:, None])  # (B, 2, H, W)
    return F.grid_sample(x, grid.permute(0, 2, 3, 1), align_corners=False)


def move(x: torch.Tensor, params: dict[str, np.ndarray]) -> torch.Tensor:
    """Scale, shift, rotate and flip float images (B, C, H, W) in one resampling.

    An output position is first flipped, then mapped by the inverse of shift, rotation and scale about the centre.
    """
    angle = params['angle'] * (math.pi / 180)
    cos, sin = np.cos(angle) / params['scale'], np.sin(angle) / params['scale']
    matrix = np.array([[cos, sin, -cos * params['shift']], [-sin, cos, sin * params['shift']]])
    matrix[:, 0] *= 1 - 2 * params['hflip']
    matrix[:, 1] *= 1 - 2 * params['vflip']
    return warp(x, matrix.transpose(2, 0, 1))


def blend_amounts(kind: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Return the parameters (..., 3) of `blend` for the entries `kind` (...) of BLENDS and the factors `factor` (...)."""
    shares = GRAY[0] * np.array(list(BLENDS.values()))  # `blend` divides grey by GRAY[0]
    return np.concatenate([1 - factor[..., None], shares[kind]], axis=-1)


def blend(x: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Change brightness, contrast or saturation of float images (M, 3, H, W) in place, and clamp to 0..1.

    amounts: from `blend_amounts`, (M, 3, 1, 1). A factor f blends f x + (1 - f) y with black, the mean grey level or the grey image y.
    Grey is computed without a matrix product, as positions are in `warp`.
    """
    weight, of_gray, of_mean = amounts.split(1, 1)
    red, green, blue = x.split(1, 1)
    gray = torch.add(red, green, alpha=GRAY[1] / GRAY[0]).add_(blue, alpha=GRAY[2] / GRAY[0])
    mean = gray.mean((2, 3), keepdim=True)
    return x.lerp_(torch.addcmul(of_mean * mean, gray, of_gray), weight).clamp_(0, 1)


def hue(x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Rotate the hue of float images (M, 3, H, W) by `shift` turns (M, 1, 1, 1) in place, and keep value and saturation.

    With value and low the largest and the smallest channel, and c = value - low: RGB to HSV, the hue is (c + green + blue - red - low) / c
    sixths of a turn from red, towards green if green >= blue. HSV to RGB with h in 0..6, f(d) = max(0, min(|d| - 1, 1)):
    red = low + c f(h - 3), green = value - c f(h - 2), blue = value - c f(h - 4).
    """
    red, green, blue = x.split(1, 1)
    value, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    chroma = value - low
    distance = (chroma + green).add_(blue).sub_(red).sub_(low)
    unit = chroma.clamp_min(torch.finfo(x.dtype).tiny).copysign_(green - blue)  # not 0, for grey pixels
    h = torch.addcdiv(6 * shift, distance, unit).remainder_(6)
    torch.sub(h, to_device(np.array([3, 2, 4]), x).view(3, 1, 1), out=x).abs_().sub_(1).clamp_(0, 1)
    torch.addcmul(low, chroma, red, out=red)
    torch.addcmul(value, chroma, x[:, 1:], value=-1, out=x[:, 1:])
    return x


def jitter(x: torch.Tensor, params: dict[str, np.ndarray]) -> torch.Tensor:
    """Jitter the colours of float images (B, 3, H, W) in 0..1. Each image has its own order of the three blends and the hue shift.

    Once the images are sorted by their number of blends before the hue shift, those with more than j of them are the last ones. Blend j
    (0, 1 or 2) acts on them before the hue shift, and on the others after it. On a GPU, such slices need fewer kernel launches and less
    memory traffic than a selection of images for each operation and position.
    """
    order, n_before = params['order'][:, :3], params['order'][:, 3]
    rows = n_before.argsort()
    kinds = order[rows].argsort(axis=1)
    factors = np.stack([params[name] for name in BLENDS], axis=1)[rows[:, None], kinds]
    numbers = np.concatenate([blend_amounts(kinds, factors).reshape(-1, 9), params['hue'][rows, None]], axis=1)
    *blends, shift = to_device(numbers, x)[..., None, None].split(3, dim=1)  # three times (B, 3, 1, 1), then (B, 1, 1, 1)
    there, back = torch.from_numpy(np.stack([rows, rows.argsort()])).to(x.device, non_blocking=True)
    x = x[there]
    starts = np.searchsorted(n_before[rows], range(3), side='right')
    for start, amounts in zip(starts, blends, strict=True):
        blend(x[start:], amounts[start:])
    hue(x, shift)
    for start, amounts in zip(starts, blends, strict=True):
        blend(x[:start], amounts[:start])
    return x[back]


def apply_to(x: torch.Tensor, chosen: np.ndarray, operation: Operation, params: np.ndarray) -> None:
    """Set x[i] to operation(x[i], params[i]) wherever chosen[i] is true. chosen: (B,). params: (B,) or (B, N)."""
    rows = np.flatnonzero(chosen)
    if len(rows):
        index = torch.from_numpy(rows).to(x.device, non_blocking=True)
        x[index] = operation(x[index], to_device(params[rows], x).view(len(rows), -1, 1, 1))


def original(x: torch.Tensor, rng: Draws) -> torch.Tensor:
    """The original's training transforms."""
    params = draw_params(rng, len(x), x.shape[-1])
    return jitter(move(x, params), params)


def rotate(x: torch.Tensor, rng: Draws, largest: float = 1.2) -> torch.Tensor:
    """For images without an upright position: rotate by any angle, scale by 0.8 to `largest`, shift by up to 8 % of the width.

    The logarithm of the scale is uniform. Flips and colour jitter are the original's.
    """
    n, params = len(x), draw_params(rng, len(x), x.shape[-1])
    params |= {'angle': rng.uniform(-180, 180, n), 'scale': np.exp(rng.uniform(np.log(.8), np.log(largest), n)),
               'shift': rng.uniform(-.08, .08, n) * x.shape[-1]}
    return jitter(move(x, params), params)


def zoom(x: torch.Tensor, rng: Draws) -> torch.Tensor:
    """`rotate` with scales of up to 1.7, for findings of any size."""
    return rotate(x, rng, 1.7)


def none(x: torch.Tensor, rng: Draws) -> torch.Tensor:
    return x


def _bytes(x: torch.Tensor) -> torch.Tensor:
    return (x * 255).round_().to(torch.uint8)


def sharpness(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with a 3x3 smoothed copy: factor 0 gives the copy, 1 the image, above 1 a sharper image. The border is unchanged."""
    if min(x.shape[-2:]) < 3:
        return x
    kernel = x.new_ones(3, 1, 3, 3)
    kernel[:, :, 1, 1].fill_(5)  # avoids a copy from the host
    smooth = x.clone()
    smooth[..., 1:-1, 1:-1] = F.conv2d(x, kernel / 13, groups=3)
    return torch.lerp(smooth, x, factor).clamp_(0, 1)


def posterize(x: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Keep the highest `bits` bits of each byte."""
    step = (2 ** (8 - bits)).round()  # powers of 2 may be inexact on a GPU
    return (_bytes(x) / step).floor_() * step / 255


def solarize(x: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Invert values of `threshold` and above."""
    # Tolerance of a tenth of a grey level: whether byte / 255 equals the threshold depends on the device.
    return torch.where(x >= threshold - .1 / 255, 1 - x, x)


def autocontrast(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Stretch each channel to 0..1."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low).clamp_min(1e-6), x)


def equalize(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Equalise the histogram of each channel, with Pillow's rounding."""
    values = _bytes(x).flatten(2).long()
    histogram = torch.zeros(*values.shape[:2], 256, dtype=torch.long, device=x.device).scatter_add_(2, values, torch.ones_like(values))
    last = 255 - (histogram.flip(2) > 0).int().argmax(dim=2, keepdim=True)  # the largest value in use
    step = (values.shape[2] - histogram.gather(2, last)) // 255
    before = histogram.cumsum(2) - histogram
    table = torch.div(before + step // 2, step.clamp_min(1), rounding_mode='floor').clamp_(0, 255)
    return torch.where(step[..., None] > 0, table.gather(2, values).view(x.shape) / 255, x)


# operation -> (largest magnitude in RandAugment, in TrivialAugment); translations are fractions of the width
GEOMETRY = {'shear_x': (.3, .99), 'shear_y': (.3, .99), 'translate_x': (.45, .14), 'translate_y': (.45, .14), 'angle': (30., 135.)}
ENHANCE = .9, .99  # of brightness, contrast, saturation and sharpness
OTHER: dict[str, Operation] = {'posterize': posterize, 'solarize': solarize, 'autocontrast': autocontrast, 'equalize': equalize}
OPERATIONS = ['identity', *GEOMETRY, *BLENDS, 'sharpness', *OTHER]


def apply_operations(x: torch.Tensor, names: np.ndarray, magnitude: np.ndarray, sign: np.ndarray, wide: bool) -> torch.Tensor:
    """Apply one operation to each image.

    names: from OPERATIONS, (B,). magnitude: fraction of the largest magnitude, 0..1, (B,). sign: -1 or 1, (B,). wide: use the largest
    magnitudes of TrivialAugment instead of RandAugment.
    """
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
    factor, kind = 1 + sign * magnitude * ENHANCE[wide], names[:, None] == list(BLENDS)
    apply_to(x, kind.any(axis=1), blend, blend_amounts(kind.argmax(axis=1), factor))
    apply_to(x, names == 'sharpness', sharpness, factor)
    factors = {'posterize': 8 - np.round(magnitude * (6 if wide else 4)), 'solarize': 1 - magnitude}
    for name, operation in OTHER.items():
        apply_to(x, names == name, operation, factors.get(name, magnitude))
    return x


def flip(x: torch.Tensor, rng: Draws) -> torch.Tensor:
    """Flip vertically and horizontally, each with probability 1/2, without resampling."""
    for axis in (2, 3):
        chosen = torch.from_numpy(rng.random(len(x)) < .5).to(x.device, non_blocking=True)
        x = torch.where(chosen[:, None, None, None], x.flip(axis), x)
    return x


def randaugment(x: torch.Tensor, rng: Draws, n_operations: int = 2, magnitude: float = 9 / 30) -> torch.Tensor:
    """Flips, then `n_operations` random operations of the same magnitude (Cubuk et al., NeurIPS 2020, N = 2, M = 9 of 30)."""
    x, n = flip(x, rng), len(x)
    for _ in range(n_operations):
        x = apply_operations(x, rng.choice(OPERATIONS, n), np.full(n, magnitude), rng.choice([-1, 1], n), wide=False)
    return x


def trivial(x: torch.Tensor, rng: Draws) -> torch.Tensor:
    """Flips, then one random operation with a random magnitude (Müller and Hutter, ICCV 2021, TrivialAugment Wide)."""
    x, n = flip(x, rng), len(x)
    return apply_operations(x, rng.choice(OPERATIONS, n), rng.integers(31, size=n) / 30, rng.choice([-1, 1], n), wide=True)


AUGMENT: dict[str, Policy] = {
    'original': original, 'rotate': rotate, 'zoom': zoom, 'randaugment': randaugment, 'trivial': trivial, 'none': none}
