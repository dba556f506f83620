"""Losses that weight classes or hard images: inverse frequency, effective number, focal, ordinal cost."""
from typing import ClassVar

import numpy as np
import torch

from utils.losses import CrossEntropy

BETA = (0, np.nextafter(1, 0))  # range of beta: 1 itself would divide by 0


def effective_number_weights(count, beta=.9999):
    """(1 - beta) / (1 - beta^n_c), scaled to sum to K (Cui et al., CVPR 2019, equation 4 and section 5); float64 (K,).
    A class without training images gets weight 0."""
    count = np.asarray(count, np.float64)
    with np.errstate(divide='ignore'):
        weight = np.where(count > 0, (1 - beta) / -np.expm1(count * np.log(beta)), 0) if beta else (count > 0).astype(float)
    return weight * (len(count) / weight.sum())


class WeightedCrossEntropy(CrossEntropy):
    """w_y CE(z, y), w_c = (N / (K n_c))^gamma: inverse frequency, gamma .5 the smoothed form. A class without training
    images gets weight 0."""
    drw = False
    corrects_prior = True
    ranges: ClassVar = {'gamma': (0, np.inf)}

    def __init__(self, class_count, gamma=1.):
        super().__init__(class_count)
        n = self.count
        self.set_class_weight(np.where(n > 0, (n.sum() / (len(n) * np.maximum(n, 1))) ** gamma, 0))


class Focal(CrossEntropy):
    """(1 - p_y)^gamma CE(z, y), p = softmax(z) (Lin et al., ICCV 2017, equation 4, in its softmax form). gamma 0 is CE."""
    ranges: ClassVar = {'gamma': (0, np.inf)}

    def __init__(self, class_count, gamma=2.):
        super().__init__(class_count)
        self.gamma = gamma

    def implied_prior(self, seen):
        return None if self.gamma else super().implied_prior(seen)

    def class_losses(self, logits):
        log_p = logits.log_softmax(dim=1)
        # 1 - p without cancellation; kept above 0, where a fractional power has no finite gradient.
        rest = (-log_p.expm1()).clamp_min(torch.finfo(log_p.dtype).tiny)
        return -rest ** self.gamma * log_p


class ClassBalanced(CrossEntropy):
    """w_y CE(z, y), w_c = (1 - beta) / (1 - beta^n_c), scaled to sum to K (Cui et al., CVPR 2019, equation 4)."""
    drw = False
    corrects_prior = True
    ranges: ClassVar = {'beta': BETA}

    def __init__(self, class_count, beta=.9999):
        super().__init__(class_count)
        self.set_class_weight(effective_number_weights(class_count, beta))


class ClassBalancedFocal(Focal):
    """The focal loss with the weights of the effective number (Cui et al., CVPR 2019, section 4)."""
    drw = False
    corrects_prior = True
    ranges: ClassVar = {'beta': BETA, 'gamma': (0, np.inf)}

    def __init__(self, class_count, beta=.9999, gamma=2.):
        super().__init__(class_count, gamma)
        self.set_class_weight(effective_number_weights(class_count, beta))


class Ordinal(CrossEntropy):
    """CE(z, y) + alpha sum_k p_k ((k - y) / (K - 1))^2, for ordered grades: the expected quadratic cost, as in the quadratic
    kappa, regularises the cross-entropy (Galdran et al., MICCAI 2020, cost-sensitive regularisation)."""
    ranges: ClassVar = {'alpha': (0, np.inf)}

    def __init__(self, class_count, alpha=1.):
        super().__init__(class_count)
        self.alpha = alpha
        grade = np.arange(len(self.count)) / max(len(self.count) - 1, 1)
        self.constant('cost', (grade[:, None] - grade) ** 2)

    def implied_prior(self, seen):
        return None if self.alpha else super().implied_prior(seen)

    def class_losses(self, logits):
        log_p = logits.log_softmax(dim=1)
        # no matrix product, which autocast would compute in bfloat16
        return self.alpha * (log_p.exp()[:, None] * self.cost).sum(dim=2) - log_p


class LabelAwareSmoothing(CrossEntropy):
    """CE(z, (1 - e_y) onehot + e_y / K), e_c = tail + (head - tail) sin(u pi / 2), u = (n_c - N_min) / (N_max - N_min): the
    head is smoothed most (Zhong et al., CVPR 2021, MiSLAS, equations 4 and 5, concave form); made for stage two."""
    drw = False
    ranges: ClassVar = {'head': (0, 1), 'tail': (0, 1)}

    def __init__(self, class_count, head=.3, tail=0.):
        super().__init__(class_count)
        spread = self.count.max() - self.count.min()
        u = (self.count - self.count.min()) / spread if spread else np.zeros(len(self.count))
        self.constant('smoothing', tail + (head - tail) * np.sin(u * np.pi / 2))

    def implied_prior(self, seen):
        return None if self.exact['smoothing'].any() else super().implied_prior(seen)

    def class_losses(self, logits):
        losses = super().class_losses(logits)
        return (1 - self.smoothing) * losses + self.smoothing * losses.mean(dim=1, keepdim=True)
