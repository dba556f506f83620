"""Test-time augmentation: views of an image whose probabilities are averaged."""
import argparse
import math
from collections.abc import Callable, Iterator

import torch

from utils.common import InputError


def add_view_flags(group: argparse._ArgumentGroup, dihedral_tta: int = 0) -> None:
    group.add_argument('--dihedral_tta', type=int, default=dihedral_tta, metavar='N',
                       help='test-time augmentation: N rotations, each with and without vertical flip (4: every 90 degrees; 0: off)')
    group.add_argument('--zoom_tta', type=float, nargs='+', default=[1.], metavar='Z',
                       help='test-time augmentation: centre crops magnified by these factors, such as 1 1.2 1.4 (1: whole image)')


def check_view_flags(args: argparse.Namespace) -> None:
    if args.dihedral_tta < 0:
        raise InputError('--dihedral_tta must not be negative')
    if not all(1 <= zoom < math.inf for zoom in args.zoom_tta) or len(set(args.zoom_tta)) < len(args.zoom_tta):
        given = ' '.join(f'{zoom:g}' for zoom in args.zoom_tta)
        raise InputError(f'--zoom_tta {given}: factors must differ and be at least 1 (the whole image)')


def dihedral_views(images: torch.Tensor, n: int) -> Iterator[torch.Tensor]:
    """Yield 2n views of uint8 images (B, 3, H, W): n rotations by multiples of 360/n degrees, each with and without vertical flip.

    Multiples of 90 degrees are exact (`rot90`, which may swap height and width). Other angles use bilinear interpolation, with 0 outside.
    """
    for i in range(n):
        turns, rest = divmod(360 * i / n, 90)
        view = _rotated(images, 90 * turns + rest) if rest else torch.rot90(images, int(turns), (2, 3))
        yield view
        yield view.flip(2)


def _rotated(images, degrees):
    from torchvision.transforms.v2 import functional as TF  # imported here because it takes seconds
    return TF.rotate(images, degrees, TF.InterpolationMode.BILINEAR)


def magnified(images: torch.Tensor, zoom: float) -> torch.Tensor:
    """Centre crop of uint8 images (B, 3, H, W) to H / zoom x W / zoom (rounded), resized to the full size (bilinear)."""
    from torchvision.transforms.v2 import functional as TF  # imported here because it takes seconds
    size = list(images.shape[-2:])
    middle = TF.center_crop(images, [max(round(side / zoom), 1) for side in size])
    return TF.resize(middle, size, TF.InterpolationMode.BILINEAR)


def get_views(args: argparse.Namespace) -> Callable[[torch.Tensor], Iterator[torch.Tensor]]:
    """-> function: uint8 images (B, 3, H, W) -> iterator over their views"""
    def views(images):
        for zoom in args.zoom_tta:
            view = images if zoom == 1 else magnified(images, zoom)
            yield from dihedral_views(view, args.dihedral_tta) if args.dihedral_tta else [view]
    return views
