"""Inversion of the update of a first dense layer, in closed form: Geiping, Bauermeister, Dröge and Moeller, "Inverting
gradients", NeurIPS 2020, arXiv 2003.14053, Proposition 3.1.

For one example, ∂L/∂W = δxᵀ and ∂L/∂b = δ, so x = (∂L/∂W)_i / (∂L/∂b)_i for every active unit i. An update after a few
local steps is a sum of such gradients. With several examples, a unit that only one of them activates still gives this
one exactly. Shapes: H units, F inputs, B examples.
"""

import math

import torch
from torch import Tensor

from seedbed.learning.training import Params


def first_dense(params: Params, inputs: int) -> str | None:
    """The name of the first layer with a bias whose weight [H, F] takes all inputs; None if there is none."""
    for name, p in params.items():
        layer: str = name.removesuffix(".weight")
        if layer != name and p.ndim == 2 and p.shape[1] == inputs and f"{layer}.bias" in params:
            return layer
    return None


def candidates(update: Params, layer: str) -> Tensor:
    """Each unit's candidate for the input, [H, F]; zeros for inactive units."""
    weight, bias = update[f"{layer}.weight"].double(), update[f"{layer}.bias"].double()
    small = torch.finfo(weight.dtype).tiny
    return torch.where(bias.abs()[:, None] > small, weight / torch.where(bias == 0, 1, bias)[:, None], 0)


def psnr(guess: Tensor, true: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of reconstructions of inputs in 0…1: 10·log₁₀(1/MSE). [..., F] → [...]."""
    error = ((guess.clamp(0, 1) - true) ** 2).mean(-1)
    return 10 * torch.log10(1 / error.clamp_min(1e-30))


def best_match(guesses: Tensor, true: Tensor) -> tuple[Tensor, float]:
    """The candidate nearest to any of the true inputs [B, F] (the worst leak), and its PSNR in dB."""
    scores = torch.stack([psnr(guesses, x) for x in true.double()])
    place = int(scores.argmax())
    return guesses[place % len(guesses)].clamp(0, 1), float(scores.max())


def mean_guess(true: Tensor, others: Tensor) -> float:
    """Baseline without an attack: PSNR of the mean of other clients' inputs [M, F], for the best of the true ones."""
    return float(psnr(others.double().mean(0), true.double()).max()) if len(others) else -math.inf
