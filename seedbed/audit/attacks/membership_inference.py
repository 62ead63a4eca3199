"""Membership inference: was this example, or this client, in the training? Carlini, Chien, Nasr, Song, Terzis and
Tramèr, "Membership inference attacks from first principles" (LiRA), IEEE S&P 2022, arXiv 2112.03570.

Models trained with and without a target give two normal distributions of its logit-scaled confidence. The decision is
by the likelihood ratio of the attacked model's confidence. Shapes: S shadow models, T targets.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]


class RateInterval(NamedTuple):
    """True-positive rate at a given false-positive rate, with a 95 % Clopper–Pearson interval."""

    at: float
    rate: float
    low: float
    high: float


def logit(confidence: Floats) -> Floats:
    """log(p/(1 − p)) of the probability of the right class, approximately normal over models."""
    p = np.clip(confidence, 1e-12, 1 - 1e-12)
    return np.asarray(np.log(p) - np.log1p(-p))


def likelihood_ratio(own: Floats, shadows: Floats, included: NDArray[np.bool_]) -> Floats:
    """log p(own | in) − log p(own | out), [T].

    Args:
        own: [T] the attacked model's logit-scaled confidences.
        shadows: [S, T] those of the shadow models.
        included: [S, T] whether each target was in each training.
    """
    spread = []
    means = []
    for part in (included, ~included):
        count = np.maximum(part.sum(0), 1)
        mean = (shadows * part).sum(0) / count
        means.append(mean)
        # one variance for all targets, because there are few shadow models
        spread.append(((shadows - mean) ** 2 * part).sum() / max(1, part.sum() - len(mean)))
    inside, outside = (np.sqrt(np.maximum(s, 1e-12)) for s in spread)
    return np.asarray(stats.norm.logpdf(own, means[0], inside) - stats.norm.logpdf(own, means[1], outside))


def true_positive_rate(scores: Floats, member: NDArray[np.bool_], *, at: float = 0.01) -> RateInterval:
    """The true-positive rate at a false-positive rate of `at`."""
    others = np.sort(scores[~member])[::-1]
    allowed = int(np.floor(at * len(others)))
    threshold = others[allowed] if allowed < len(others) else -np.inf
    hits, n = int((scores[member] > threshold).sum()), int(member.sum())
    low = float(stats.beta.ppf(0.025, hits, n - hits + 1)) if hits else 0.0
    high = float(stats.beta.ppf(0.975, hits + 1, n - hits)) if hits < n else 1.0
    return RateInterval(at, hits / n, low, high)


def dp_ceiling(at: float, epsilon: float, delta: float) -> float:
    """The largest TPR that (ε, δ) allows: min(eᵉ·FPR + δ, 1 − e⁻ᵉ·(1 − FPR − δ)) (Kairouz, Oh and Viswanath, ICML
    2015).

    The second bound is below 1 for every ε. Without it nothing could be refuted with few clients, for which no small
    FPR can be shown.

    >>> round(dp_ceiling(0.05, 4.0, 1e-5), 4)
    0.9826
    """
    few, many = float(np.exp(min(epsilon, 700.0))) * at + delta, 1 - float(np.exp(-epsilon)) * (1 - at - delta)
    return float(min(1.0, few, many))
