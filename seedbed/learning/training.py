"""Local training: one optimiser step per item. The only place that sees which items are padding."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value

from seedbed import tree
from seedbed.data.types import Batch, Task
from seedbed.learning.optimizers import Optimizer
from seedbed.learning.passes import recording, with_statistics, write_statistics
from seedbed.lowrank.factored_matrix import Factored, GradRecorder, NotFactorable
from seedbed.lowrank.fast_weights import fast_gradients, is_fast
from seedbed.tree import Tree

Params = Any
Item = Any  # a Batch, an Episode or a Triple
Objective = Callable[[Params, Item], Tensor]  # -> loss []


@dataclass(frozen=True)
class ExplicitGradient:
    """An objective that comes with its gradient in closed form, which saves deriving it.

    Args:
        value: the objective itself.
        slope: (params, item) -> its gradient at `params`, and the value [] there, cut from the graph.
    """

    value: Objective
    slope: Callable[[Params, Item], tuple[Params, Tensor]]

    def __call__(self, params: Params, item: Item) -> Tensor:
        return self.value(params, item)


class TrainResult(NamedTuple):
    params: Params
    loss: Tensor  # []  mean of the items' losses, each before its step
    state: Tree  # the optimiser's, for those who go on with it


def fold(step: Callable[[Tree, Item], Tree], carry: Tree, task: Task) -> Tree:
    """carry ← step(carry, item) over the real items of a task, in order."""
    for k in range(task.real.shape[0]):
        after = step(carry, tree.index(task.items, k))
        carry = tree.where(task.real[k].bool(), after, carry)
    return carry


def gradient(objective: Objective, params: Params, item: Item, *, beside: Params = ()) -> tuple[Params, Tensor]:
    """The gradient at `params`, and the value [] there.

    It can itself be differentiated and vmapped, but under `torch.no_grad()`: that says that nobody outside does, and
    plain autograd, which takes a fifth less time for a convolutional model, is enough.

    Args:
        beside: other parameters that the objective uses.
    """
    if isinstance(objective, ExplicitGradient):
        return objective.slope(params, item)
    if torch.is_grad_enabled() or not tree.leaves(params):
        if any(is_fast(leaf) for leaf in tree.leaves((params, beside))):
            return _gradient_through(objective, params, item, beside)
        return functional_gradient(objective, tree.form_unformed(params), item)
    try:
        return _plain_gradient(objective, params, item)
    except NotFactorable:
        return _plain_gradient(objective, tree.form_unformed(params), item)


def step_gradient(objective: Objective, params: Params, item: Item) -> tuple[Params, Tensor]:
    """The gradient by which an optimiser steps, and the value []: `gradient`'s, and the steps of running statistics."""
    with recording() as found:
        grads, value = gradient(objective, params, item)
    return with_statistics(grads, params, found), value


def functional_gradient(objective: Objective, params: Params, item: Item) -> tuple[Params, Tensor]:
    """By torch.func, out of which statistics that were written come as one more result."""

    def recorded(params: Params, item: Item) -> tuple[Tensor, dict[str, Tensor]]:
        with recording() as found:
            return objective(params, item), found

    grads, (value, found) = grad_and_value(recorded, has_aux=True)(params, item)
    write_statistics(found)
    return grads, value.detach()


def _gradient_through(objective: Objective, params: Params, item: Item, beside: Params) -> tuple[Params, Tensor]:
    """By plain autograd, to be differentiated again; matrices that are not formed stay so."""
    others = [leaf for leaf in tree.leaves(beside) if is_fast(leaf)]
    leaves = tree.leaves(params)
    grads, value = fast_gradients(lambda points: objective(tree.with_leaves(params, points), item), leaves, others)
    return tree.with_leaves(params, grads), value.detach()


def _plain_gradient(objective: Objective, params: Params, item: Item) -> tuple[Params, Tensor]:
    """By plain autograd. With respect to a factored matrix it is factored too."""
    with torch.enable_grad():
        leaves = [differentiable(leaf) for leaf in tree.leaves(params)]
        value = objective(tree.with_leaves(params, leaves), item)
        [found] = use_gradients([value], [leaves], [params])
    return found


def differentiable(leaf: Tensor) -> Tensor:
    """A leaf of params with respect to which the gradient can be taken; of a factored matrix with room it is heard."""
    if isinstance(leaf, Factored) and leaf.grows:
        return GradRecorder(leaf)
    plain: Tensor = tree.form_unformed(leaf)
    return plain.detach().requires_grad_()


def use_gradients(
    values: Sequence[Tensor], leaves: Sequence[Sequence[Tensor]], params: Sequence[Params]
) -> list[tuple[Params, Tensor]]:
    """The gradients of some losses [], each with respect to the `differentiable` leaves of its own params, and the
    losses cut from the graph: by one backward pass."""
    sources = [leaf.tick if isinstance(leaf, GradRecorder) else leaf for own in leaves for leaf in own]
    grads = iter(torch.autograd.grad(values, sources, materialize_grads=True))
    pairs = [[(leaf, next(grads)) for leaf in own] for own in leaves]
    found = [[leaf.gradient() if isinstance(leaf, GradRecorder) else g for leaf, g in own] for own in pairs]
    return [
        (tree.with_leaves(like, own), value.detach()) for like, own, value in zip(params, found, values, strict=True)
    ]


def train(objective: Objective, optimizer: Optimizer, params: Params, task: Task, *, state: Tree = None) -> TrainResult:
    """Train on a task's items, one optimiser step each; the optimiser's state is made afresh unless one is given.

    What an engine has put in its place (`trained_by`) may do it in another way, but to the same result.
    """
    local = LocalWork(objective, optimizer, params, task, state)
    executor = _executor.get()
    return executor(local) if executor else one_step_at_a_time(local)


class LocalWork(NamedTuple):
    """A piece of local training: what `train` is asked."""

    objective: Objective
    optimizer: Optimizer
    params: Params
    task: Task
    state: Tree


Log = Callable[[str], None]  # tells people something in a line


def no_log(text: str) -> None:
    """Nobody is told."""


Executor = Callable[[LocalWork], TrainResult]  # does what it is asked, exactly: as `one_step_at_a_time`, up to rounding

_executor: ContextVar[Executor | None] = ContextVar("executor", default=None)


@contextmanager
def use_executor(executor: Executor | None) -> Iterator[None]:
    """Within, `train` is done by this executor; None: one step at a time."""
    token = _executor.set(executor)
    try:
        yield
    finally:
        _executor.reset(token)


def one_step_at_a_time(local: LocalWork) -> TrainResult:
    """The reference: what `train` means."""
    objective, optimizer, params, task, state = local

    def step(carry: Tree, item: Item) -> Tree:
        params, state, loss = carry
        grads, value = step_gradient(objective, params, item)
        return *optimizer.update(grads, state, params), loss + value

    state = optimizer.init(params) if state is None else state
    params, state, loss = fold(step, (params, state, torch.zeros_like(task.examples)), task)
    return TrainResult(params, per_step(loss, task), state)


def per_step(total: Tree, task: Task) -> Tree:
    """A sum over a task's items, divided by their number; of a client that took no step the sum itself: 0."""
    return tree.scale(1 / task.steps.clamp_min(1), total)


def item_weight(item: Item) -> Tensor | float:
    """How much an item counts in a mean over a client's data: a batch by its real examples, anything else 1."""
    return item.mask.sum() if isinstance(item, Batch) else 1.0


def mean_gradient(objective: Objective, params: Params, task: Task) -> tuple[Params, Tensor]:
    """The mean of the gradient at `params`, and of the loss [], over a task's examples, or its items where these are
    no batches. A short last batch counts less than the others."""
    one = task.real.shape[0] == 1 or not isinstance(task.items, Batch)
    if one and not torch.is_grad_enabled() and _executor.get():
        trained = train(objective, GATHERING, params, task)
        return per_step(trained.state, task), trained.loss

    def step(carry: Tree, item: Item) -> Tree:
        grads, value = step_gradient(objective, params, item)
        weight = item_weight(item)
        return tree.axpy(weight, grads, carry[0]), carry[1] + weight * value, carry[2] + weight

    none = torch.zeros_like(task.examples)
    total, loss, count = fold(step, (tree.zeros_like(params), none, none), task)
    count = torch.where(count == 0, 1.0, count)
    return tree.scale(1 / count, total), loss / count


# Goes nowhere: what the gradients add up to is its state.
GATHERING = Optimizer(
    tree.zeros_like, lambda grads, total, params: (params, tree.add(total, grads)), "gathering", {}, linear=True
)
