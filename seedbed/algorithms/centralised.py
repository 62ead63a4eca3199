"""Centralised training: everybody's data in one place. What federation is measured against; run it on
`population.pooled()`, whose one client is "everyone".
"""

from seedbed import tree
from seedbed.data.types import Batch, Task
from seedbed.errors import InputError
from seedbed.federated import Algorithm, Message, Params, Replies, ServerState
from seedbed.learning.adaptations import unadapted
from seedbed.learning.objectives import Adapt
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.training import Objective, train
from seedbed.tree import Tree


def centralised(loss: Objective, *, local: Optimizer = sgd(0.1), adapt: Adapt = unadapted) -> Algorithm:
    """θ ← local steps on everybody's data, from one round to the next with the optimiser's state, unlike FedAvg's.

    Raises:
        InputError: in a round, the population has more than one client: it is not pooled.
    """

    def init(params: Params) -> ServerState:
        params = tree.detach(params)
        return ServerState(params, local.init(params))

    def send(state: ServerState, client: int) -> ServerState:
        return state

    def client(sent: ServerState, kept: Tree, task: Task) -> tuple[Message, Tree]:
        trained = train(loss, local, sent.params, task, state=sent.extra)
        value = ServerState(trained.params, trained.state)
        return Message(value, task.examples, {"loss": trained.loss}), kept

    def server(state: ServerState, replies: Replies) -> ServerState:
        if replies.population > 1:
            raise InputError(
                f"centralised trains on pooled data, but this population has {replies.population} clients, whose "
                "models it would average: give population.pooled(), or use fedavg"
            )
        return ServerState(*replies.value)

    def personalise(sent: ServerState, kept: Tree, support: Batch) -> Params:
        return adapt(sent.params, support)

    return Algorithm(init, client, server, send=send, personalise=personalise)
