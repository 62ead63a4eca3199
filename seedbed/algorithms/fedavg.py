"""FedAvg: McMahan, Moore, Ramage, Hampson and Agüera y Arcas, "Communication-efficient learning of deep networks
from decentralized data", AISTATS 2017, arXiv 1602.05629, Algorithm 1.

With another outer optimiser it is FedOpt: Reddi et al., ICLR 2021, arXiv 2003.00295, Algorithm 2.
"""

from seedbed import tree
from seedbed.data.types import Task
from seedbed.federated import Algorithm, Message, Params, Replies, ServerState, personalise_by
from seedbed.learning.adaptations import unadapted
from seedbed.learning.objectives import Adapt
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.training import Objective, train
from seedbed.tree import Tree


def fedavg(
    loss: Objective, *, local: Optimizer = sgd(0.1), outer: Optimizer = sgd(1.0), adapt: Adapt = unadapted
) -> Algorithm:
    """θ_i ← local steps on client i from θ;  θ ← outer step along Σ_i n_i (θ − θ_i) / Σ_i n_i.

    Args:
        loss: what a client minimises, on batches.
        local: the clients' optimiser, its state made afresh each round.
        outer: the server's, which takes the mean difference for a gradient; sgd(1.0) gives the mean of the models.
        adapt: how a client makes the model its own; gradient steps are "FedAvg + fine-tuning".
    """

    def init(params: Params) -> ServerState:
        params = tree.detach(params)
        return ServerState(params, outer.init(params))

    def client(sent: Params, kept: Tree, task: Task) -> tuple[Message, Tree]:
        trained = train(loss, local, sent, task)
        return Message(tree.sub(sent, trained.params), task.examples, {"loss": trained.loss}), kept

    def server(state: ServerState, replies: Replies) -> ServerState:
        return ServerState(*outer.update(replies.value, state.extra, state.params))

    return Algorithm(init, client, server, personalise=personalise_by(adapt))
