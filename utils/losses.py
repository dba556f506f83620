"""The training losses (table `LOSSES`).

Losses adjust the logits in training only. Predictions, metrics and the validation loss use raw logits.

To add a loss, write a subclass of `CrossEntropy` and add it to `LOSSES`. The arguments of its `__init__` after `class_count` are the
parameters for --loss_params, and `ranges` holds their limits. See docs/architecture.md.

Symbols: z logits, y target, K classes, n_c training images of class c, N their sum.
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
    """Log class prior log(n_c / N), float64 (K,); -inf for a class without training images."""
    count = np.asarray(class_count, np.float64)
    with np.errstate(divide='ignore'):
        return np.log(count / count.sum())


def effective_number_weights(class_count: Counts, beta: float = .9999) -> Array:
    """Class weights (1 - beta) / (1 - beta^n_c), the inverse effective number of samples, scaled to sum to K; float64 (K,).

    A class without training images gets weight 0. Cui et al., CVPR 2019, equation 4 and section 5.
    """
    count = np.asarray(class_count, np.float64)
    with np.errstate(divide='ignore'):
        weight = np.where(count > 0, (1 - beta) / -np.expm1(count * np.log(beta)), 0) if beta else (count > 0).astype(float)
    return weight * (len(count) / weight.sum())


class CrossEntropy(nn.Module):
    """Cross-entropy with label smoothing: CE(z, (1 - epsilon) y + epsilon / K) (Szegedy et al., CVPR 2016). Base class of all losses.

    class_count: training images of each class, (K,). `forward(logits (B, K), targets)` returns a scalar. Targets are hard (integers, (B,))
    or soft (floats, (B, K)). The loss of float64 logits is computed in float64, that of all other types in float32.

    Every loss is linear in its targets: sum_c y_c l_c(z), where l_c is the loss of the hard target c. Some losses multiply l_c by a class
    weight w_c. The batch loss is the plain mean over images, so the weight of an image does not depend on the rest of the batch.
    """
    drw: ClassVar[bool] = True  # with --defer, class weights start late; if False, the loss starts with equal class counts
    corrects_prior: ClassVar[bool] = False  # corrects for class frequencies; class-balanced sampling would correct them twice
    head: ClassVar[str] = 'linear'  # the classifier (last layer) that it needs, a key of models.heads.HEADS
    # Parameter of this class's __init__ -> (smallest, largest) allowed value. Parameters that are not listed take any finite number.
    ranges: ClassVar[Ranges] = {'epsilon': (0, 1)}

    def __init__(self, class_count: Counts, epsilon: float = 0.) -> None:
        super().__init__()
        self.exact: dict[str, Array] = {}  # name of a constant -> its float64 values
        self.count: Array = np.asarray(class_count, np.float64)
        self.epsilon = epsilon
        self.class_weight: torch.Tensor | None = None

    def constant(self, name: str, values: npt.ArrayLike) -> None:
        """Register the constant `name` as a float32 buffer and keep its float64 values, which `in_precision` uses for float64 logits."""
        self.exact[name] = np.asarray(values, np.float64)
        self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    def in_precision(self, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the arguments of `forward` in the dtype that the loss is computed in, with hard targets as int64.

        If this dtype has changed, convert the constants from their float64 values: float32 buffers are not exact enough for float64
        logits, and MPS has no float64 buffers.
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
        """Adjusted logits (B, K) for the softmax; the raw logits by default."""
        return logits

    def implied_prior(self, seen: Array) -> Array | None:
        """Class prior contained in the raw logits at the optimum of the loss, up to a factor, (K,).

        seen: share of each class in the training labels, (K,). None if the softmax of the optimal logits is not a posterior under any
        class prior.
        """
        if self.epsilon:
            return None
        return seen if self.class_weight is None else seen * self.class_weight.cpu().double().numpy()

    def class_losses(self, logits: torch.Tensor) -> torch.Tensor:
        """Loss of each image for each class as its hard target, (B, K)."""
        return -self.adjust(logits).log_softmax(dim=1)

    def smooth(self, targets: torch.Tensor) -> torch.Tensor:
        """Apply label smoothing to soft targets (B, K)."""
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
        # The loss of a class without training images may be inf: mask it where the target is 0, since 0 * inf is NaN.
        return (targets * losses.masked_fill(targets == 0, 0)).sum(dim=1).mean()


class TargetDependent(CrossEntropy):
    """Base class of losses that adjust the logits differently for each target class before the softmax cross-entropy."""

    def implied_prior(self, seen: Array) -> Array | None:
        return None

    def adjust_for(self, logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Adjusted logits (M, K) for the target classes `classes` (M,)."""
        raise NotImplementedError

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits, targets = self.in_precision(logits, targets)
        weight = logits.new_full((len(logits),), 1 / len(logits))
        if targets.is_floating_point():  # one row for each image and class with a non-zero target
            rows, classes = targets.nonzero(as_tuple=True)
            weight, logits = weight[rows] * targets[rows, classes], logits[rows]
        else:
            classes = targets
        if self.class_weight is not None:
            weight = weight * self.class_weight[classes]
        losses = F.cross_entropy(self.adjust_for(logits, classes), classes, reduction='none')
        return (weight * losses).sum()


# Class weights, hard examples, ordinal costs


class WeightedCrossEntropy(CrossEntropy):
    """Weighted cross-entropy w_y CE(z, y), w_c = (N / (K n_c))^gamma.

    gamma 1 is the inverse class frequency, gamma .5 its square root. A class without training images gets weight 0.
    """
    drw = False
    corrects_prior = True
    ranges: ClassVar[Ranges] = {'gamma': (0, np.inf)}

    def __init__(self, class_count: Counts, gamma: float = 1.) -> None:
        super().__init__(class_count)
        n = self.count
        self.set_class_weight(np.where(n > 0, (n.sum() / (len(n) * np.maximum(n, 1))) ** gamma, 0))


class Focal(CrossEntropy):
    """Focal loss (1 - p_y)^gamma CE(z, y), p = softmax(z) (Lin et al., ICCV 2017, equation 4, softmax form). gamma 0 is CE."""
    ranges: ClassVar[Ranges] = {'gamma': (0, np.inf)}

    def __init__(self, class_count: Counts, gamma: float = 2.) -> None:
        super().__init__(class_count)
        self.gamma = gamma

    def implied_prior(self, seen: Array) -> Array | None:
        return None if self.gamma else super().implied_prior(seen)

    def class_losses(self, logits: torch.Tensor) -> torch.Tensor:
        log_p = logits.log_softmax(dim=1)
        # 1 - p without cancellation, clamped above 0, where a fractional power has no finite gradient
        rest = (-log_p.expm1()).clamp_min(torch.finfo(log_p.dtype).tiny)
        return -rest ** self.gamma * log_p


BETA_RANGE = (0, np.nextafter(1, 0))  # beta 1 would divide by 0


class ClassBalanced(CrossEntropy):
    """Class-balanced loss w_y CE(z, y), w_c = (1 - beta) / (1 - beta^n_c), scaled to sum to K (Cui et al., CVPR 2019, equation 4).

    The weights are the inverse effective number of samples.
    """
    drw = False
    corrects_prior = True
    ranges: ClassVar[Ranges] = {'beta': BETA_RANGE}

    def __init__(self, class_count: Counts, beta: float = .9999) -> None:
        super().__init__(class_count)
        self.set_class_weight(effective_number_weights(class_count, beta))


class ClassBalancedFocal(Focal):
    """Class-balanced focal loss: the focal loss with the weights of `ClassBalanced` (Cui et al., CVPR 2019, section 4)."""
    drw = False
    corrects_prior = True
    ranges: ClassVar[Ranges] = {'beta': BETA_RANGE, 'gamma': (0, np.inf)}

    def __init__(self, class_count: Counts, beta: float = .9999, gamma: float = 2.) -> None:
        super().__init__(class_count, gamma)
        self.set_class_weight(effective_number_weights(class_count, beta))


class Ordinal(CrossEntropy):
    """Ordinal loss CE(z, y) + alpha sum_k p_k ((k - y) / (K - 1))^2, p = softmax(z), for ordered grades.

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
        # no matrix product, because autocast would compute it in bfloat16
        return self.alpha * (log_p.exp()[:, None] * self.cost).sum(dim=2) - log_p


class LabelAwareSmoothing(CrossEntropy):
    """Label-aware smoothing CE(z, (1 - e_y) onehot(y) + e_y / K) (Zhong et al., CVPR 2021, MiSLAS, equations 4 and 5, concave form).

    e_c = tail + (head - tail) sin(u_c pi / 2), u_c = (n_c - N_min) / (N_max - N_min): the largest classes are smoothed most. Meant for
    stage two.
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


# Logit adjustments: priors, temperatures, margins


class LogitAdjustment(CrossEntropy):
    """Logit adjustment CE(z + tau log pi, y), pi_c = n_c / N (Menon et al., ICLR 2021, equation 10).

    tau 1 is balanced softmax. A class without training images gets probability 0.
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
    """Balanced softmax CE(z + log n, y), which adds the training prior to the logits (Ren et al., NeurIPS 2020, equation 4).

    Computed with log(n_c / N), which gives the same softmax.
    """

    def __init__(self, class_count: Counts) -> None:
        super().__init__(class_count, tau=1.)


class VectorScaling(LogitAdjustment):
    """Vector scaling CE(z / a + tau log pi, y), a_c = (N_max / n_c)^gamma (Kini et al., NeurIPS 2021, equation 2).

    It combines multiplicative and additive adjustment: gamma 0 is logit adjustment, tau 0 is CDT. A class without training images has
    a = inf.
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
    """Class-dependent temperatures CE(z / a, y), a_c = (N_max / n_c)^gamma >= 1 (Ye et al., 2020, arXiv 2001.01385, equation 5).

    a is largest for the rarest classes, so the network must learn larger decision values for them. gamma 0 is CE.
    """
    ranges: ClassVar[Ranges] = {'gamma': (0, np.inf)}

    def __init__(self, class_count: Counts, gamma: float = .2) -> None:
        super().__init__(class_count, gamma, tau=0.)


class LDAM(TargetDependent):
    """Label-distribution-aware margins CE(s (z - m_y e_y), y) for cosines z (Cao et al., NeurIPS 2019, equations 11 and 13).

    The margins m_c ~ n_c^(-1/4) are scaled so that the largest is `max_m`, which classes without training images also get. The loss needs
    the cosine classifier, which returns s z without margins in evaluation mode. With --defer it is LDAM-DRW: class weights of the
    effective number of samples start late.
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
    """Balanced softmax + alpha LADER (Hong et al., CVPR 2021, equations 9 to 11).

    The regulariser LADER = - sum_c pi_c (E_c - L_c - lam L_c^2) makes the raw logits estimate log(p(x|c) / p(x)). E_c is the mean of z_c
    over the images of class c in the batch, weighted by soft targets, or 0 if there are none. L_c = log mean_i exp(z_ic + log(1/K) -
    log pi_c). LADER is noisy for small batches.

    The term lam L_c^2 pulls z towards log p(c|x) + log K, the training posterior, while the cross-entropy does not. With both
    terms, the optimum is close to log p(x|c) but is not a posterior. With lam 0, the optimum is that of balanced softmax.
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


# Smaller negative gradients for rare classes


class Equalisation(TargetDependent):
    """Softmax equalisation loss (Tan et al., CVPR 2020, equations 8 and 9).

    The softmax denominator leaves out each rare class k != y (n_k / N < lam) with probability gamma. gamma 0 is CE. The random numbers
    come from torch's global random stream.
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
    """Seesaw loss -log(e^z_y / sum_j S_yj e^z_j), S_yj = M_yj C_yj (Wang et al., CVPR 2021, equations 4 to 8).

    Mitigation: M_yj = (n_j / n_y)^p if n_j < n_y, else 1, so rarer classes get smaller negative gradients. Compensation:
    C_yj = (s_j / s_y)^q if s_j > s_y, else 1, so misclassified images get larger gradients. s = softmax(z), without gradient. n are the
    training counts; the paper accumulates them during training. As in the authors' code, s_y is at least .01 and n at least 1.
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
    """Return {parameter: published default} of the loss `name`, a key of LOSSES."""
    return {p.name: p.default for p in list(inspect.signature(LOSSES[name]).parameters.values())[1:]}


def get_loss_fn(name: str, class_count: Counts, **params: float) -> CrossEntropy:
    """Build the loss `name`, a key of LOSSES in upper or lower case, for the training counts `class_count` (K,).

    params: parameters of the loss (default: the published values). Raises `InputError` for an unknown loss or parameter, a parameter
    without a value, and a value outside its range.
    """
    name = name.upper()
    if name not in LOSSES:
        raise InputError(f"unknown loss {name}: choose one of {', '.join(LOSSES)}")
    known = loss_parameters(name)
    unknown = [param for param in params if param not in known]
    if unknown:
        raise InputError(f"loss {name} has no parameter {', '.join(unknown)} (its parameters: {', '.join(known) or 'none'})")
    if missing := [param for param, default in known.items() if default is inspect.Parameter.empty and param not in params]:
        raise InputError(f"loss {name} needs a value for {', '.join(missing)}: --loss_params {missing[0]}=NUMBER")
    for param, value in params.items():
        # Only the ranges of the class itself: a parameter of its base class may have the same name.
        least, largest = vars(LOSSES[name]).get('ranges', {}).get(param, (-np.inf, np.inf))
        if not np.isfinite(value):
            raise InputError(f'loss {name}: {param} must be a finite number, got {value}')
        if not least <= value <= largest:
            raise InputError(f'loss {name}: {param} must be between {least:g} and {largest}, got {value}')
    return LOSSES[name](class_count, **params)


def get_deferred_loss_fns(name: str, class_count: Counts, rebalance: bool = True, **params: float) -> tuple[CrossEntropy, CrossEntropy]:
    """Return the losses before and after the start of deferred re-balancing (Cao et al., NeurIPS 2019, algorithm 1).

    Losses without class weights (CE, FOCAL, LDAM) get those of the effective number of samples late (DRW), unless `rebalance` is False
    because the sampler is deferred instead (DRS). Losses that depend on the class counts start with equal counts.
    """
    after = get_loss_fn(name, class_count, **params)
    if not after.drw:
        return get_loss_fn(name, (np.asarray(class_count) > 0).astype(int), **params), after
    if rebalance:
        after.set_class_weight(effective_number_weights(class_count))
    return get_loss_fn(name, class_count, **params), after
