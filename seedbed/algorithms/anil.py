"""ANIL, federated: Raghu, Raghu, Bengio and Vinyals, "Rapid learning or feature reuse?", ICLR 2020, arXiv 1909.09157,
equation 2: MAML whose inner steps move the head only. Body and head are meta-learned and federated as in FedMeta.
"""

from seedbed.algorithms.fedsgd import fedsgd
from seedbed.federated import Algorithm, uniform
from seedbed.learning.adaptations import gradient_steps, guarded_steps
from seedbed.learning.objectives import meta_objective
from seedbed.learning.optimizers import Optimizer, adam
from seedbed.learning.training import Objective


def anil(
    loss: Objective,
    *,
    head: str = "head",
    lr: float = 0.1,
    steps: int = 5,
    first_order: bool = False,
    outer: Optimizer = adam(1e-3),
    test_steps: int | None = None,
) -> Algorithm:
    """θ ← outer step along mean_i ∇_θ L_i(φ_i; query_i), with φ_i after `steps` steps of the head alone on support_i.

    Args:
        head: the name of the head's module: its parameters adapt.
        lr, steps: of the inner loop.
        first_order: treat inner gradients as constants.
    """

    def moves(name: str) -> bool:
        return name.startswith(f"{head}.")

    adapt = gradient_steps(loss, lr=lr, steps=steps, first_order=first_order, moves=moves)
    at_test = guarded_steps(loss, lr=lr, steps=steps if test_steps is None else test_steps, moves=moves)
    return uniform(fedsgd(meta_objective(adapt, loss), outer=outer, adapt=at_test))
