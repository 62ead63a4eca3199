"""Push-sum: gradients along directed links. Nedić and Olshevsky, "Stochastic gradient-push for strongly convex
functions on time-varying directed graphs", IEEE TAC 2016, arXiv 1406.2075, equation 4; Assran, Loizou, Ballas and
Rabbat, "Stochastic gradient push for distributed deep learning", ICML 2019, arXiv 1811.10792, Algorithm 1; the
averaging: Kempe, Dobra and Gehrke, FOCS 2003. On gossip with order=adapt_then_combine.
"""

from dataclasses import replace

import torch

from seedbed import tree
from seedbed.algorithms.fedsgd import fedsgd
from seedbed.federated import Algorithm, ClientId, Params, Replies, ServerState, uniform
from seedbed.learning.adaptations import unadapted
from seedbed.learning.objectives import Adapt
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.training import Objective


def push_sum(loss: Objective, *, outer: Optimizer = sgd(0.1), adapt: Adapt = unadapted) -> Algorithm:
    """z_i = x_i/w_i;  x_i ← Σ_j P_ij (x_j − γ∇L_j(z_j));  w_i ← Σ_j P_ij w_j, w = 1 at first; P's columns sum to 1.

    What is pushed around, mass and model alike, keeps its sum: z goes to the true mean, which x alone would not.

    Args:
        outer: each peer's optimiser; γ is its learning rate. Its state is pushed like x.
    """

    def init(params: Params) -> ServerState:
        params = tree.detach(params)
        # In double precision, so that the mean of w over peers stays 1, and the mean of x is that of the peers.
        return ServerState(
            params, {"w": tree.to_device_of(torch.ones((), dtype=torch.float64), params), "outer": outer.init(params)}
        )

    def send(state: ServerState, client: ClientId) -> Params:
        return tree.map(lambda x: x / state.extra["w"].to(x), state.params)

    def server(state: ServerState, replies: Replies) -> ServerState:
        x, after = outer.update(replies.value, state.extra["outer"], state.params)
        return ServerState(x, {"w": state.extra["w"], "outer": after})

    return replace(uniform(fedsgd(loss, outer=outer, adapt=adapt)), init=init, send=send, server=server)
