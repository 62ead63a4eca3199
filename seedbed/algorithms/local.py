"""Local only: every client trains a model of its own and nothing is shared. What federation must beat."""

from seedbed import tree
from seedbed.data.types import Batch, Task
from seedbed.federated import Algorithm, Message, Params, Replies, ServerState
from seedbed.learning.adaptations import unadapted
from seedbed.learning.objectives import Adapt
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.training import Objective, train
from seedbed.tree import Tree


def local(loss: Objective, *, local: Optimizer = sgd(0.1), adapt: Adapt = unadapted) -> Algorithm:
    """θ_i ← local steps on client i from its own θ_i; the message is zero and the server's start never moves."""

    def init(params: Params) -> ServerState:
        return ServerState(tree.detach(params), {})

    def client(sent: Params, own: Params, task: Task) -> tuple[Message, Tree]:
        trained = train(loss, local, own, task)
        return Message(tree.zeros_like(sent), task.examples, {"loss": trained.loss}), trained.params

    def server(state: ServerState, replies: Replies) -> ServerState:
        return state

    def personalise(sent: Params, own: Params, support: Batch) -> Params:
        return adapt(own, support)

    return Algorithm(init, client, server, remember=lambda sent: sent, personalise=personalise)
