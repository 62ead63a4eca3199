"""FedDyn: Acar, Zhao, Matas Navarro, Mattina, Whatmough and Saligrama, "Federated learning based on dynamic
regularization", ICLR 2021, arXiv 2111.04263, Algorithm 1."""

from dataclasses import replace

from seedbed import tree
from seedbed.algorithms.fedprox import fedprox
from seedbed.data.types import Task
from seedbed.errors import InputError
from seedbed.federated import Algorithm, Message, Params, Replies, ServerState, uniform
from seedbed.learning.adaptations import unadapted
from seedbed.learning.objectives import Adapt, with_linear_term
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.training import Objective


def feddyn(loss: Objective, *, alpha: float = 0.1, local: Optimizer = sgd(0.1), adapt: Adapt = unadapted) -> Algorithm:
    """θ_i ← local steps on L_i(w) − ⟨g_i, w⟩ + (α/2)‖w − θ‖²; g_i ← g_i − α(θ_i − θ); θ ← mean_i θ_i − h/α.

    h ← h − α/N·Σ_i (θ_i − θ) over the cohort, of N clients in all. Clients keep g_i; g_i and h are 0 at first.

    Args:
        alpha: α above 0; the authors' is .01 to .1.

    Raises:
        InputError: α is not above 0: the server divides by it.
    """
    if not alpha > 0:
        raise InputError(f"feddyn alpha={alpha:g}: it must be above 0, as the server divides by it; try 0.1")

    def client(sent: Params, g: Params, task: Task) -> tuple[Message, Params]:
        tilted = with_linear_term(loss, tree.scale(-1, g))
        message, _ = fedprox(tilted, mu=alpha, local=local).client(sent, {}, task)
        return message, tree.axpy(alpha, message.value, g)

    def server(state: ServerState, replies: Replies) -> ServerState:
        h = tree.axpy(alpha * len(replies.clients) / replies.population, replies.value, state.extra)
        return ServerState(tree.axpy(-1 / alpha, h, tree.sub(state.params, replies.value)), h)

    def init(params: Params) -> ServerState:
        return ServerState(tree.detach(params), tree.zeros_like(params))

    base = fedprox(loss, mu=alpha, local=local, adapt=adapt)
    return uniform(replace(base, init=init, client=client, server=server, remember=tree.zeros_like))
