"""Grad-CAM: heat maps of the image regions that support a class, for convolutional networks."""
import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch import nn

from models.ensemble import Ensemble
from utils.common import InputError

LONGEST = 800  # maximum length of an image's longer side, in pixels


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


def overlay(image: Image.Image, heat: ArrayLike) -> Image.Image:
    """The RGB `image`, and next to it the same image under `heat` (h, w) in 0..1: 0 is transparent, then red to yellow."""
    image = image.copy()
    image.thumbnail((LONGEST, LONGEST))
    resized = Image.fromarray(np.asarray(heat, np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    warm = np.asarray(resized).clip(0, 1)[..., None]
    colour = np.concatenate([np.full_like(warm, 255), 255 * warm ** 2, np.zeros_like(warm)], axis=2)
    pixels = np.asarray(image)
    mixed = pixels + .6 * warm * (colour - pixels)
    return Image.fromarray(np.concatenate([pixels, mixed.round().astype(np.uint8)], axis=1))
