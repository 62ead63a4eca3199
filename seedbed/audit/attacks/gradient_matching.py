"""Gradient matching: find inputs whose message equals the observed one. Geiping, Bauermeister, Dröge and Moeller,
"Inverting gradients", NeurIPS 2020, arXiv 2003.14053, equation 4.

argmin_x 1 − cos(message(x), observed) + λ·TV(x), by Adam on the signs of the gradient, from several random starts. If
the message is a gradient, this is the paper's attack. If it is an update after local steps, or a second-order
meta-gradient, the attacker differentiates through the client's own code (section 6 of the paper). Unlike the closed
form, it works on any differentiable model, convolutional ones included. Shapes: B examples of [C, H, W].
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad

from seedbed import randomness, tree
from seedbed.tree import Tree


def total_variation(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, [B, C, H, W] → []."""
    return (x[..., 1:, :] - x[..., :-1, :]).abs().mean() + (x[..., :, 1:] - x[..., :, :-1]).abs().mean()


def match_gradient(
    imitate: Callable[[Tensor], Tree],
    observed: Tree,
    shape: tuple[int, ...],
    *,
    steps: int = 600,
    lr: float = 0.1,
    smoothness: float = 1e-2,
    starts: int = 4,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> Tensor:
    """Search the inputs; returns [B, C, H, W] in 0…1.

    Args:
        imitate: the message of a client with the inputs [B, C, H, W]; its labels are known or guessed.
        observed: the observed message, or a multiple of it.
        shape: (B, C, H, W).
        steps: of Adam.
        lr: its initial step size.
        smoothness: λ.
        starts: random starts, since many get stuck; the result with the smallest objective counts.
        seed: for the starts.
        tick: called after each step.
    """
    rng = randomness.generator(seed, "gradient matching")
    target = torch.cat([leaf.flatten() for leaf in tree.leaves(observed)])
    noise = torch.as_tensor(rng.uniform(0.3, 0.7, (starts, *shape)), dtype=target.dtype)

    def distance(x: Tensor) -> Tensor:
        flat = torch.cat([leaf.flatten() for leaf in tree.leaves(imitate(x))])
        cosine = torch.dot(flat, target) / (flat.norm() * target.norm()).clamp_min(1e-20)
        objective: Tensor = 1 - cosine + smoothness * total_variation(x)
        return objective

    def descend(x: Tensor) -> Tensor:
        mean, square = torch.zeros_like(x), torch.zeros_like(x)
        for step in range(1, steps + 1):
            g = grad(distance)(x).sign()
            mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g * g
            rate = lr * (1 + math.cos(math.pi * step / steps)) / 2
            x = (x - rate * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)).clamp(0, 1)
            tick()
        return x

    ends = [descend(x) for x in noise]
    return min(ends, key=lambda x: float(distance(x)))
