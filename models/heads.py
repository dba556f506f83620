"""Classifiers (last layers), table `HEADS`: linear, cosine, or linear with a learnable scale per class."""
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn


class CosineClassifier(nn.Module):
    """Cosine classifier: (B, C) or (B, C, 1, 1) -> cosines of features and class vectors (B, K), times `scale` in evaluation mode.

    LDAM (Cao et al., NeurIPS 2019) subtracts its margins from the cosines and scales them inside the loss. In evaluation mode, the
    softmax of unscaled cosines would be nearly uniform. `scale` is a buffer, so checkpoints contain it.
    """
    scale: torch.Tensor

    def __init__(self, in_features: int, n_classes: int, scale: float = 30.) -> None:
        super().__init__()
        self.in_features = in_features
        self.weight = nn.Parameter(torch.empty(n_classes, in_features))
        self.register_buffer('scale', torch.tensor(scale))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        cosines = F.linear(F.normalize(x.flatten(1)), F.normalize(self.weight))
        return cosines if self.training else self.scale * cosines


class ScaledClassifier(nn.Module):
    """Learnable weight scaling (LWS) s_c (W x + b)_c (Kang et al., ICLR 2020, section 4.2). Only s is trained, starting from 1."""

    def __init__(self, classifier: nn.Module, n_classes: int) -> None:
        super().__init__()
        self.classifier = classifier
        self.scale = nn.Parameter(torch.ones(n_classes))

    def reset_parameters(self) -> None:
        cast(nn.Linear, self.classifier).reset_parameters()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(x).flatten(1) * self.scale


def _cosine(classifier: nn.Module, n_classes: int) -> nn.Module:
    in_features = classifier.in_channels if isinstance(classifier, nn.Conv2d) else classifier.in_features
    return CosineClassifier(cast(int, in_features), n_classes)


# type -> function of the current last layer and the number of classes
HEADS: dict[str, Callable[[nn.Module, int], nn.Module]] = {
    'linear': lambda classifier, n_classes: classifier, 'cosine': _cosine, 'scaled': ScaledClassifier}


def get_head(model: nn.Module) -> nn.Module:
    """Return the last layer of a network built by `get_arch`."""
    return model.get_submodule(cast(str, model.classifier_name))


def set_head(model: nn.Module, kind: str) -> None:
    """Replace the last layer of `model` with one of the type `kind`, a key of HEADS, built from the current one."""
    parent, _, child = cast(str, model.classifier_name).rpartition('.')
    setattr(model.get_submodule(parent), child, HEADS[kind](get_head(model), cast(int, model.n_classes)))
