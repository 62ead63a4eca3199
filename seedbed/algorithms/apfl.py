"""APFL: Deng, Kamani and Mahdavi, "Adaptive personalized federated learning", 2020, arXiv 2003.13461, Algorithm 1, with
the weight of the mixture learned.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from seedbed import tree
from seedbed.algorithms.fedavg import fedavg
from seedbed.data.types import Batch, Task
from seedbed.errors import InputError
from seedbed.federated import Algorithm, Message, Params, uniform
from seedbed.learning.adaptations import guarded_steps
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.training import Item, Objective, fold, gradient, per_step, step_gradient
from seedbed.tree import Tree


class APFLState(NamedTuple):
    """What a client keeps: its own model and how much of it goes into the mixture."""

    v: Params
    alpha: Tensor  # []


def apfl(
    loss: Objective,
    *,
    alpha: float = 0.5,
    alpha_lr: float = 0.1,
    local: Optimizer = sgd(0.1),
    personal: Optimizer = sgd(0.1),
    outer: Optimizer = sgd(1.0),
    test_steps: int = 10,
    test_lr: float = 0.1,
) -> Algorithm:
    """v̄ = αv + (1−α)w; w ← w − η∇L(w); v ← v − ηα∇L(v̄); α ← α − η⟨v − w, ∇L(v̄)⟩ in 0…1, all from the same point.

    w is federated by the plain mean; v, α and so v̄, the client's model, are its own.

    Args:
        alpha: where α begins, 0…1; 0 gives the global model, 1 local training.
        alpha_lr: η of α; 0 keeps α as it is.
        local, personal: of w and of v.
        test_steps: steps of v (α fixed) under the mixture with the w that is sent, when a client adapts; a client
            never seen begins with v = w. The paper has known clients only: it is test_steps=0 for those.
        test_lr: their learning rate.
    """

    if not 0 <= alpha <= 1:
        raise InputError(f"alpha={alpha} is no weight of a mixture: choose between 0 (the global model) and 1 (local)")

    def remember(sent: Params) -> APFLState:
        return APFLState(sent, tree.leaves(sent)[0].new_full((), alpha))

    def client(sent: Params, own: APFLState, task: Task) -> tuple[Message, APFLState]:
        def step(carry: Tree, item: Item) -> Tree:
            w, w_state, v, v_state, a, total = carry
            local_gradient, value = step_gradient(loss, w, item)
            mixed, _ = gradient(loss, tree.lerp(w, v, a), item)  # ∇L(v̄)
            slope = tree.dot(tree.sub(v, w), mixed)
            w, w_state = local.update(local_gradient, w_state, w)
            v, v_state = personal.update(tree.scale(a, mixed), v_state, v)
            # Departure: α moves with every item; the authors' code moves it once a round, and also towards 0.
            return w, w_state, v, v_state, (a - alpha_lr * slope).clamp(0, 1), total + value

        start = (sent, local.init(sent), own.v, personal.init(own.v), own.alpha, torch.zeros_like(task.examples))
        w, _, v, _, a, total = fold(step, start, task)
        return Message(tree.sub(sent, w), task.examples, {"loss": per_step(total, task)}), APFLState(v, a)

    def personalise(sent: Params, own: APFLState, support: Batch) -> Params:
        def mixture(v: Params) -> Params:
            # Departure: w is the server's newest; in the paper it is the client's own at the end of its round.
            return tree.lerp(sent, v, own.alpha)

        adapt = guarded_steps(lambda v, batch: loss(mixture(v), batch), lr=test_lr, steps=test_steps)
        return mixture(adapt(own.v, support))

    base = replace(fedavg(loss, local=local, outer=outer), client=client)
    return uniform(replace(base, remember=remember, personalise=personalise))
