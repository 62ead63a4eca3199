"""Per-FedAvg: Fallah, Mokhtari and Ozdaglar, "Personalized federated learning with theoretical guarantees: a
model-agnostic meta-learning approach", NeurIPS 2020, arXiv 2002.07948, Algorithm 1 and equations 8–9.
"""

from typing import Literal

from seedbed.algorithms.fedavg import fedavg
from seedbed.federated import Algorithm, uniform
from seedbed.learning.adaptations import MetaGradient, guarded_steps, maml
from seedbed.learning.objectives import Adapt, three_batch
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.training import Objective


def per_fedavg(
    loss: Objective,
    *,
    alpha: float = 0.01,
    order: MetaGradient = "exact",
    batches: Literal[2, 3] = 2,
    delta: float = 1e-2,
    local: Optimizer = sgd(0.1),
    outer: Optimizer = sgd(1.0),
    adapt: Adapt | None = None,
    test_steps: int = 1,
) -> Algorithm:
    """Local steps on F_i(w) = L_i(w − α∇L_i(w)); the server takes the plain mean.

    Args:
        alpha: α of the one inner step.
        order: exact, or recomputed as in fedmeta | first (Per-FedAvg FO) | hessian_free (HF).
        batches: 3 is the paper's estimate, unbiased for ∇F_i, from three independent batches (items are triples);
            2 differentiates through the step on one support batch (items are episodes): less data, not the same
            expectation.
        delta: the length of the finite difference of `hessian_free`.
        local: the clients' optimiser, with the paper's β for its learning rate.
        adapt: how a client adapts; None: by `test_steps` gradient steps of rate α.
    """
    if batches == 3:
        objective = three_batch(loss, lr=alpha, order=order, delta=delta)
    else:
        objective = maml(loss, lr=alpha, steps=1, order=order, delta=delta)
    inner = guarded_steps(loss, lr=alpha, steps=test_steps)
    return uniform(fedavg(objective, local=local, outer=outer, adapt=adapt or inner))
