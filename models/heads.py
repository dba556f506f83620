"""The last layer of a network: as built, a cosine classifier, or one with a learnt scale per class."""
import torch
import torch.nn.functional as F
from torch import nn


class CosineClassifier(nn.Module):
    """(B, C) or (B, C, 1, 1) -> cosines of features and class vectors in training, `scale` times them in evaluation mode.

    LDAM (Cao et al., NeurIPS 2019) subtracts its margins from cosines and scales inside the loss; without the scale the softmax at
    test would be nearly uniform. It is a buffer, so that a checkpoint brings it along.
    """

    def __init__(self, in_features, n_classes, scale=30.):
        super().__init__()
        self.in_features = in_features
        self.weight = nn.Parameter(torch.empty(n_classes, in_features))
        self.register_buffer('scale', torch.tensor(scale))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.normal_(self.weight)

    def forward(self, x):
        cosines = F.linear(F.normalize(x.flatten(1)), F.normalize(self.weight))
        return cosines if self.training else self.scale * cosines


class ScaledClassifier(nn.Module):
    """s_c (W x + b)_c: learnable weight scaling, LWS (Kang et al., ICLR 2020, section 4.2). Only s, from 1, is trained."""

    def __init__(self, classifier, n_classes):
        super().__init__()
        self.classifier = classifier
        self.scale = nn.Parameter(torch.ones(n_classes))

    def reset_parameters(self):
        self.classifier.reset_parameters()

    def forward(self, x):
        return self.classifier(x).flatten(1) * self.scale


def _cosine(classifier, n_classes):
    return CosineClassifier(getattr(classifier, 'in_features', None) or classifier.in_channels, n_classes)


HEADS = {'linear': lambda classifier, n_classes: classifier, 'cosine': _cosine, 'scaled': ScaledClassifier}


def get_head(model):
    return model.get_submodule(model.classifier_name)


def set_head(model, kind):
    """Replace the last layer of `model` by one of `kind`, a key of HEADS, made from the present one."""
    parent, _, child = model.classifier_name.rpartition('.')
    setattr(model.get_submodule(parent), child, HEADS[kind](get_head(model), model.n_classes))
    return model
