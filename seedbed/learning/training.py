"""Local training: one optimiser step per item. The only place that sees which items are padding."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value

from seedbed import tree
from seedbed.learning.optimizers import Optimizer
from seedbed.tasks.types import Task
from seedbed.tree import Tree

Params = Any
Item = Any  # a Batch, an Episode or a Triple
Objective = Callable[[Params, Item], Tensor]  # -> loss []


@dataclass(frozen=True)
class Explicit:
    """An objective that comes with its gradient in closed form, which saves deriving it.

    Args:
        value: the objective itself.
        slope: (params, item) -> its gradient at `params`, and the value [] there, cut from the graph.
    """

    value: Objective
    slope: Callable[[Params, Item], tuple[Params, Tensor]]

    def __call__(self, params: Params, item: Item) -> Tensor:
        return self.value(params, item)


class Trained(NamedTuple):
    params: Params
    loss: Tensor  # []  mean of the items' losses, each before its step
    state: Tree  # the optimiser's, for those who go on with it


def fold(step: Callable[[Tree, Item], Tree], carry: Tree, task: Task) -> Tree:
    """carry ← step(carry, item) over the real items of a task, in order."""
    for k in range(task.real.shape[0]):
        after = step(carry, tree.index(task.items, k))
        carry = tree.where(task.real[k].bool(), after, carry)
    return carry


def gradient(objective: Objective, params: Params, item: Item) -> tuple[Params, Tensor]:
    """The gradient at `params`, and the value [] there.

    It can itself be differentiated and vmapped, but under `torch.no_grad()`: that says that nobody outside does, and
    plain autograd, which takes a fifth less time for a convolutional model, is enough.
    """
    if isinstance(objective, Explicit):
        return objective.slope(params, item)
    if torch.is_grad_enabled() or not tree.leaves(params):
        grads, value = grad_and_value(objective)(params, item)
        return grads, value.detach()
    with torch.enable_grad():
        leaves = [leaf.detach().requires_grad_() for leaf in tree.leaves(params)]
        value = objective(tree.with_leaves(params, leaves), item)
        grads = torch.autograd.grad(value, leaves, materialize_grads=True)
    return tree.with_leaves(params, grads), value.detach()


def train(objective: Objective, optimizer: Optimizer, params: Params, task: Task, *, state: Tree = None) -> Trained:
    """Train on a task's items, one optimiser step each; the optimiser's state is made afresh unless one is given."""

    def step(carry: Tree, item: Item) -> Tree:
        params, state, loss = carry
        grads, value = gradient(objective, params, item)
        return *optimizer.update(grads, state, params), loss + value

    state = optimizer.init(params) if state is None else state
    params, state, loss = fold(step, (params, state, torch.zeros_like(task.examples)), task)
    return Trained(params, loss / task.steps, state)


def mean_gradient(objective: Objective, params: Params, task: Task) -> tuple[Params, Tensor]:
    """The mean over a task's items of the gradient at `params`, and their mean loss []."""

    def step(carry: Tree, item: Item) -> Tree:
        grads, value = gradient(objective, params, item)
        return tree.add(carry[0], grads), carry[1] + value

    total, loss = fold(step, (tree.zeros_like(params), torch.zeros_like(task.examples)), task)
    return tree.scale(1 / task.steps, total), loss / task.steps
