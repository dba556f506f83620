"""Losses that change the logits by class: balanced softmax, logit adjustment, temperatures, margins, LADE."""
from typing import ClassVar

import numpy as np
import torch

from utils.losses import CrossEntropy, TargetDependent


def log_prior(count):
    """log(n_c / N), float64 (K,); -inf for a class without training images."""
    with np.errstate(divide='ignore'):
        return np.log(count / count.sum())


class LogitAdjustment(CrossEntropy):
    """CE(z + tau log pi, y), pi_c = n_c / N (Menon et al., ICLR 2021, equation 10). tau 1 is balanced softmax.
    A class without training images gets probability 0."""
    drw = False
    corrects_prior = True
    ranges: ClassVar = {'tau': (0, np.inf)}

    def __init__(self, class_count, tau=1.):
        super().__init__(class_count)
        self.constant('shift', tau * log_prior(self.count) if tau else np.zeros(len(self.count)))

    def adjust(self, logits):
        return logits + self.shift

    def implied_prior(self, seen):
        shift = self.shift.cpu().double().numpy()
        return np.where(np.isfinite(shift), seen / np.exp(shift), 0)


class BalancedSoftmax(LogitAdjustment):
    """CE(z + log n, y): the softmax of the training prior (Ren et al., NeurIPS 2020, equation 4). Written with
    log(n_c / N), which is the same softmax."""

    def __init__(self, class_count):
        super().__init__(class_count, tau=1.)


class VectorScaling(LogitAdjustment):
    """CE(z / a + tau log pi, y), a_c = (N_max / n_c)^gamma (Kini et al., NeurIPS 2021, equation 2): multiplicative and
    additive adjustment. gamma 0 is logit adjustment, tau 0 is CDT. A class without training images has a = inf."""
    ranges: ClassVar = {'gamma': (0, np.inf), 'tau': (0, np.inf)}

    def __init__(self, class_count, gamma=.3, tau=1.):
        super().__init__(class_count, tau)
        with np.errstate(divide='ignore'):
            self.constant('temperature', (self.count.max() / self.count) ** gamma)

    def adjust(self, logits):
        return super().adjust(logits / self.temperature)

    def implied_prior(self, seen):
        return super().implied_prior(seen) if (self.exact['temperature'] == 1).all() else None


class ClassDependentTemperature(VectorScaling):
    """CE(z / a, y), a_c = (N_max / n_c)^gamma >= 1, largest for the tail, whose decision values must therefore grow
    (Ye et al., 2020, arXiv 2001.01385, equation 5). gamma 0 is CE."""
    ranges: ClassVar = {'gamma': (0, np.inf)}

    def __init__(self, class_count, gamma=.2):
        super().__init__(class_count, gamma, tau=0.)


class LDAM(TargetDependent):
    """CE(s (z - m_y e_y), y) of cosines z, m_c ~ n_c^(-1/4) with the largest margin `max_m` (Cao et al., NeurIPS 2019,
    equations 11 and 13). The cosine classifier it needs returns s z at test, without margins. A class without training
    images has the largest margin. With --defer: LDAM-DRW, class weights of the effective number late."""
    head = 'cosine'
    ranges: ClassVar = {'max_m': (0, np.inf), 's': (0, np.inf)}

    def __init__(self, class_count, max_m=.5, s=30.):
        super().__init__(class_count)
        margin = np.maximum(self.count, self.count[self.count > 0].min()) ** -.25
        self.s = s
        self.constant('margin', margin * (max_m / margin.max()))

    def adjust_for(self, logits, classes):
        margin = torch.zeros_like(logits).scatter(1, classes[:, None], self.margin[classes][:, None])
        return self.s * (logits - margin)


class LADE(BalancedSoftmax):
    """Balanced softmax + alpha LADER (Hong et al., CVPR 2021, equations 9 to 11): a regulariser that makes the raw logits an estimate
    of log p(x|c) / p(x), LADER = - sum_c pi_c (E_c - L_c - lam L_c^2), E_c the mean of z_c over the batch's images of class c
    (0 if there is none; weighted by soft targets), L_c = log mean_i exp(z_ic + log(1/K) - log pi_c). Small batches make it noisy.

    The term lam L_c^2 pulls z towards log p(c|x) + log K, the training posterior, and the cross-entropy does not. With both the optimum
    is close to log p(x|c) but no posterior; with lam 0 it is that of balanced softmax."""
    ranges: ClassVar = {'alpha': (0, np.inf), 'lam': (0, np.inf)}

    def __init__(self, class_count, alpha=.1, lam=.1):
        super().__init__(class_count)
        self.alpha, self.lam = alpha, lam
        self.constant('prior', self.count / self.count.sum())
        # A class without training images has weight 0 in the sum: any finite value will do.
        ratio = np.where(self.count > 0, -log_prior(self.count), 0) - np.log(len(self.count))
        self.constant('to_uniform', ratio)

    def implied_prior(self, seen):
        return None if self.alpha and self.lam else super().implied_prior(seen)

    def forward(self, logits, targets):
        logits, targets = self.in_precision(logits, targets)
        y = targets if targets.is_floating_point() else torch.nn.functional.one_hot(targets, len(self.count)).to(logits)
        images = y.sum(dim=0)
        e = (y * logits).sum(dim=0) / torch.where(images > 0, images, 1)
        log_mean = (logits + self.to_uniform).logsumexp(dim=0) - np.log(len(logits))
        regulariser = -(self.prior * (e - log_mean - self.lam * log_mean ** 2)).sum()
        return super().forward(logits, targets) + self.alpha * regulariser
