"""A guard for gradient steps of a client that adapts: its loss on the support set does not rise.

A step that raises the loss, or makes it NaN or infinite, is taken back; the next goes half as far. After six halvings
the rate stays. So the result is never worse on the support set than the start, and is the start itself where nothing
helps. Every trial counts as a step, so that the guard costs one more forward pass in all.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from seedbed import tree
from seedbed.learning.training import Params
from seedbed.tree import Tree

HALVINGS = 6
ROUNDINGS = 16  # by so many the loss may rise at its minimum, where it is rounding alone


def guarded_path(
    slope: Callable[[Tree], tuple[Tree, Tensor]],
    value: Callable[[Tree], Tensor],
    start: Tree,
    *,
    lr: float,
    steps: int,
) -> list[Tree]:
    """The start, and the point after each step: [steps + 1].

    Args:
        slope: the gradient and the loss [] at a point.
        value: the loss alone.
    """
    points = [start]
    if not steps:
        return points
    g, lowest = slope(start)
    rate, halvings = torch.full_like(lowest, lr), torch.zeros_like(lowest)
    for k in range(steps):
        trial = tree.axpy(-rate.to(tree.leaves(g)[0].dtype), g, points[-1])
        after, found = slope(trial) if k + 1 < steps else (g, value(trial))
        rounding = ROUNDINGS * torch.finfo(lowest.dtype).eps * (1 + lowest.abs())
        falls = found <= lowest + rounding  # never, where it is NaN
        points.append(tree.where(falls, trial, points[-1]))
        g, lowest = tree.where(falls, after, g), torch.where(falls, found, lowest)
        rate = torch.where(falls | (halvings >= HALVINGS), rate, rate / 2)
        halvings = halvings + (~falls).to(halvings.dtype)
    return points


def kept_start(start: Params, adapted: Params) -> Tensor:
    """Whether adapting changed nothing: []. For naming the clients that the guard left at their start."""
    same = [(adapted[name] == p).all() for name, p in start.items()]
    return torch.stack(same).all()
