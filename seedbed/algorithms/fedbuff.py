"""FedBuff: Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek and Huba, "Federated learning with buffered asynchronous
aggregation", AISTATS 2022, arXiv 2106.06639, Algorithm 1. K is the asynchronous schedule's `buffer`.
"""

from dataclasses import replace

from seedbed import tree
from seedbed.algorithms.fedasync import staleness_factor
from seedbed.algorithms.fedavg import fedavg
from seedbed.federated import Algorithm, Replies, ServerState, uniform
from seedbed.learning.adaptations import unadapted
from seedbed.learning.objectives import Adapt
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.training import Objective

s = staleness_factor("polynomial", a=0.5)


def fedbuff(
    loss: Objective, *, local: Optimizer = sgd(0.1), outer: Optimizer = sgd(1.0), adapt: Adapt = unadapted
) -> Algorithm:
    """Δ_i = θ_τ − local steps on client i from θ_τ;  θ ← θ − η_g·(1/K) Σ_K s(t − τ_i)Δ_i, s(δ) = 1/√(1 + δ).

    δ = t − τ_i counts the server's steps since client i was sent its model: 0 if there were none.

    Args:
        outer: the server's optimiser, of the mean of the discounted differences; η_g is its learning rate.
    """

    def server(state: ServerState, replies: Replies) -> ServerState:
        # The discounts are weights in the reduction, which divides by their sum: Σ sΔ/Σ s. The paper divides by K.
        value = tree.scale(s(replies.staleness).mean(), replies.value)
        return ServerState(*outer.update(value, state.extra, state.params))

    base = uniform(fedavg(loss, local=local, outer=outer, adapt=adapt))
    return replace(base, server=server, discount=s)
