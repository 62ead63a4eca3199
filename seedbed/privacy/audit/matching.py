"""Inputs whose gradient is the one that was sent: Geiping, Bauermeister, Dröge and Moeller, "Inverting gradients",
NeurIPS 2020, arXiv 2003.14053, equation 4.

argmin_x 1 − cos(∇L(x, y), g) + λ·TV(x), by Adam on the signs of the gradient, from several noises, labels known. It
works on any model, convolutional ones too, where no closed form does. Shapes: B examples of [C, H, W].
"""

import math

import torch
from torch import Tensor
from torch.func import grad

from seedbed import draws, tree
from seedbed.learning.training import Objective, Params
from seedbed.tasks.types import Batch


def total_variation(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, [B, C, H, W] -> []."""
    return (x[..., 1:, :] - x[..., :-1, :]).abs().mean() + (x[..., :, 1:] - x[..., :, :-1]).abs().mean()


def matched(
    loss: Objective,
    params: Params,
    update: Params,
    y: Tensor,
    shape: tuple[int, ...],
    *,
    steps: int = 600,
    lr: float = 0.1,
    smoothness: float = 1e-2,
    starts: int = 4,
    seed: int = 0,
) -> Tensor:
    """The reconstruction, [B, C, H, W] in 0…1.

    Args:
        update: the gradient at `params` that was observed, or a multiple of it.
        y: [B] labels, or a guess at them: see `labels`.
        shape: of an input.
        smoothness: λ.
        starts: how many noises to start from, at once; the nearest end counts. Many get stuck.
    """
    rng = draws.generator(seed, "gradient matching")
    noise = rng.uniform(0.3, 0.7, (starts, len(y), *shape))
    x = torch.as_tensor(noise, dtype=tree.leaves(params)[0].dtype)
    target = torch.cat([leaf.flatten() for leaf in tree.leaves(update)])
    mask = torch.ones(len(y), dtype=x.dtype)

    def distance(x: Tensor) -> Tensor:
        gradient = grad(loss)(params, Batch(x, y, mask))
        flat = torch.cat([leaf.flatten() for leaf in tree.leaves(gradient)])
        cosine = torch.dot(flat, target) / (flat.norm() * target.norm()).clamp_min(1e-20)
        far: Tensor = 1 - cosine + smoothness * total_variation(x)
        return far

    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(1, steps + 1):
        g = torch.stack([grad(distance)(each) for each in x]).sign()
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g * g
        rate = lr * (1 + math.cos(math.pi * step / steps)) / 2
        moved = x - rate * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        x = moved.clamp(0, 1)
    return x[int(torch.stack([distance(each) for each in x]).argmin())]
