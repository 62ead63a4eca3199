"""FedNova: Wang, Liu, Liang, Joshi and Poor, "Tackling the objective inconsistency problem in heterogeneous federated
optimization", NeurIPS 2020, arXiv 2007.07481, equations 6–8 and Algorithm 1.
"""

from dataclasses import replace
from typing import Literal

from seedbed import tree
from seedbed.algorithms.fedavg import fedavg
from seedbed.data.types import Task
from seedbed.federated import Algorithm, Message, Params, Replies, ServerState
from seedbed.learning.adaptations import unadapted
from seedbed.learning.objectives import Adapt
from seedbed.learning.optimizers import Optimizer, scale_steps, sgd
from seedbed.learning.passes import keep_statistics
from seedbed.learning.path_length import path_length, per_length, require_linear, train_measured
from seedbed.learning.training import Objective
from seedbed.tree import Tree


def fednova(
    loss: Objective,
    *,
    mu: float = 0.0,
    tau_eff: Literal["length", "steps"] = "length",
    local: Optimizer = sgd(0.1),
    outer: Optimizer = sgd(1.0),
    adapt: Adapt = unadapted,
) -> Algorithm:
    """θ ← outer step along τ_eff·Σ_i p_i d_i, with d_i = (θ − θ_i)/‖a_i‖₁, τ_eff = Σ_i p_i‖a_i‖₁, p_i = n_i/Σn.

    θ − θ_i = η·Σ_k a_ik g_ik for a local optimiser that is linear in the gradients: clients that take more steps, or
    longer ones, count no more for it. With equal steps it is FedAvg, or with μ FedProx.

    Args:
        mu: μ ≥ 0 of the local pull (μ/2)‖w − θ‖², which is part of what momentum sees, as in FedProx.
        tau_eff: length: τ_eff = Σ_i p_i‖a_i‖₁, eq. 7; steps: Σ_i p_i τ_i of the clients' numbers of steps τ_i, as the
            authors' code has for μ > 0. They are the same for sgd without momentum and μ.
        local: linear: sgd with any momentum, Nesterov, weight decay and schedule. Each round it begins afresh.
    Raises:
        InputError: the local optimiser is not linear.
    """
    require_linear(local, "fednova")
    plain = sgd(local.settings["lr"], schedule=local.settings.get("schedule"))  # of length η·τ_i
    plain = scale_steps(plain, local.settings.get("scale", 1.0))

    def client(sent: Params, kept: Tree, task: Task) -> tuple[Message, Tree]:
        # η‖a‖₁ is measured, not ‖a‖₁: η cancels in τ_eff·d. Departure: it is Σ_k a_k without absolute values. The
        # paper has a_k ≥ 0, but heavy momentum under a pull swings back (a_k < 0): there only Σ_k a_k makes a
        # client's d_i the gradient g_i wherever its gradients agree.
        trained, length = train_measured(loss, local, sent, task, mu=mu)
        moved = tree.sub(sent, trained.params)
        value = {"d": keep_statistics(per_length(moved, length), moved), "length": length}
        if tau_eff == "steps":
            value["length"] = path_length(plain, task)
        return Message(value, task.examples, {"loss": trained.loss}), kept

    def server(state: ServerState, replies: Replies) -> ServerState:
        gradient = keep_statistics(tree.scale(replies.value["length"], replies.value["d"]), replies.value["d"])
        return ServerState(*outer.update(gradient, state.extra, state.params))

    return replace(fedavg(loss, local=local, outer=outer, adapt=adapt), client=client, server=server)
