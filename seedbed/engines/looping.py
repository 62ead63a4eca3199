"""The loop executor: one client's steps one after another, written over the client's own copy of the weights.

The same arithmetic as the reference, with no copy of the weights a step: padding is passed by, not computed and dropped.
"""

import torch

from seedbed import tree
from seedbed.learning.training import Local, Trained, gradient


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
