"""How far an optimiser goes on a gradient that is always 1: the length of its path, without a formula for each kind.

An optimiser that is linear in the gradients goes w_τ − w_0 = −η·Σ_k a_k g_k, with a_k that are the same for every
parameter (under weight decay λ, g_k is the gradient with λw_0). So one more parameter, the probe, which starts at 0 and
always has the gradient 1 (and whatever pull and decay the others have), ends at −η·Σ_k a_k: exact for momentum,
Nesterov, weight decay, pulls, schedules, and all together.
"""

import torch
from torch import Tensor

from seedbed import tree
from seedbed.data.types import Task
from seedbed.errors import InputError
from seedbed.learning.objectives import proximal
from seedbed.learning.optimizers import Optimizer
from seedbed.learning.training import Item, Objective, Params, TrainResult, train
from seedbed.tree import Tree


def require_linear(optimizer: Optimizer, algorithm: str) -> Optimizer:
    """The optimiser; one that is not linear in the gradients is refused."""
    if not optimizer.linear:
        raise InputError(
            f"{algorithm} cannot train clients with local={optimizer.name}: it divides a client's path by its length, "
            "and only an optimiser that is linear in the gradients has one; use local.name=sgd (momentum, Nesterov, "
            "weight decay and schedules are all right), or an adaptive optimiser on the server's side (fedadam)"
        )
    return optimizer


def train_measured(
    objective: Objective, optimizer: Optimizer, params: Params, task: Task, *, mu: float = 0.0
) -> tuple[TrainResult, Tensor]:
    """Train near `params`, and measure: what training gave, and the path's length η·Σ_k a_k [].

    Args:
        optimizer: a linear one.
        mu: μ of the pull (μ/2)‖w − params‖²; 0: none.
    """
    pulled = proximal(objective, params, mu) if mu else objective

    def probed(both: Tree, item: Item) -> Tensor:
        q = both["probe"]
        push = q + mu / 2 * q * q  # its gradient is 1 + μq
        loss: Tensor = pulled(both["model"], item) + (push - push.detach())
        return loss

    start = {"model": params, "probe": tree.leaves(params)[0].new_zeros(())}
    trained = train(probed, optimizer, start, task)
    return trained._replace(params=trained.params["model"]), -trained.params["probe"]


def path_length(optimizer: Optimizer, task: Task) -> Tensor:
    """The length η·Σ_k a_k [] of a linear optimiser's path over a task's real items."""
    nothing = {"none": torch.zeros_like(task.examples)}
    return train_measured(lambda params, item: 0 * params["none"], optimizer, nothing, task)[1]


def per_length(moved: Tree, length: Tensor) -> Tree:
    """moved/length; where there is no length (a rate of 0, no steps) nothing moved: 0."""
    return tree.scale(1 / torch.where(length == 0, 1.0, length), moved)
