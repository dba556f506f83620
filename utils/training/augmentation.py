"""Batched augmentation on the device (table `AUGMENT`): float images (B, 3, H, W) in 0..1, each with its own random draw.

To add a policy, write a function of a batch and a random generator and add it to `AUGMENT`. It may change its batch in place.
"""
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

Operation = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # images (M, 3, H, W), factors (M, 1, 1, 1) -> images


class Draws(Protocol):
    """The methods of numpy's Generator that policies call."""

    def random(self, size: int, /) -> np.ndarray: ...
    def uniform(self, low: float, high: float, size: int, /) -> np.ndarray: ...
    def integers(self, high: int, /, *, size: int) -> np.ndarray: ...
    def choice(self, values: Any, size: int, /) -> np.ndarray: ...
    def permuted(self, rows: Any, /, *, axis: int) -> np.ndarray: ...


Policy = Callable[[torch.Tensor, Draws], torch.Tensor]

GRAY = (0.2989, 0.587, 0.114)  # ITU-R 601-2 luma, as torchvision's rgb_to_grayscale


def draw_params(rng: Draws, n: int, width: int) -> dict[str, np.ndarray]:
    """Draw parameters for `n` images of `width` pixels from the distribution of the original's training transforms.

    Geometry: a scale of 0.95..1.20, a horizontal shift of up to 5 % (whole pixels), or a rotation of up to 45 degrees. Colour: factors of
    0.75..1.25 for brightness, contrast and saturation and a hue shift of up to 0.01 turns, in random order. Each flip has probability 1/2.

    Returns float32 arrays (n,): `scale`, `shift` (pixels), `angle` (degrees, clockwise), `hflip`, `vflip` and the four jitter factors.
    `order` (n, 4) is the position of each entry of JITTER.
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


def warp(x: torch.Tensor, matrix: np.ndarray) -> torch.Tensor:
    """Resample float images (B, C, H, W) bilinearly, with 0 outside.

    `matrix` (B, 2, 3) maps the position (x, y) of an output pixel to that of an input pixel, both in pixels from the image centre.

    Unlike `F.affine_grid`, positions are computed without a matrix product. At 512 pixels, TF32 would shift them by up to 0.1 pixels and
    bfloat16 by 2.
    """
    height, width = x.shape[-2:]
    units = np.array([[1, height / width, 2 / width], [width / height, 1, 2 / height]])  # `grid_sample` measures in half image sizes
    theta = torch.from_numpy((matrix * units).astype(np.float32)).to(x.device, non_blocking=True)[:, None, None]  # (B, 1, 1, 2, 3)
    across, down = ((2 * torch.arange(n, device=x.device) + 1 - n) / n for n in (width, height))
    grid = theta[..., 0] * across[:, None] + (theta[..., 1] * down[:, None, None] + theta[..., 2])
    return F.grid_sample(x, grid, align_corners=False)


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


def per_channel(x: torch.Tensor, values: Sequence[float]) -> torch.Tensor:
    """`values` as a tensor (1, 3, 1, 1) with the dtype and device of `x`."""
    # `new_tensor` would make the CPU wait for the GPU in every batch
    return torch.tensor(values, dtype=x.dtype).to(x.device, non_blocking=True).view(1, 3, 1, 1)


def gray(x: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) -> (B, 1, H, W)"""
    return (x * per_channel(x, GRAY)).sum(1, keepdim=True)


def brightness(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return (factor * x).clamp_(0, 1)


def contrast(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return torch.lerp(gray(x).mean((2, 3), keepdim=True), x, factor).clamp_(0, 1)


def saturation(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return torch.lerp(gray(x), x, factor).clamp_(0, 1)


def hue(x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Rotate the hue by `shift` turns, and keep value and saturation.

    HSV to RGB: channel n = v - c max(0, min(k, 4 - k, 1)), k = (n + 6 h) mod 6.
    """
    value, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    chroma = value - low
    red, green, blue = x.split(1, 1)
    scale = torch.where(chroma > 0, chroma, 1).reciprocal()
    h = torch.where(value == red, (green - blue) * scale,
                    torch.where(value == green, 2 + (blue - red) * scale, 4 + (red - green) * scale))
    k = (h + 6 * shift + per_channel(x, (5., 3., 1.))) % 6
    return (value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)).clamp_(0, 1)


def apply_to(x: torch.Tensor, chosen: np.ndarray, operation: Operation, factor: np.ndarray) -> None:
    """Set x[i] to operation(x[i], factor[i]) wherever chosen[i] is true. `chosen` and `factor`: (B,)."""
    rows = np.flatnonzero(chosen)
    if len(rows):
        index = torch.from_numpy(rows).to(x.device, non_blocking=True)
        factors = torch.from_numpy(factor[rows].astype(np.float32)).to(x.device, non_blocking=True).view(-1, 1, 1, 1)
        x[index] = operation(x[index], factors)


JITTER: dict[str, Operation] = {'brightness': brightness, 'contrast': contrast, 'saturation': saturation, 'hue': hue}


def jitter(x: torch.Tensor, params: dict[str, np.ndarray]) -> torch.Tensor:
    """Jitter the colours of float images (B, 3, H, W) in 0..1 in place. Each image has its own order of the four operations."""
    for position in range(len(JITTER)):
        for i, (name, operation) in enumerate(JITTER.items()):
            apply_to(x, params['order'][:, i] == position, operation, params[name])
    return x


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
ENHANCE: dict[str, tuple[Operation, float, float]] = {
    'brightness': (brightness, .9, .99), 'contrast': (contrast, .9, .99), 'saturation': (saturation, .9, .99),
    'sharpness': (sharpness, .9, .99)}
OTHER: dict[str, Operation] = {'posterize': posterize, 'solarize': solarize, 'autocontrast': autocontrast, 'equalize': equalize}
OPERATIONS = ['identity', *GEOMETRY, *ENHANCE, *OTHER]


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
    for name, (operation, *largest) in ENHANCE.items():
        apply_to(x, names == name, operation, 1 + sign * magnitude * largest[wide])
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
