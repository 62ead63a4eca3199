"""Inputs whose message is the one that was sent: Geiping, Bauermeister, Dröge and Moeller, "Inverting gradients",
NeurIPS 2020, arXiv 2003.14053, equation 4.

argmin_x 1 − cos(message(x), observed) + λ·TV(x), by Adam on the signs of the gradient, from several noises. Where the
message is a gradient this is theirs; where it is an update after local steps, or a second-order meta-gradient, the
attacker runs the client's own code on its guess (their section 6), which takes functions that can be differentiated: it
works on any model, convolutional ones too, where no closed form does. Shapes: B examples of [C, H, W].
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad

from seedbed import randomness, tree
from seedbed.tree import Tree


def total_variation(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, [B, C, H, W] -> []."""
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
    """The reconstruction, [B, C, H, W] in 0…1.

    Args:
        imitate: what a client with these inputs [B, C, H, W] would send, its labels known or guessed.
        observed: what was sent, or a multiple of it.
        shape: [B, C, H, W].
        smoothness: λ.
        starts: how many noises to start from; the nearest end counts. Many get stuck.
        tick: called after each step.
    """
    rng = randomness.generator(seed, "gradient matching")
    target = torch.cat([leaf.flatten() for leaf in tree.leaves(observed)])
    noise = torch.as_tensor(rng.uniform(0.3, 0.7, (starts, *shape)), dtype=target.dtype)

    def distance(x: Tensor) -> Tensor:
        flat = torch.cat([leaf.flatten() for leaf in tree.leaves(imitate(x))])
        cosine = torch.dot(flat, target) / (flat.norm() * target.norm()).clamp_min(1e-20)
        far: Tensor = 1 - cosine + smoothness * total_variation(x)
        return far

    def descended(x: Tensor) -> Tensor:
        mean, square = torch.zeros_like(x), torch.zeros_like(x)
        for step in range(1, steps + 1):
            g = grad(distance)(x).sign()
            mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g * g
            rate = lr * (1 + math.cos(math.pi * step / steps)) / 2
            x = (x - rate * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)).clamp(0, 1)
            tick()
        return x

    ends = [descended(x) for x in noise]
    return min(ends, key=lambda x: float(distance(x)))
