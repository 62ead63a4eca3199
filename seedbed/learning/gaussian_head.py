"""A two-level Gaussian head: a client's prototypes of its classes, under a prior that is learned over clients.

    f ~ N(c_k, diag S) for a feature vector of class k,    c_k ~ N(μ_k, diag T) over clients

A class of which a client has no example keeps the prototype μ_k of all clients; many examples take it to their mean.
The prior follows from sums by the fixed point of `empirical_bayes`, each feature for itself.

Shapes: B examples, F features, K classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from seedbed.learning.empirical_bayes import COUNT, FLOOR, PER_ROUND, QUARTER


class ClassPrior(NamedTuple):
    """What the server learns of prototypes."""

    mean: Tensor  # [K, F]  μ
    between: Tensor  # [F]  T, the variance of a client's prototype
    within: Tensor  # [F]  S, the variance of examples around it


class ClassSums(NamedTuple):
    """What a client sends; d is the posterior mean of (c − μ)/√T, the gain is nT/(nT + S)."""

    mean: Tensor  # [K, F]  d
    gain: Tensor  # [K, F]
    square: Tensor  # [F]  Σ_k d²/4
    error: Tensor  # [F]  Σ(f − c)²/256
    examples: Tensor  # []  n/256


def prototypes(f: Tensor, hot: Tensor, prior: ClassPrior) -> tuple[Tensor, ClassSums]:
    """A client's posterior mean prototypes [K, F], and what it sends.

    Args:
        f: [B, F] features.  hot: [B, K] one-hot labels, rows of padding 0.
    """
    n = hot.sum(0)[:, None]  # [K, 1]
    real = hot.sum(1, keepdim=True) > 0
    f = torch.where(real, f, 0.0)
    gain = n * prior.between / (n * prior.between + prior.within)
    away = (hot.T @ f) / n.clamp_min(1) - torch.where(n > 0, prior.mean, 0.0)
    scale = prior.between.sqrt()
    c = prior.mean + gain * away
    d = gain * away / scale
    left = torch.where(real, f - hot @ c, 0.0)
    return c, ClassSums(d, gain, (d * d).sum(0) / QUARTER, (left * left).sum(0) / COUNT, n.sum() / COUNT)


def update_classes(prior: ClassPrior, sums: ClassSums) -> ClassPrior:
    """The prior after a round, from the sums' means over clients."""
    gain, total = sums.gain.clamp_min(1e-12), sums.gain.sum(0)
    shift = torch.where(sums.gain > 1e-12, sums.mean / gain, 0.0)
    spread = sums.square * QUARTER - (sums.mean * shift).sum(0)  # Σ_k of d² about its weighted mean
    ratio = (spread / total.clamp_min(1e-12)).clamp(1 / PER_ROUND, PER_ROUND)
    left = (sums.examples * COUNT - total).clamp_min(1e-12)
    within = (sums.error * COUNT / left).clamp(prior.within / PER_ROUND, prior.within * PER_ROUND)
    return ClassPrior(
        prior.mean + prior.between.sqrt() * shift,
        (prior.between * ratio).clamp_min(FLOOR),
        within.clamp_min(FLOOR),
    )


def linear_head(c: Tensor, prior: ClassPrior) -> tuple[Tensor, Tensor]:
    """Weight [K, F] and bias [K] of log N(f; c_k, S), up to what is the same for all classes."""
    weight = c / prior.within
    return weight, -0.5 * (weight * c).sum(1)
