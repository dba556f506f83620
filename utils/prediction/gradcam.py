"""Grad-CAM: heat maps of the image regions that support a class, for convolutional networks."""
import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import nn

from models.ensemble import Ensemble
from utils.common import InputError, printable

SIDES = (256, 800)  # limits of an image's longer side in a picture, in pixels
NARROWEST = 128  # width of each half of a picture, so that its text fits


def _last_map(model, inputs):
    """-> (logits, output of the last module with height and width). Raises `InputError` if the network continues with tokens after it (as
    ViT does after the convolution for patches), or has channels-last outputs (Swin)."""
    maps, tokens = [], []

    def hook(module, args, output):
        if isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            maps[:], tokens[:] = [output], []
        elif isinstance(output, torch.Tensor) and output.ndim == 3:
            tokens.append(output.shape)
    hooks = [module.register_forward_hook(hook) for module in model.modules() if module is not model]
    try:
        logits = model(inputs)
    finally:
        for handle in hooks:
            handle.remove()
    if not maps or tokens or getattr(model, 'output_fmt', 'NCHW') != 'NCHW':
        raise InputError(f'--gradcam: {type(model).__name__} has no feature map with height and width in its last layers. Grad-CAM needs '
                         'a convolutional network and large enough images')
    return logits, maps[0]


def grad_cam(model: nn.Module, inputs: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Heat maps for the logits of `classes` (int64 (B,)) in `inputs` (B, 3, H, W): float (B, h, w) in 0..1, the size of the last feature
    map A.

    ReLU(sum_k a_k A_k) with a_k = mean over positions of d logit / d A_k (Selvaraju et al., ICCV 2017, equations 1 and 2), divided by its
    maximum for each image. The heat map is 0 if no position supports the class. For an ensemble, it is the mean over the members.
    """
    model.eval()
    if isinstance(model, Ensemble):
        return torch.stack([grad_cam(member, inputs, classes) for member in model.members]).mean(0)
    with torch.enable_grad():
        logits, maps = _last_map(model, inputs.detach().requires_grad_())
        gradient, = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), maps)
    heat = (gradient.mean((2, 3), keepdim=True) * maps).sum(1).relu().detach()
    return heat / heat.amax((1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)


def overlay(image: Image.Image, heat: ArrayLike, caption: str = '') -> Image.Image:
    """The RGB `image`, next to it the same image under `heat` (h, w) in 0..1, and below them `caption` and the colours of 0 to 1.

    Of a caption that is too long, the middle is left out. Characters that Pillow's font lacks are drawn as boxes.
    """
    longest = min(max(*image.size, SIDES[0]), SIDES[1])
    image = ImageOps.contain(image, (longest, longest))
    warm = Image.fromarray(np.asarray(heat, np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    half = max(image.width, NARROWEST)
    size = max(14, half // 20)
    font, line = ImageFont.load_default(size), size * 3 // 2
    picture = Image.new('RGB', (2 * half, image.height + (2 if caption else 1) * line), 'white')
    picture.paste(image)
    picture.paste(_heated(image, np.asarray(warm)), (half, 0))
    draw, middle = ImageDraw.Draw(picture), picture.height - line // 2
    if caption:
        draw.text((4, image.height + line // 2), _fitting(printable(caption), font, 2 * half - 8), fill='black', font=font, anchor='lm')
    scale = Image.new('RGB', (half - 4 * size, size * 2 // 3), 'grey')
    picture.paste(_heated(scale, np.linspace([0], [1], scale.width, axis=1)), (half + 2 * size, middle - scale.height // 2))
    for x, text, anchor in ((half + 2 * size - 4, '0', 'rm'), (2 * half - 2 * size + 4, '1', 'lm')):
        draw.text((x, middle), text, fill='black', font=font, anchor=anchor)
    return picture


def _heated(image, warm):
    """-> `image` under the heat map `warm` (H, W), or (1, W) for all rows: 0 is transparent, then red to yellow"""
    warm = warm.clip(0, 1)[..., None]
    colour = np.concatenate([np.full_like(warm, 255), 255 * warm ** 2, np.zeros_like(warm)], axis=2)
    pixels = np.asarray(image)
    return Image.fromarray((pixels + .6 * warm * (colour - pixels)).round().astype(np.uint8))


def _fitting(text, font, width):
    """-> `text`, without its middle if it is wider than `width` pixels. Its last ten characters, such as ' 71.3 %', are kept."""
    start, end, shown = text[:-10], text[-10:], text
    while font.getlength(shown) > width and start:
        start = start[:-1]
        shown = f'{start}...{end}'
    return shown
