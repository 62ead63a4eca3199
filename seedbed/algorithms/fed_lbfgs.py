"""Models fitted exactly, by summed gradients: L-BFGS (Liu and Nocedal, "On the limited memory BFGS method for large
scale optimization", Mathematical Programming 1989) or Newton's method, of which every evaluation is a round.

Of a linear model it is pooled ridge, logistic or softmax regression, up to rounding: no client's examples leave it.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.func import grad, jacrev

from seedbed import tree
from seedbed.data.types import Task
from seedbed.errors import InputError
from seedbed.federated import Algorithm, Message, Params, Replies, ServerState, personalise_by
from seedbed.learning.adaptations import unadapted
from seedbed.learning.lbfgs import Evaluation, begin, observe
from seedbed.learning.objectives import Adapt
from seedbed.learning.training import Item, Objective, item_weight, mean_gradient
from seedbed.tree import Tree

PATH = (0.5, 0.03, 0.002, 1e-4)  # strengths to choose from, on clients that the fit has not seen


def fed_lbfgs(
    loss: Objective,
    *,
    strengths: tuple[float, ...] = (1e-3,),
    method: Literal["lbfgs", "newton"] = "lbfgs",
    tolerance: float = 1e-7,
    adapt: Adapt = unadapted,
) -> Algorithm:
    """θ ← argmin Σ_i n_i L_i(θ)/Σ_i n_i + (λ/2)‖W‖², a summed value and gradient a round.

    Biases (tensors of fewer than two dimensions) are not penalised. All clients must take part in every round, on all
    of their examples. The params are the point that is evaluated next; once done, the last solution.

    Args:
        strengths: λ, one or a path from large to small, each started from the solution before: see `solutions`.
        method: newton: clients send the Hessian too, P² numbers for P parameters, and few rounds do; of a square error
            one or two a strength.
        tolerance: a strength is solved where the next step promises to lower the objective by this times 1 + its value.
        adapt: how a client makes the model its own.
    """
    if not strengths or not all(math.isfinite(lam) and lam >= 0 for lam in strengths):
        raise InputError(f"strengths={list(strengths)} cannot be used: give numbers from 0 up, from large to small")

    def init(params: Params) -> ServerState:
        params = tree.detach(params)
        return ServerState(params, begin(flat(params), strengths, newton=method == "newton"))

    def client(sent: Params, kept: Tree, task: Task) -> tuple[Message, Tree]:
        slope, value = mean_gradient(loss, sent, task)
        curve = (_mean_hessian(loss, sent, task),) if method == "newton" else ()
        return Message(Evaluation(value.double(), flat(slope), curve), task.examples, {"loss": value}), kept

    def server(state: ServerState, replies: Replies) -> ServerState:
        search = observe(state.extra, replies.value, strengths, penalised(state.params), tolerance)
        return ServerState(unflat(search.trial, state.params), search)

    return Algorithm(init, client, server, personalise=personalise_by(adapt))


def solutions(state: ServerState) -> list[Params]:
    """The params of each strength that is solved."""
    return [unflat(point, state.params) for point in state.extra.solutions[: int(state.extra.stage)]]


def flat(params: Params) -> Tensor:
    """All numbers in double precision: [P]."""
    return torch.cat([leaf.reshape(-1).double() for leaf in tree.leaves(params)])


def unflat(numbers: Tensor, like: Params) -> Params:
    """[P] -> params of another's shapes and types."""
    leaves: Sequence[Tensor] = tree.leaves(like)
    parts = torch.split(numbers, [leaf.numel() for leaf in leaves])
    return tree.with_leaves(like, [part.to(leaf).reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])


def penalised(params: Params) -> Tensor:
    """[P] 1 for a number of a weight, 0 for one of a bias."""
    return flat(tree.map(lambda leaf: torch.full_like(leaf, float(leaf.ndim > 1)), params))


def _mean_hessian(loss: Objective, params: Params, task: Task) -> Tensor:
    """The mean over a task's examples: [P, P]."""
    total = flat(params).new_zeros(())
    count = torch.zeros_like(task.examples)
    for k in range(task.real.shape[0]):
        item = tree.index(task.items, k)
        weight = item_weight(item) * task.real[k]
        total = total + torch.where(weight > 0, weight * _hessian(loss, params, item), 0.0)
        count = count + weight
    return total / torch.where(count == 0, 1.0, count)


def _hessian(loss: Objective, params: Params, item: Item) -> Tensor:
    def at(numbers: Tensor) -> Tensor:
        return loss(unflat(numbers, params), item)

    curve: Tensor = jacrev(grad(at))(flat(params))
    return curve
