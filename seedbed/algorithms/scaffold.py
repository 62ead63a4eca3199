"""SCAFFOLD: Karimireddy, Kale, Mohri, Reddi, Stich and Suresh, "SCAFFOLD: stochastic controlled averaging for federated
learning", ICML 2020, arXiv 1910.06378, Algorithm 1 and equations 3–5.
"""

from typing import Literal

import torch

from seedbed import tree
from seedbed.data.types import Task
from seedbed.errors import InputError
from seedbed.federated import Algorithm, ClientId, Message, Params, Replies, ServerState, personalise_by
from seedbed.learning.adaptations import unadapted
from seedbed.learning.objectives import Adapt, with_linear_term
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.path_length import per_length, require_linear, train_measured
from seedbed.learning.training import Objective, mean_gradient
from seedbed.tree import Tree


def scaffold(
    loss: Objective,
    *,
    option: Literal[1, 2] = 2,
    local: Optimizer = sgd(0.1),
    outer: Optimizer = sgd(1.0),
    adapt: Adapt = unadapted,
) -> Algorithm:
    """y ← y − η_l(∇L_i(y) − c_i + c);  θ ← θ + η_g·mean(y_i − θ);  c ← c + (|S|/N)·mean(c_i⁺ − c_i).

    A client keeps its control variate c_i, 0 at first. Every client counts the same.

    Args:
        option: 1: c_i⁺ = ∇L_i(θ), another pass over the data; 2: c_i⁺ = c_i − c + (θ − y_i)/(τ_i η_l).
        local: with the learning rate η_l. Departure: any linear optimiser, with η_l‖a_i‖₁ (see `learning.probe`)
            for τ_i η_l, so that c_i⁺ is a mean of gradients under momentum too. For sgd they are the same.
        outer: with the learning rate η_g. Its state is sent to the clients with c: sgd without momentum has none.
    Raises:
        InputError: the local optimiser is not linear; option 1 with weight decay, whose pull it would not see.
    """
    if require_linear(local, "scaffold").settings.get("weight_decay") and option == 1:
        raise InputError(
            "scaffold with option=1 cannot use local.weight_decay: c_i = ∇L_i(θ) would not hold the decay, so that "
            "clients drift by it; use option=2, or put the decay into the loss"
        )

    def init(params: Params) -> ServerState:
        params = tree.detach(params)
        return ServerState(params, {"c": tree.zeros_like(params), "outer": outer.init(params)})

    def send(state: ServerState, client: ClientId) -> ServerState:
        return state

    def remember(sent: ServerState) -> Tree:
        return tree.zeros_like(sent.params)

    def client(sent: ServerState, c_i: Tree, task: Task) -> tuple[Message, Tree]:
        theta, c = sent.params, sent.extra["c"]
        trained, length = train_measured(with_linear_term(loss, tree.sub(c, c_i)), local, theta, task)
        moved = tree.sub(theta, trained.params)
        if option == 1:
            c_plus, _ = mean_gradient(loss, theta, task)
        else:
            c_plus = tree.add(tree.sub(c_i, c), per_length(moved, length))
        value = {"moved": moved, "c": tree.sub(c_plus, c_i)}
        return Message(value, torch.ones_like(task.examples), {"loss": trained.loss}), c_plus

    def server(state: ServerState, replies: Replies) -> ServerState:
        share = len(replies.clients) / replies.population
        c = tree.axpy(share, replies.value["c"], state.extra["c"])
        params, after = outer.update(replies.value["moved"], state.extra["outer"], state.params)
        return ServerState(params, {"c": c, "outer": after})

    return Algorithm(init, client, server, send=send, remember=remember, personalise=personalise_by(adapt))
