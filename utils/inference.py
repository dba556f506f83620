"""The only evaluation loop: validation, test and test-time augmentation."""
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as TF
from tqdm import tqdm

from .common import InputError


class Predictions(NamedTuple):
    preds: np.ndarray  # int64 (N,)
    probs: np.ndarray  # float32 (N, K)
    labels: np.ndarray | None  # int64 (N,)
    loss: float  # mean cross-entropy of the raw logits; NaN without labels
    image_ids: list


def dihedral_views(images, n):
    """The 2n views of uint8 images (B, 3, H, W): n rotations by 360/n degrees, each as it is and flipped vertically.
    Multiples of 90 degrees are exact (`rot90`; height and width change places); other angles are bilinear, 0 outside."""
    for i in range(n):
        angle = 360 * i / n
        exact = angle % 90 == 0
        view = torch.rot90(images, int(angle // 90), (2, 3)) if exact else TF.rotate(images, angle, TF.InterpolationMode.BILINEAR)
        yield view
        yield view.flip(2)


@torch.inference_mode()
def predict(model, loader, normalise, autocast, dihedral_tta=0, desc='evaluate'):
    """Every image of `loader` exactly once, in its order -> Predictions.

    Probabilities are the softmax of the raw logits; with `dihedral_tta` n > 0 their mean over 2n views, and the loss is
    the cross-entropy of that mean. `normalise`: uint8 batch -> input on the device; `autocast`: makes a context.
    """
    model.eval()
    log_probs, labels, image_ids = [], [], []
    with tqdm(total=len(loader.dataset), desc=desc, unit='img', leave=False, disable=None) as bar:
        for images, batch_labels, ids in loader:
            views = dihedral_views(images, dihedral_tta) if dihedral_tta else [images]
            with autocast():
                logits = [model(normalise(view)) for view in views]
            log_p = torch.stack([z.float().log_softmax(dim=1) for z in logits]).logsumexp(0) - np.log(len(logits))
            log_probs.append(log_p)
            labels.append(batch_labels)
            image_ids += ids
            bar.update(len(ids))
    log_probs, labels = torch.cat(log_probs).cpu(), torch.cat(labels)
    if len(image_ids) != len(loader.dataset):
        raise RuntimeError(f'{len(image_ids)} predictions for {len(loader.dataset)} images')
    if log_probs.isnan().any():
        raise InputError(f'{desc}: the network returns NaN: training has diverged (a lower --lr usually helps)')
    has_labels = bool((labels >= 0).all())
    loss = F.nll_loss(log_probs, labels).item() if has_labels else float('nan')
    probs = log_probs.exp().numpy()
    return Predictions(probs.argmax(axis=1), probs, labels.numpy() if has_labels else None, loss, image_ids)
