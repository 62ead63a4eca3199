"""How a model adapts to a support set. Params are flat dicts of named tensors.

Heads that a client solves for itself are in `heads`.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.func import grad

from seedbed import tree
from seedbed.learning.objectives import Adapt, Predict, after, hessian_free
from seedbed.learning.training import Objective, Params
from seedbed.tasks.types import Batch

Moves = Callable[[str], bool]  # which parameters adapt, by name
Order = Literal["exact", "first", "hessian_free"]


def everything(name: str) -> bool:
    """All parameters adapt."""
    return True


def unadapted(params: Params, support: Batch) -> Params:
    """The model as it is."""
    return params


def chain(*adaptations: Adapt) -> Adapt:
    """One adaptation after another on the same support set."""

    def adapt(params: Params, support: Batch) -> Params:
        for each in adaptations:
            params = each(params, support)
        return params

    return adapt


def gradient_steps(
    loss: Objective,
    *,
    lr: float,
    steps: int = 1,
    first_order: bool = False,
    moves: Moves = everything,
) -> Adapt:
    """φ ← φ − α∇L(φ; support), so many times: MAML's inner loop (Finn et al., ICML 2017, Algorithm 1).

    Args:
        lr: α.
        first_order: treat the gradient as a constant when differentiating through the steps (FOMAML).
        moves: which parameters adapt; the head only is ANIL. The others are not even differentiated.
    """

    def adapt(params: Params, support: Batch) -> Params:
        still = {n: p for n, p in params.items() if not moves(n)}
        moving = {n: p for n, p in params.items() if moves(n)}
        for _ in range(steps):
            g = grad(lambda part: loss({**still, **part}, support))(moving)
            moving = tree.axpy(-lr, tree.detach(g) if first_order else g, moving)
        return {n: moving.get(n, still.get(n)) for n in params}

    return adapt


def maml(loss: Objective, *, lr: float, steps: int = 1, order: Order = "exact", delta: float = 1e-2) -> Objective:
    """The loss on the query set after gradient steps on the support set, by the order of its gradient."""
    if order == "hessian_free":
        return hessian_free(loss, lr=lr, steps=steps, delta=delta)
    return after(gradient_steps(loss, lr=lr, steps=steps, first_order=order == "first"), loss)


RATE = "rate:"  # the prefix of a learned learning rate's name


def rates_for(params: Params, lr: float) -> Params:
    """One learned learning rate per parameter, all starting at lr, under names of their own."""
    return {RATE + n: torch.full_like(p, lr) for n, p in params.items()}


def learned_steps(loss: Objective, *, steps: int = 1) -> Adapt:
    """φ ← φ − a ⊙ ∇L(φ; support) with a learned rate a for every parameter (Meta-SGD, Li et al. 2017, eq. 4)."""

    def adapt(params: Params, support: Batch) -> Params:
        model = {n: p for n, p in params.items() if not n.startswith(RATE)}
        for _ in range(steps):
            g = grad(loss)(model, support)
            model = {n: p - params[RATE + n] * g[n] for n, p in model.items()}
        return model

    return adapt
