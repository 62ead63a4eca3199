"""FedYogi: Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar and McMahan, "Adaptive federated optimization",
ICLR 2021, arXiv 2003.00295, Algorithm 2.
"""

from seedbed.algorithms.fedavg import fedavg
from seedbed.federated import Algorithm
from seedbed.learning.adaptations import unadapted
from seedbed.learning.objectives import Adapt
from seedbed.learning.optimizers import Optimizer, Schedule, sgd, yogi
from seedbed.learning.training import Objective


def fedyogi(
    loss: Objective,
    *,
    eta: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.99,
    tau: float = 1e-3,
    initial: float | None = None,
    bias_correction: bool = False,
    schedule: Schedule | None = None,
    local: Optimizer = sgd(0.1),
    adapt: Adapt = unadapted,
) -> Algorithm:
    """m ← β1 m + (1−β1)Δ;  v ← v − (1−β2)Δ²·sign(v − Δ²);  θ ← θ + η·m/(√v + τ), with Δ the mean of θ_i − θ.

    Args:
        eta: the server's rate η.
        beta1, beta2: how slowly the moments follow, from 0 to less than 1.
        tau: τ, which bounds the step where Δ is small.
        initial: v before the first round; None: τ², the least that Algorithm 2 allows. The authors' code has 0.
        bias_correction: of m and v, as in Adam; Algorithm 2 has none. FLamby's setting is beta2=.999, tau=1e-8,
            initial=0; that of the authors' code (Keras) is beta2=.999, initial=0, bias_correction=True.
        schedule: factor on η over rounds.
    """
    v = tau * tau if initial is None else initial
    outer = yogi(
        eta,
        beta1=beta1,
        beta2=beta2,
        epsilon=tau,
        initial=v,
        bias_correction=bias_correction,
        schedule=schedule,
    )
    return fedavg(loss, local=local, outer=outer, adapt=adapt)
