"""D-PSGD: Lian, Zhang, Zhang, Hsieh, Zhang and Liu, "Can decentralized algorithms outperform centralized algorithms? A
case study for decentralized parallel stochastic gradient descent", NeurIPS 2017, arXiv 1705.09056, Algorithm 1.

On gossip with order=combine_then_adapt it is the paper's. On the complete graph with order=adapt_then_combine it is
averaged gradients between all peers: every replica stays the same, and is FedSGD's.
"""

from seedbed.algorithms.fedsgd import fedsgd
from seedbed.federated import Algorithm, uniform
from seedbed.learning.adaptations import unadapted
from seedbed.learning.objectives import Adapt
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.training import Objective


def dpsgd(loss: Objective, *, outer: Optimizer = sgd(0.1), adapt: Adapt = unadapted) -> Algorithm:
    """x_i ← Σ_j W_ij x_j − γ∇L_i(x_i).

    Args:
        outer: each peer's optimiser; γ is its learning rate. Its state is mixed with the neighbours' too.
    """
    return uniform(fedsgd(loss, outer=outer, adapt=adapt))
