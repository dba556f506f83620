"""Losses that spare the tail the gradients of the head: equalisation and seesaw."""
from typing import ClassVar

import numpy as np
import torch

from utils.losses import TargetDependent


class Equalisation(TargetDependent):
    """Softmax equalisation loss: the softmax's denominator leaves out class k != y with probability gamma when n_k / N < lam
    (Tan et al., CVPR 2020, equations 8 and 9). gamma 0 is CE. The draws come from torch's global stream."""
    drw = False
    ranges: ClassVar = {'gamma': (0, 1), 'lam': (0, np.inf)}

    def __init__(self, class_count, gamma=.9, lam=.005):
        super().__init__(class_count)
        self.gamma = gamma
        self.register_buffer('rare', torch.from_numpy(self.count / self.count.sum() < lam), persistent=False)

    def adjust_for(self, logits, classes):
        left_out = self.rare & (torch.rand_like(logits) < self.gamma)
        return logits.masked_fill(left_out.scatter(1, classes[:, None], False), -torch.inf)


class Seesaw(TargetDependent):
    """-log(e^z_y / sum_j S_yj e^z_j), S = M C: M_yj = (n_j / n_y)^p where n_j < n_y (fewer punishments of rarer classes), and
    C_yj = (s_j / s_y)^q where s_j > s_y, s = softmax(z) without gradient (more where the image is misclassified); else 1 (Wang
    et al., CVPR 2021, equations 4 to 8). n are the training counts, which the paper accumulates while it trains. s_y is taken
    as at least .01 and n as at least 1, as in the authors' code."""
    drw = False
    ranges: ClassVar = {'p': (0, np.inf), 'q': (0, np.inf)}

    def __init__(self, class_count, p=.8, q=2.):
        super().__init__(class_count)
        self.q = q
        log_n = np.log(np.maximum(self.count, 1))
        self.constant('mitigation', p * np.minimum(log_n - log_n[:, None], 0))

    def adjust_for(self, logits, classes):
        score = logits.detach().softmax(dim=1)
        ratio = score / score.gather(1, classes[:, None]).clamp_min(.01)
        compensation = self.q * ratio.clamp_min(1).log()
        return logits + self.mitigation[classes] + compensation.scatter(1, classes[:, None], 0.)
