"""FedAsync: Xie, Koyejo and Gupta, "Asynchronous federated optimization", OPT 2020, arXiv 1903.03934, Algorithm 1 and
section 5.2. On the asynchronous schedule with a buffer of 1 the server steps on each model that arrives.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from torch import Tensor

from seedbed import tree
from seedbed.algorithms.fedavg import fedavg
from seedbed.data.types import Task
from seedbed.federated import Algorithm, Message, Params, Replies, ServerState, uniform
from seedbed.learning.adaptations import unadapted
from seedbed.learning.objectives import Adapt, proximal
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.training import Objective, train
from seedbed.tree import Tree

Decay = Literal["constant", "polynomial", "hinge"]


def fedasync(
    loss: Objective,
    *,
    alpha: float = 0.6,
    decay: Decay = "polynomial",
    a: float | None = None,
    b: float = 4.0,
    rho: float = 0.005,
    local: Optimizer = sgd(0.1),
    adapt: Adapt = unadapted,
) -> Algorithm:
    """w ← local steps on L_i(w) + (ρ/2)‖w − θ_τ‖² from θ_τ;  θ ← (1 − α_t)θ + α_t·w, α_t = α·s(t − τ).

    Where several models arrive for one step of the server, w is their mean and s the mean of theirs. δ counts the
    server's steps since the client was sent its model: 0 if there were none, so that s = 1. The paper's t − τ counts
    the step itself too: 1 for a fresh model.

    Args:
        alpha: α from 0 to 1, of a model that is not stale; the paper's are .6 and .9.
        decay: s(δ) of a model sent δ updates ago: constant 1; polynomial (1 + δ)^−a; hinge 1 up to δ = b, then
            1/(a(δ − b) + 1).
        a: None: .5 for polynomial, 10 for hinge, as in the paper.
        b: updates for which hinge forgives.
        rho: ρ, the pull to the model that was sent; the paper's .005.
    """
    s = staleness_factor(decay, a=a, b=b)

    def client(sent: Params, kept: Tree, task: Task) -> tuple[Message, Tree]:
        trained = train(proximal(loss, sent, rho), local, sent, task)
        return Message(trained.params, task.examples, {"loss": trained.loss}), kept

    def server(state: ServerState, replies: Replies) -> ServerState:
        return state._replace(params=tree.lerp(state.params, replies.value, alpha * s(replies.staleness).mean()))

    # The outer optimiser is not used: its state is empty, as FedAsync's server keeps the model alone.
    return uniform(replace(fedavg(loss, local=local, adapt=adapt), client=client, server=server))


def staleness_factor(decay: Decay, *, a: float | None = None, b: float = 4.0) -> Callable[[Tensor], Tensor]:
    """s(δ) as `fedasync` says: 1 at δ = 0, never growing.

    >>> import torch
    >>> staleness_factor("polynomial")(torch.tensor([0.0, 3.0]))
    tensor([1.0000, 0.5000])
    """
    if decay == "polynomial":
        return lambda delta: (1 + delta) ** -(0.5 if a is None else a)
    if decay == "hinge":
        return lambda delta: 1 / ((10.0 if a is None else a) * (delta - b).clamp_min(0) + 1)
    return lambda delta: delta.new_ones(delta.shape)
