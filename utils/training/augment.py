"""Operations of augmentation on a whole batch on its device, and the original's draw of parameters, one per image."""
import math

import numpy as np
import torch
import torch.nn.functional as F

GRAY = (0.2989, 0.587, 0.114)  # ITU-R 601-2 luma, as torchvision's rgb_to_grayscale


def draw_params(rng, n, width):
    """One draw for each of `n` images of `width` pixels, the distribution of the original's training transforms: one of
    scale 0.95..1.20, horizontal shift up to 5 % (whole pixels), rotation up to 45 degrees; brightness, contrast and
    saturation factors 0.75..1.25 and a hue shift up to 0.01 turns, in random order; both flips with probability 1/2.

    -> dict of arrays: `scale`, `shift` (pixels), `angle` (degrees, clockwise), `hflip`, `vflip`, the four jitter factors,
    each (n,) float32, and `order` (n, 4): the position of each entry of JITTER.
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


def warp(x, matrix):
    """Bilinear resampling of float images (B, C, H, W), 0 outside. `matrix` (B, 2, 3) maps the position (x, y) of an output pixel to
    that of an input pixel, both in pixels from the centre of the image.

    The positions are no matrix product, as in `F.affine_grid`: TF32 would shift them by up to 0.1 of 512 pixels, bfloat16 by 2.
    """
    height, width = x.shape[-2:]
    units = np.array([[1, height / width, 2 / width], [width / height, 1, 2 / height]])  # `grid_sample` counts in halves of the image
    theta = torch.from_numpy((matrix * units).astype(np.float32)).to(x.device, non_blocking=True)[:, None, None]  # (B, 1, 1, 2, 3)
    across, down = ((2 * torch.arange(n, device=x.device) + 1 - n) / n for n in (width, height))
    grid = theta[..., 0] * across[:, None] + (theta[..., 1] * down[:, None, None] + theta[..., 2])
    return F.grid_sample(x, grid, align_corners=False)


def move(x, params):
    """Scale, shift, rotation and flips of float images (B, C, H, W) in one resampling: an output position is mapped by the flips
    first, then by the inverse of shift, rotation and scale about the centre."""
    angle = params['angle'] * (math.pi / 180)
    cos, sin = np.cos(angle) / params['scale'], np.sin(angle) / params['scale']
    matrix = np.array([[cos, sin, -cos * params['shift']], [-sin, cos, sin * params['shift']]])
    matrix[:, 0] *= 1 - 2 * params['hflip']
    matrix[:, 1] *= 1 - 2 * params['vflip']
    return warp(x, matrix.transpose(2, 0, 1))


def per_channel(x, values):
    """(1, 3, 1, 1) like `x`. `new_tensor` would make the CPU wait for the GPU in every batch."""
    return torch.tensor(values, dtype=x.dtype).to(x.device, non_blocking=True).view(1, 3, 1, 1)


def gray(x):
    return (x * per_channel(x, GRAY)).sum(1, keepdim=True)


def brightness(x, factor):
    return (factor * x).clamp_(0, 1)


def contrast(x, factor):
    return torch.lerp(gray(x).mean((2, 3), keepdim=True), x, factor).clamp_(0, 1)


def saturation(x, factor):
    return torch.lerp(gray(x), x, factor).clamp_(0, 1)


def hue(x, shift):
    """Turn the hue, keep value and saturation of HSV: channel n = v - c max(0, min(k, 4 - k, 1)), k = (n + 6 h) mod 6."""
    value, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    chroma = value - low
    red, green, blue = x.split(1, 1)
    scale = torch.where(chroma > 0, chroma, 1).reciprocal()
    h = torch.where(value == red, (green - blue) * scale,
                    torch.where(value == green, 2 + (blue - red) * scale, 4 + (red - green) * scale))
    k = (h + 6 * shift + per_channel(x, (5., 3., 1.))) % 6
    return (value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)).clamp_(0, 1)


def apply_to(x, chosen, operation, factor):
    """x[i] = operation(x[i], factor[i]) for the images i where `chosen` (B,) is true; `factor` (B,)."""
    rows = np.flatnonzero(chosen)
    if len(rows):
        index = torch.from_numpy(rows).to(x.device, non_blocking=True)
        factor = torch.from_numpy(factor[rows].astype(np.float32)).to(x.device, non_blocking=True).view(-1, 1, 1, 1)
        x[index] = operation(x[index], factor)


JITTER = {'brightness': brightness, 'contrast': contrast, 'saturation': saturation, 'hue': hue}


def jitter(x, params):
    """Colour jitter of float images (B, 3, H, W) of 0..1, each image in its own order of the four operations."""
    for position in range(len(JITTER)):
        for i, (name, operation) in enumerate(JITTER.items()):
            apply_to(x, params['order'][:, i] == position, operation, params[name])
    return x
