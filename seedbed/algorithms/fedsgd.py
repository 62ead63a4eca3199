"""FedSGD: McMahan et al., AISTATS 2017, arXiv 1602.05629, section 2: one gradient of each client's loss a round.

On a meta-learning objective it is FedMeta, and the ground of every method whose clients send a meta-gradient.
"""

from dataclasses import replace

from seedbed.algorithms.fedavg import fedavg
from seedbed.data.types import Task
from seedbed.federated import Algorithm, Message, Params
from seedbed.learning.adaptations import unadapted
from seedbed.learning.objectives import Adapt
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.training import Objective, mean_gradient
from seedbed.tree import Tree


def fedsgd(loss: Objective, *, outer: Optimizer = sgd(0.1), adapt: Adapt = unadapted) -> Algorithm:
    """θ ← outer step along Σ_i n_i ∇L_i(θ) / Σ_i n_i.

    ∇L_i is the mean over the task's items, of equal weight: give whole-client batches (`batches(None)`) for the
    paper's full gradient.
    """

    def client(sent: Params, kept: Tree, task: Task) -> tuple[Message, Tree]:
        gradient, value = mean_gradient(loss, sent, task)
        return Message(gradient, task.examples, {"loss": value}), kept

    return replace(fedavg(loss, outer=outer, adapt=adapt), client=client)
