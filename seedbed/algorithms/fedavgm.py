"""FedAvgM: Hsu, Qi and Brown, "Measuring the effects of non-identical data distribution for federated visual
classification", 2019, arXiv 1909.06335, section 4.3.
"""

from seedbed.algorithms.fedavg import fedavg
from seedbed.federated import Algorithm
from seedbed.learning.adaptations import unadapted
from seedbed.learning.objectives import Adapt
from seedbed.learning.optimizers import Optimizer, Schedule, sgd
from seedbed.learning.training import Objective


def fedavgm(
    loss: Objective,
    *,
    eta: float = 1.0,
    beta: float = 0.9,
    nesterov: bool = False,
    schedule: Schedule | None = None,
    local: Optimizer = sgd(0.1),
    adapt: Adapt = unadapted,
) -> Algorithm:
    """v ← βv + Δ;  θ ← θ − η·v, with Δ the mean of θ − θ_i: FedAvg with momentum on the server.

    Args:
        eta: the server's rate η; 1 is the paper's.
        beta: β of the momentum; 0 is FedAvg.
        nesterov: step along Δ + βv instead of v.
        schedule: factor on η over rounds.
    """
    outer = sgd(eta, momentum=beta, nesterov=nesterov, schedule=schedule)
    return fedavg(loss, local=local, outer=outer, adapt=adapt)
