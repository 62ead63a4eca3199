"""iMAML, federated: Rajeswaran, Finn, Kakade and Levine, "Meta-learning with implicit gradients", NeurIPS 2019,
arXiv 1909.04630, Algorithms 1 and 2; federated as in FedMeta (Chen et al. 2018, arXiv 1802.07876, Algorithm 1).
"""

from seedbed.algorithms.fedsgd import fedsgd
from seedbed.errors import InputError
from seedbed.federated import Algorithm, uniform
from seedbed.learning.implicit import implicit_gradient, proximal_steps
from seedbed.learning.objectives import Adapt
from seedbed.learning.optimizers import Optimizer, adam
from seedbed.learning.training import Objective


def imaml(
    loss: Objective,
    *,
    lam: float = 1.0,
    lr: float = 0.1,
    steps: int = 10,
    cg_steps: int = 5,
    ridge: float = 0.0,
    damping: float = 0.0,
    outer: Optimizer = adam(1e-3),
    adapt: Adapt | None = None,
    test_steps: int | None = None,
) -> Algorithm:
    """θ ← outer step along mean_i (I + ∇²L_i(φ_i)/λ)⁻¹∇L_i(φ_i; query_i), φ_i = argmin L_i(φ; support_i) + λ/2‖φ − θ‖².

    Args:
        lam: λ above 0, the pull to the start; the meta-gradient is exact if the inner steps reach the minimum.
        lr: of the inner steps; they diverge from 2/(λ + the loss's largest curvature) on.
        steps: inner steps in training.
        cg_steps: of conjugate gradients, each a Hessian-vector product; 0 gives no gradient at all.
        ridge, damping: r and δ: the operator is (1 + r)I + ∇²L_i(φ_i)/(λ + δ). 0 and 0: the paper's equation 6; the
            authors' code has 1 and 10.
        adapt: how a client adapts; None: by the inner steps, `test_steps` of them (None: as many as in training).
    """
    if lam <= 0:
        raise InputError(f"lam={lam} must be above 0: without a pull to the start its gradient is zero; use fedmeta")
    inner = proximal_steps(loss, lam=lam, lr=lr, steps=steps if test_steps is None else test_steps)
    objective = implicit_gradient(loss, lam=lam, lr=lr, steps=steps, cg_steps=cg_steps, ridge=ridge, damping=damping)
    return uniform(fedsgd(objective, outer=outer, adapt=adapt or inner))
