"""Reptile, federated: Nichol, Achiam and Schulman, "On first-order meta-learning algorithms", 2018, arXiv 1803.02999,
Algorithm 2 (batched).

It is FedAvg in which every client counts the same and the server takes a step of ε.
"""

from seedbed.algorithms.fedavg import fedavg
from seedbed.federated import Algorithm, uniform
from seedbed.learning.adaptations import unadapted
from seedbed.learning.objectives import Adapt
from seedbed.learning.optimizers import Optimizer, Schedule, sgd
from seedbed.learning.training import Objective


def reptile(
    loss: Objective,
    *,
    epsilon: float = 1.0,
    schedule: Schedule | None = None,
    local: Optimizer = sgd(0.1),
    adapt: Adapt = unadapted,
) -> Algorithm:
    """θ ← θ + ε·mean_i(W_i − θ), with W_i after k local steps on client i's task from θ.

    Args:
        epsilon: the outer step ε, of the *mean* over clients; a published ε of the sum is ε·C for C clients.
        schedule: factor on ε over rounds; the authors go linearly from 1 to 0.
        local: the clients' optimiser. Departure: the authors' code lets Adam's second moment live on across tasks;
            here a client's optimiser starts afresh each round, because its state must not leave the client.
    """
    return uniform(fedavg(loss, local=local, outer=sgd(epsilon, schedule=schedule), adapt=adapt))
