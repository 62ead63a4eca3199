"""FedProx: Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith, "Federated optimization in heterogeneous networks",
MLSys 2020, arXiv 1812.06127, equation 2 and Algorithm 2.
"""

from dataclasses import replace

from seedbed import tree
from seedbed.algorithms.fedavg import fedavg
from seedbed.data.types import Task
from seedbed.federated import Algorithm, Message, Params
from seedbed.learning.adaptations import unadapted
from seedbed.learning.objectives import Adapt, proximal
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.training import Objective, train
from seedbed.tree import Tree


def fedprox(
    loss: Objective,
    *,
    mu: float = 0.1,
    local: Optimizer = sgd(0.1),
    outer: Optimizer = sgd(1.0),
    adapt: Adapt = unadapted,
) -> Algorithm:
    """θ_i ← local steps from θ on L_i(w) + (μ/2)‖w − θ‖²;  θ ← outer step as in FedAvg.

    Args:
        mu: μ ≥ 0; 0 is FedAvg. Clients may do unequal work: a task's items are its steps.
    """

    def client(sent: Params, kept: Tree, task: Task) -> tuple[Message, Tree]:
        trained = train(proximal(loss, sent, mu), local, sent, task)
        return Message(tree.sub(sent, trained.params), task.examples, {"loss": trained.loss}), kept

    return replace(fedavg(loss, local=local, outer=outer, adapt=adapt), client=client)
