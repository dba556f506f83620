"""The training losses, table `LOSSES`.

A loss adjusts the logits in training only. Predictions, metrics and the validation loss use raw logits.

To add a loss, write a subclass of `CrossEntropy` and put it into `LOSSES`. The arguments of its `__init__` after `class_count` are its
parameters for --loss_params, and `ranges` holds their limits. See docs/architecture.md.
"""
import inspect
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from utils.common import InputError

Counts = npt.ArrayLike  # training images of each class, (K,)
Array = npt.NDArray[np.float64]
Ranges = dict[str, tuple[float, float]]


def log_prior(class_count: Counts) -> Array:
    """log(n_c / N), float64 (K,); -inf for a class without training images."""
    count = np.asarray(class_count, np.float64)
    with np.errstate(divide='ignore'):
        return np.log(count / count.sum())


def effective_number_weights(class_count: Counts, beta: float = .9999) -> Array:
    """(1 - beta) / (1 - beta^n_c), scaled to sum to K; float64 (K,). A class without training images gets weight 0.

    Cui et al., CVPR 2019, equation 4 and section 5.
    """
    count = np.asarray(class_count, np.float64)
    with np.errstate(divide='ignore'):
        weight = np.where(count > 0, (1 - beta) / -np.expm1(count * np.log(beta)), 0) if beta else (count > 0).astype(float)
    return weight * (len(count) / weight.sum())


class CrossEntropy(nn.Module):
    """CE(z, (1 - epsilon) y + epsilon / K), with `epsilon` for label smoothing (Szegedy et al., CVPR 2016). Base of all losses.

    class_count: TRAIN images of each class, (K,). `forward(logits (B, K), targets)` returns a scalar. Targets are hard (integers, (B,))
    or soft (floats, (B, K)). float64 logits are computed in float64, all other types in float32.

    Every loss is linear in its targets: sum_c y_c l_c(z), where l_c is the loss of the hard target c. Some multiply it by a class weight
    w_c. The batch loss is the mean over the images, so the weight of an image does not depend on its neighbours.
    """
    drw: ClassVar[bool] = True  # with --defer: class weights start late (other losses start with equal counts instead)
    corrects_prior: ClassVar[bool] = False  # corrects for class frequencies, so class-balanced sampling would do it twice
    head: ClassVar[str] = 'linear'  # the kind of last layer it needs, a key of models.heads.HEADS
    # Parameter of this class's __init__ -> (smallest, largest) value, both allowed. A parameter that is not listed takes any finite number.
    ranges: ClassVar[Ranges] = {'epsilon': (0, 1)}

    def __init__(self, class_count: Counts, epsilon: float = 0.) -> None:
        super().__init__()
        self.exact: dict[str, Array] = {}  # name of a constant -> its float64 values
        self.count: Array = np.asarray(class_count, np.float64)
        self.epsilon = epsilon
        self.class_weight: torch.Tensor | None = None

    def constant(self, name: str, values: npt.ArrayLike) -> None:
        """Register the per-class constant `name`, computed in float64, as a buffer of the type that the loss is computed in."""
        self.exact[name] = np.asarray(values, np.float64)
        self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    def in_precision(self, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The arguments of `forward` in the type that the loss is computed in, hard targets as int64.

        Constants are made again from float64 when that type changes: float32 values are not exact enough for float64, and MPS has no
        float64 buffers.
        """
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        for name, values in self.exact.items():
            if getattr(self, name).dtype != dtype:
                setattr(self, name, torch.tensor(values, dtype=dtype, device=logits.device))
        return logits.to(dtype), targets.to(dtype) if targets.is_floating_point() else targets.long()

    def set_class_weight(self, values: npt.ArrayLike) -> None:
        """Multiply the loss of class c by `values[c]`."""
        del self.class_weight
        self.constant('class_weight', values)

    def adjust(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits (B, K) that the loss sees."""
        return logits

    def implied_prior(self, seen: Array) -> Array | None:
        """The class prior that the raw logits carry at the optimum, up to a factor, (K,).

        seen: share of each class in the training labels, (K,). None if the softmax of the optimal logits is no posterior: it then differs
        from one by more than a prior.
        """
        if self.epsilon:
            return None
        return seen if self.class_weight is None else seen * self.class_weight.cpu().double().numpy()

    def class_losses(self, logits: torch.Tensor) -> torch.Tensor:
        """The loss of each image for each class as its target, (B, K)."""
        return -self.adjust(logits).log_softmax(dim=1)

    def smooth(self, targets: torch.Tensor) -> torch.Tensor:
        """Soft targets (B, K) with label smoothing."""
        return (1 - self.epsilon) * targets + self.epsilon / len(self.count) if self.epsilon else targets

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits, targets = self.in_precision(logits, targets)
        losses = self.class_losses(logits)
        if self.class_weight is not None:
            losses = losses * self.class_weight
        if not targets.is_floating_point():
            if not self.epsilon:
                return losses.gather(1, targets[:, None]).mean()
            targets = F.one_hot(targets, len(self.count)).to(losses)
        targets = self.smooth(targets)
        # A class without training images may cost inf, which must not meet a target of 0 (0 * inf is NaN).
        return (targets * losses.masked_fill(targets == 0, 0)).sum(dim=1).mean()


class TargetDependent(CrossEntropy):
    """Softmax cross-entropy of logits that are adjusted differently for each target class."""

    def implied_prior(self, seen: Array) -> Array | None:
        return None

    def adjust_for(self, logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """The logits (M, K) that the loss sees for the target classes `classes` (M,)."""
        raise NotImplementedError

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits, targets = self.in_precision(logits, targets)
        weight = logits.new_full((len(logits),), 1 / len(logits))
        if targets.is_floating_point():  # one row for each class with a share in the image's target
            rows, classes = targets.nonzero(as_tuple=True)
            weight, logits = weight[rows] * targets[rows, classes], logits[rows]
        else:
            classes = targets
        if self.class_weight is not None:
            weight = weight * self.class_weight[classes]
        losses = F.cross_entropy(self.adjust_for(logits, classes), classes, reduction='none')
        return (weight * losses).sum()


# Class weights, hard images, costs


class WeightedCrossEntropy(CrossEntropy):
    """w_y CE(z, y), w_c = (N / (K n_c))^gamma: inverse class frequency, smoothed with gamma .5.

    A class without training images gets weight 0.
    """
    drw = False
    corrects_prior = True
    ranges: ClassVar[Ranges] = {'gamma': (0, np.inf)}

    def __init__(self, class_count: Counts, gamma: float = 1.) -> None:
        super().__init__(class_count)
        n = self.count
        self.set_class_weight(np.where(n > 0, (n.sum() / (len(n) * np.maximum(n, 1))) ** gamma, 0))


class Focal(CrossEntropy):
    """(1 - p_y)^gamma CE(z, y), p = softmax(z) (Lin et al., ICCV 2017, equation 4, softmax form). gamma 0 is CE."""
    ranges: ClassVar[Ranges] = {'gamma': (0, np.inf)}

    def __init__(self, class_count: Counts, gamma: float = 2.) -> None:
        super().__init__(class_count)
        self.gamma = gamma

    def implied_prior(self, seen: Array) -> Array | None:
        return None if self.gamma else super().implied_prior(seen)

    def class_losses(self, logits: torch.Tensor) -> torch.Tensor:
        log_p = logits.log_softmax(dim=1)
        # 1 - p without cancellation; kept above 0, where a fractional power has no finite gradient.
        rest = (-log_p.expm1()).clamp_min(torch.finfo(log_p.dtype).tiny)
        return -rest ** self.gamma * log_p


BETA_RANGE = (0, np.nextafter(1, 0))  # 1 itself would divide by 0


class ClassBalanced(CrossEntropy):
    """w_y CE(z, y) with the weights of the effective number of samples, w_c = (1 - beta) / (1 - beta^n_c), scaled to sum to K.

    Cui et al., CVPR 2019, equation 4.
    """
    drw = False
    corrects_prior = True
    ranges: ClassVar[Ranges] = {'beta': BETA_RANGE}

    def __init__(self, class_count: Counts, beta: float = .9999) -> None:
        super().__init__(class_count)
        self.set_class_weight(effective_number_weights(class_count, beta))


class ClassBalancedFocal(Focal):
    """The focal loss with the weights of the effective number of samples (Cui et al., CVPR 2019, section 4)."""
    drw = False
    corrects_prior = True
    ranges: ClassVar[Ranges] = {'beta': BETA_RANGE, 'gamma': (0, np.inf)}

    def __init__(self, class_count: Counts, beta: float = .9999, gamma: float = 2.) -> None:
        super().__init__(class_count, gamma)
        self.set_class_weight(effective_number_weights(class_count, beta))


class Ordinal(CrossEntropy):
    """CE(z, y) + alpha sum_k p_k ((k - y) / (K - 1))^2, for ordered grades.

    The second term is the expected quadratic cost, as in the quadratically weighted kappa (Galdran et al., MICCAI 2020, cost-sensitive
    regularisation).
    """
    ranges: ClassVar[Ranges] = {'alpha': (0, np.inf)}
    cost: torch.Tensor  # (K, K)

    def __init__(self, class_count: Counts, alpha: float = 1.) -> None:
        super().__init__(class_count)
        self.alpha = alpha
        grade = np.arange(len(self.count)) / max(len(self.count) - 1, 1)
        self.constant('cost', (grade[:, None] - grade) ** 2)

    def implied_prior(self, seen: Array) -> Array | None:
        return None if self.alpha else super().implied_prior(seen)

    def class_losses(self, logits: torch.Tensor) -> torch.Tensor:
        log_p = logits.log_softmax(dim=1)
        # no matrix product, which autocast would compute in bfloat16
        return self.alpha * (log_p.exp()[:, None] * self.cost).sum(dim=2) - log_p


class LabelAwareSmoothing(CrossEntropy):
    """CE(z, (1 - e_y) onehot + e_y / K), e_c = tail + (head - tail) sin(u pi / 2), u = (n_c - N_min) / (N_max - N_min).

    The largest classes are smoothed most. Meant for stage two (Zhong et al., CVPR 2021, MiSLAS, equations 4 and 5, concave form).
    """
    drw = False
    ranges: ClassVar[Ranges] = {'head': (0, 1), 'tail': (0, 1)}
    smoothing: torch.Tensor  # (K,)

    def __init__(self, class_count: Counts, head: float = .3, tail: float = 0.) -> None:
        super().__init__(class_count)
        spread = self.count.max() - self.count.min()
        u = (self.count - self.count.min()) / spread if spread else np.zeros(len(self.count))
        self.constant('smoothing', tail + (head - tail) * np.sin(u * np.pi / 2))

    def implied_prior(self, seen: Array) -> Array | None:
        return None if self.exact['smoothing'].any() else super().implied_prior(seen)

    def class_losses(self, logits: torch.Tensor) -> torch.Tensor:
        losses = super().class_losses(logits)
        return (1 - self.smoothing) * losses + self.smoothing * losses.mean(dim=1, keepdim=True)


# Logits adjusted by class: priors, temperatures, margins


class LogitAdjustment(CrossEntropy):
    """CE(z + tau log pi, y), pi_c = n_c / N (Menon et al., ICLR 2021, equation 10). tau 1 is balanced softmax.

    A class without training images gets probability 0.
    """
    drw = False
    corrects_prior = True
    ranges: ClassVar[Ranges] = {'tau': (0, np.inf)}
    shift: torch.Tensor  # (K,)

    def __init__(self, class_count: Counts, tau: float = 1.) -> None:
        super().__init__(class_count)
        self.constant('shift', tau * log_prior(self.count) if tau else np.zeros(len(self.count)))

    def adjust(self, logits: torch.Tensor) -> torch.Tensor:
        return logits + self.shift

    def implied_prior(self, seen: Array) -> Array | None:
        shift = self.shift.cpu().double().numpy()
        return np.where(np.isfinite(shift), seen / np.exp(shift), 0)


class BalancedSoftmax(LogitAdjustment):
    """CE(z + log n, y), the softmax with the training prior (Ren et al., NeurIPS 2020, equation 4).

    Written with log(n_c / N), which gives the same softmax.
    """

    def __init__(self, class_count: Counts) -> None:
        super().__init__(class_count, tau=1.)


class VectorScaling(LogitAdjustment):
    """CE(z / a + tau log pi, y), a_c = (N_max / n_c)^gamma: multiplicative and additive adjustment (Kini et al., NeurIPS 2021, equation 2).

    gamma 0 is logit adjustment, tau 0 is CDT. A class without training images has a = inf.
    """
    ranges: ClassVar[Ranges] = {'gamma': (0, np.inf), 'tau': (0, np.inf)}
    temperature: torch.Tensor  # (K,)

    def __init__(self, class_count: Counts, gamma: float = .3, tau: float = 1.) -> None:
        super().__init__(class_count, tau)
        with np.errstate(divide='ignore'):
            self.constant('temperature', (self.count.max() / self.count) ** gamma)

    def adjust(self, logits: torch.Tensor) -> torch.Tensor:
        return super().adjust(logits / self.temperature)

    def implied_prior(self, seen: Array) -> Array | None:
        return super().implied_prior(seen) if (self.exact['temperature'] == 1).all() else None


class ClassDependentTemperature(VectorScaling):
    """CE(z / a, y), a_c = (N_max / n_c)^gamma >= 1 (Ye et al., 2020, arXiv 2001.01385, equation 5). gamma 0 is CE.

    a is largest for the rarest classes, so their decision values must grow.
    """
    ranges: ClassVar[Ranges] = {'gamma': (0, np.inf)}

    def __init__(self, class_count: Counts, gamma: float = .2) -> None:
        super().__init__(class_count, gamma, tau=0.)


class LDAM(TargetDependent):
    """CE(s (z - m_y e_y), y) of cosines z, m_c ~ n_c^(-1/4), scaled to the largest margin `max_m` (Cao et al., NeurIPS 2019, equations 11
    and 13).

    It needs the cosine classifier, which returns s z without margins in evaluation mode. A class without training images has the largest
    margin. With --defer it is LDAM-DRW: class weights of the effective number start late.
    """
    head = 'cosine'
    ranges: ClassVar[Ranges] = {'max_m': (0, np.inf), 's': (0, np.inf)}
    margin: torch.Tensor  # (K,)

    def __init__(self, class_count: Counts, max_m: float = .5, s: float = 30.) -> None:
        super().__init__(class_count)
        margin = np.maximum(self.count, self.count[self.count > 0].min()) ** -.25
        self.s = s
        self.constant('margin', margin * (max_m / margin.max()))

    def adjust_for(self, logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        margin = torch.zeros_like(logits).scatter(1, classes[:, None], self.margin[classes][:, None])
        return self.s * (logits - margin)


class LADE(BalancedSoftmax):
    """Balanced softmax + alpha LADER, a regulariser that makes the raw logits estimate log p(x|c) / p(x) (Hong et al., CVPR 2021, equations
    9 to 11).

    LADER = - sum_c pi_c (E_c - L_c - lam L_c^2). E_c is the mean of z_c over the batch's images of class c, weighted by soft targets, and 0
    if there is none. L_c = log mean_i exp(z_ic + log(1/K) - log pi_c). Small batches make it noisy.

    The term lam L_c^2 pulls z towards log p(c|x) + log K, the training posterior, and the cross-entropy does not. With both, the optimum is
    close to log p(x|c) but no posterior. With lam 0 it is that of balanced softmax.
    """
    ranges: ClassVar[Ranges] = {'alpha': (0, np.inf), 'lam': (0, np.inf)}
    prior: torch.Tensor  # (K,)
    to_uniform: torch.Tensor  # (K,)

    def __init__(self, class_count: Counts, alpha: float = .1, lam: float = .1) -> None:
        super().__init__(class_count)
        self.alpha, self.lam = alpha, lam
        self.constant('prior', self.count / self.count.sum())
        # A class without training images has weight 0 in the sum: any finite value will do.
        ratio = np.where(self.count > 0, -log_prior(self.count), 0) - np.log(len(self.count))
        self.constant('to_uniform', ratio)

    def implied_prior(self, seen: Array) -> Array | None:
        return None if self.alpha and self.lam else super().implied_prior(seen)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits, targets = self.in_precision(logits, targets)
        y = targets if targets.is_floating_point() else F.one_hot(targets, len(self.count)).to(logits)
        images = y.sum(dim=0)
        e = (y * logits).sum(dim=0) / torch.where(images > 0, images, 1)
        log_mean = (logits + self.to_uniform).logsumexp(dim=0) - np.log(len(logits))
        regulariser = -(self.prior * (e - log_mean - self.lam * log_mean ** 2)).sum()
        return super().forward(logits, targets) + self.alpha * regulariser


# Gradients that rare classes receive from images of frequent ones


class Equalisation(TargetDependent):
    """Softmax equalisation loss: the denominator leaves out class k != y with probability gamma if n_k / N < lam.

    Tan et al., CVPR 2020, equations 8 and 9. gamma 0 is CE. The draws come from torch's global random stream.
    """
    drw = False
    ranges: ClassVar[Ranges] = {'gamma': (0, 1), 'lam': (0, np.inf)}
    rare: torch.Tensor  # bool (K,)

    def __init__(self, class_count: Counts, gamma: float = .9, lam: float = .005) -> None:
        super().__init__(class_count)
        self.gamma = gamma
        self.register_buffer('rare', torch.from_numpy(self.count / self.count.sum() < lam), persistent=False)

    def adjust_for(self, logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        left_out = self.rare & (torch.rand_like(logits) < self.gamma)
        return logits.masked_fill(left_out.scatter(1, classes[:, None], False), -torch.inf)


class Seesaw(TargetDependent):
    """-log(e^z_y / sum_j S_yj e^z_j), S = M C (Wang et al., CVPR 2021, equations 4 to 8).

    Mitigation: M_yj = (n_j / n_y)^p where n_j < n_y, else 1, so rarer classes get smaller negative gradients. Compensation:
    C_yj = (s_j / s_y)^q where s_j > s_y, else 1, with s = softmax(z) without gradient, so misclassified images get larger ones. n are the
    training counts; the paper accumulates them during training. s_y is at least .01 and n at least 1, as in the authors' code.
    """
    drw = False
    ranges: ClassVar[Ranges] = {'p': (0, np.inf), 'q': (0, np.inf)}
    mitigation: torch.Tensor  # (K, K)

    def __init__(self, class_count: Counts, p: float = .8, q: float = 2.) -> None:
        super().__init__(class_count)
        self.q = q
        log_n = np.log(np.maximum(self.count, 1))
        self.constant('mitigation', p * np.minimum(log_n - log_n[:, None], 0))

    def adjust_for(self, logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        score = logits.detach().softmax(dim=1)
        ratio = score / score.gather(1, classes[:, None]).clamp_min(.01)
        compensation = self.q * ratio.clamp_min(1).log()
        return logits + self.mitigation[classes] + compensation.scatter(1, classes[:, None], 0.)


LOSSES: dict[str, type[CrossEntropy]] = {
    'CE': CrossEntropy, 'WCE': WeightedCrossEntropy, 'FOCAL': Focal, 'CB': ClassBalanced, 'CBFOCAL': ClassBalancedFocal,
    'BSCE': BalancedSoftmax, 'LA': LogitAdjustment, 'CDT': ClassDependentTemperature, 'VS': VectorScaling, 'LDAM': LDAM,
    'LAS': LabelAwareSmoothing, 'LADE': LADE, 'SEQL': Equalisation, 'SEESAW': Seesaw, 'ORDINAL': Ordinal,
}


def loss_parameters(name: str) -> dict[str, Any]:
    """{parameter: published default} of the loss `name`, a key of LOSSES."""
    return {p.name: p.default for p in list(inspect.signature(LOSSES[name]).parameters.values())[1:]}


def get_loss_fn(name: str, class_count: Counts, **params: float) -> CrossEntropy:
    """The loss `name`, a key of LOSSES in upper or lower case, for the TRAIN counts `class_count` (K,).

    params: its parameters, with published defaults. Raises `InputError` for an unknown loss or parameter, for one without a value, and for
    a value outside its range.
    """
    name = name.upper()
    if name not in LOSSES:
        raise InputError(f"unknown loss {name} (there are: {', '.join(LOSSES)})")
    known = loss_parameters(name)
    unknown = [param for param in params if param not in known]
    if unknown:
        raise InputError(f"loss {name} has no parameter {', '.join(unknown)} (it has: {', '.join(known) or 'none'})")
    if missing := [param for param, default in known.items() if default is inspect.Parameter.empty and param not in params]:
        raise InputError(f"loss {name} needs a value for {', '.join(missing)}: --loss_params {missing[0]}=NUMBER")
    for param, value in params.items():
        # Only the class's own ranges: its parameter may share its name with one of the base class.
        least, largest = vars(LOSSES[name]).get('ranges', {}).get(param, (-np.inf, np.inf))
        if not np.isfinite(value):
            raise InputError(f'loss {name}: {param} must be a finite number, got {value}')
        if not least <= value <= largest:
            raise InputError(f'loss {name}: {param} must lie between {least:g} and {largest}, got {value}')
    return LOSSES[name](class_count, **params)


def get_deferred_loss_fns(name: str, class_count: Counts, rebalance: bool = True, **params: float) -> tuple[CrossEntropy, CrossEntropy]:
    """The losses before and after the start of deferred re-balancing (Cao et al., NeurIPS 2019, algorithm 1).

    Losses without class weights of their own (CE, FOCAL, LDAM) get those of the effective number late (DRW), unless `rebalance` is False
    because the sampler is deferred instead (DRS). Losses that depend on the counts start as if these were equal.
    """
    after = get_loss_fn(name, class_count, **params)
    if not after.drw:
        return get_loss_fn(name, (np.asarray(class_count) > 0).astype(int), **params), after
    if rebalance:
        after.set_class_weight(effective_number_weights(class_count))
    return get_loss_fn(name, class_count, **params), after
