"""Reference losses: the formulas of the papers in float64, written as loops."""
import numpy as np


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def per_class(name, z, scores, n, gamma=None, tau=1., beta=.9999, max_m=.5, s=30., head=.3, tail=0., lam=.1, alpha=1., p=.8, q=2.,
              epsilon=0.):
    """Losses (K,) of one image with logits z for each target class. `scores` are the logits for the terms without gradient."""
    big, log_p, k = n.max(), log_softmax(z), len(n)
    with np.errstate(divide='ignore', invalid='ignore'):
        log_pi, weight = np.log(n / n.sum()), (1 - beta) / (1 - beta ** n)
    weight = np.where(n > 0, weight, 0)
    weight = weight * k / weight.sum()
    if name == 'CE':
        return -(1 - epsilon) * log_p - epsilon / k * log_p.sum()
    if name == 'WCE':
        return -np.array([(n.sum() / (k * c)) ** gamma if c else 0 for c in n]) * log_p
    if name == 'CB':
        return -weight * log_p
    if name in ('FOCAL', 'CBFOCAL'):
        return -(weight if name == 'CBFOCAL' else 1) * (1 - np.exp(log_p)) ** gamma * log_p
    if name in ('BSCE', 'LADE', 'LA'):
        return -log_softmax(z + tau * log_pi)
    if name in ('CDT', 'VS'):
        with np.errstate(divide='ignore'):
            return -log_softmax(z / (big / n) ** gamma + (tau * log_pi if name == 'VS' else 0))
    if name == 'LAS':
        u = (n - n.min()) / max(big - n.min(), 1)
        e = tail + (head - tail) * np.sin(u * np.pi / 2)
        return -(1 - e) * log_p - e * log_p.mean()
    if name == 'ORDINAL':
        return np.array([-log_p[y] + alpha * sum(np.exp(log_p[j]) * ((j - y) / (k - 1)) ** 2 for j in range(k)) for y in range(k)])
    rows = np.empty((k, k))  # row y: adjusted logits for target y
    for y in range(k):
        if name == 'LDAM':
            m = np.where(n > 0, n, n[n > 0].min()) ** -.25
            rows[y] = s * (z - np.eye(k)[y] * m[y] * max_m / m.max())
        elif name == 'SEQL':
            rows[y] = np.where((n / n.sum() < lam) & (np.arange(k) != y), -np.inf, z)
        else:
            score, c = np.exp(log_softmax(scores)), np.maximum(n, 1)
            factor = [1 if j == y else min(c[j] / c[y], 1) ** p * max(score[j] / max(score[y], .01), 1) ** q for j in range(k)]
            rows[y] = z + np.log(factor)
    return -log_softmax(rows).diagonal()


def reference(name, z, y, n, scores, params):
    total = 0.
    for image, target, score in zip(z, y, scores, strict=True):
        losses = per_class(name, image, score, n, **params)
        total += sum(t * loss for t, loss in zip(target, losses, strict=True) if t) / len(z)
    if name == 'LADE':
        k, pi = len(n), n / n.sum()
        for c in np.flatnonzero(n):
            mean = (y[:, c] * z[:, c]).sum() / y[:, c].sum() if y[:, c].any() else 0
            spread = z[:, c] - np.log(pi[c]) + np.log(1 / k)
            log_mean = spread.max() + np.log(np.exp(spread - spread.max()).mean())
            total -= params['alpha'] * pi[c] * (mean - log_mean - params['lam'] * log_mean ** 2)
    return total
