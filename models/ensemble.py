"""A network of several networks, whose class probabilities are averaged."""
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn


class Ensemble(nn.Module):
    """Average the class probabilities of `members` (Lakshminarayanan et al., NeurIPS 2017): images (B, 3, H, W) -> float32 (B, K).

    The output is the log of the mean softmax over the members. Used as logits, it gives the mean probabilities.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        log_p = torch.stack([member(images).float().log_softmax(dim=1) for member in self.members])
        return log_p.logsumexp(dim=0) - np.log(len(self.members))
