"""FedMeta with MAML: Chen, Luo, Dong, Li and He, "Federated meta-learning with fast convergence and efficient
communication", 2018, arXiv 1802.07876, Algorithm 1; MAML: Finn, Abbeel and Levine, ICML 2017, arXiv 1703.03400.
"""

from seedbed.algorithms.fedsgd import fedsgd
from seedbed.federated import Algorithm, uniform
from seedbed.learning.adaptations import MetaGradient, guarded_steps, maml
from seedbed.learning.objectives import Adapt
from seedbed.learning.optimizers import Optimizer, adam
from seedbed.learning.training import Objective


def fedmeta(
    loss: Objective,
    *,
    lr: float = 0.1,
    steps: int = 1,
    order: MetaGradient = "exact",
    delta: float = 1e-2,
    outer: Optimizer = adam(1e-3),
    adapt: Adapt | None = None,
    test_steps: int | None = None,
) -> Algorithm:
    """θ ← outer step along mean_i ∇_θ L_i(φ_i; query_i), with φ_i after `steps` gradient steps on support_i from θ.

    Args:
        lr: the inner learning rate α.
        order: exact (differentiates through the inner steps: second order) | recomputed (the same gradient in memory
            that does not grow with the steps, for more time) | first (takes φ_i's gradient for θ's: FOMAML) |
            hessian_free (second order by differences of gradients).
        delta: the length of those differences.
        steps: inner steps in training.
        adapt: how a client adapts; None: by the inner steps, `test_steps` of them (None: as many as in training).
    """
    objective = maml(loss, lr=lr, steps=steps, order=order, delta=delta)
    inner = guarded_steps(loss, lr=lr, steps=steps if test_steps is None else test_steps)
    return uniform(fedsgd(objective, outer=outer, adapt=adapt or inner))
