"""The loop executor: one client's steps one after another, written over the client's own copy of the weights.

The same arithmetic as the reference, with no copy of the weights a step: padding is passed by, not computed and
dropped, and where no example is padding, the mean is plain.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from seedbed import tree
from seedbed.learning.objectives import Supervised, cross_entropy
from seedbed.learning.training import Item, Local, Objective, Params, Trained, gradient
from seedbed.tasks.types import Batch, Task


def looping(local: Local) -> Trained:
    """Train on the real items; any model, any algorithm."""
    objective, optimizer, params, task, state = local
    overwrite = optimizer.overwrite
    if overwrite is not None:
        params = tree.map(torch.clone, params)
        state = state if state is None else tree.map(torch.clone, state)
    return stepped(Local(objective, optimizer, params, task, state), in_place=True)


def stepped(local: Local, *, in_place: bool) -> Trained:
    """A step for every real item.

    Args:
        in_place: over the params and the state that are given, where the optimiser knows how.
    """
    objective, optimizer, params, task, state = local
    overwrite = optimizer.overwrite if in_place else None
    objective = _unmasked(objective, task)
    state = optimizer.init(params) if state is None else state
    losses = torch.zeros_like(task.examples)
    for k, real in enumerate(task.real.tolist()):
        if not real:
            continue
        grads, loss = gradient(objective, params, tree.index(task.items, k))
        losses = losses + loss
        if overwrite is None:
            params, state = optimizer.update(grads, state, params)
        else:
            state = overwrite(grads, state, params)
    return Trained(params, losses / task.steps, state)


def _unmasked(objective: Objective, task: Task) -> Objective:
    """A mean cross-entropy over examples that are all real is one operation of PyTorch."""
    batch = task.items
    if not isinstance(objective, Supervised) or objective.loss is not cross_entropy or not isinstance(batch, Batch):
        return objective
    if not bool(batch.mask[task.real.bool()].eq(1).all()):
        return objective
    predict = objective.predict

    def loss(params: Params, batch: Item) -> Tensor:
        return F.cross_entropy(predict(params, batch.x), batch.y)

    return loss
