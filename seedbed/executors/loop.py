"""The loop executor: one client's steps one after another, written over the client's own copy of the weights.

The same arithmetic as the reference, with no copy of the weights a step: padding is passed by, not computed and
dropped, and where no example is padding, the mean is plain.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from seedbed import tree
from seedbed.data.types import Batch, Task
from seedbed.executors.max_pool import MaxPoolSwitch
from seedbed.learning.objectives import Predict, Proximal, Supervised, cross_entropy, proximal
from seedbed.learning.passes import predictions
from seedbed.learning.training import (
    Item,
    LocalWork,
    Objective,
    Params,
    TrainResult,
    one_step_at_a_time,
    per_step,
    step_gradient,
)
from seedbed.tree import Tree


def loop_executor(local: LocalWork) -> TrainResult:
    """Train on the real items; any model, any algorithm.

    Off the CPU it is the reference: to know which items are real, a GPU would be waited for.
    """
    objective, optimizer, params, task, state = local
    if task.real.device.type != "cpu":
        return one_step_at_a_time(local)
    overwrite = optimizer.overwrite
    if overwrite is not None:
        params = tree.map(torch.clone, params)
        state = state if state is None else tree.map(torch.clone, state)
    return train_by_steps(LocalWork(objective, optimizer, params, task, state), in_place=True)


def train_by_steps(local: LocalWork, *, in_place: bool) -> TrainResult:
    """A step for every real item.

    Args:
        in_place: over the params and the state that are given, where the optimiser knows how.
    """
    path = ClientTrainer(local._replace(objective=without_mask(local.objective, local.task)), in_place=in_place)
    with MaxPoolSwitch():
        while path.goes_on:
            path.step(*step_gradient(path.objective, path.params, path.item))
    return path.end()


class ClientTrainer:
    """A client on its way through its real items.

    Args:
        in_place: see `stepped`.
    """

    def __init__(self, local: LocalWork, *, in_place: bool):
        self.objective, self._optimizer, params, self._task, state = local
        self._overwrite = self._optimizer.overwrite if in_place else None
        self._left = [k for k, real in enumerate(self._task.real.tolist()) if real][::-1]
        self._losses = torch.zeros_like(self._task.examples)
        self.params: Params = params
        self._state: Tree = self._optimizer.init(params) if state is None else state

    @property
    def goes_on(self) -> bool:
        """Whether an item is left."""
        return bool(self._left)

    @property
    def item(self) -> Item:
        """That of the next step."""
        return tree.index(self._task.items, self._left[-1])

    def step(self, grads: Params, loss: Tensor) -> None:
        """By the gradient, and the loss [], on `item`."""
        self._left.pop()
        self._losses = self._losses + loss
        if self._overwrite is None:
            self.params, self._state = self._optimizer.update(grads, self._state, self.params)
        else:
            self._state = self._overwrite(grads, self._state, self.params)

    def end(self) -> TrainResult:
        """What came of it."""
        return TrainResult(self.params, per_step(self._losses, self._task), self._state)


@dataclass(frozen=True)
class UnmaskedLoss:
    """A mean cross-entropy over examples that are all real: one operation of PyTorch."""

    predict: Predict

    def __call__(self, params: Params, batch: Item) -> Tensor:
        return F.cross_entropy(predictions(self.predict, params, batch), batch.y)


def without_mask(objective: Objective, task: Task) -> Objective:
    """The same objective, without masks where all examples of a task are real."""
    if isinstance(objective, Proximal):
        return proximal(without_mask(objective.objective, task), objective.anchor, objective.mu)
    batch = task.items
    if not isinstance(objective, Supervised) or objective.loss is not cross_entropy or not isinstance(batch, Batch):
        return objective
    if not bool(batch.mask[task.real.bool()].eq(1).all()):
        return objective
    return UnmaskedLoss(objective.predict)
