"""Meta-SGD, federated: Li, Zhou, Chen and Li, "Meta-SGD: learning to learn quickly for few-shot learning", 2017,
arXiv 1707.09835, equation 4; federated as in FedMeta (Chen et al. 2018, arXiv 1802.07876, Algorithm 1).
"""

from dataclasses import replace

from seedbed.algorithms.fedsgd import fedsgd
from seedbed.federated import Algorithm, Params, ServerState, uniform
from seedbed.learning.adaptations import learned_steps, rates_for
from seedbed.learning.objectives import after
from seedbed.learning.optimizers import Optimizer, adam
from seedbed.learning.training import Objective


def meta_sgd(
    loss: Objective,
    *,
    lr: float = 0.1,
    steps: int = 1,
    outer: Optimizer = adam(1e-3),
    test_steps: int | None = None,
) -> Algorithm:
    """θ, a ← outer step along mean_i ∇_θ,a L_i(θ − a ⊙ ∇L_i(θ; support_i); query_i): a rate a for every parameter.

    Args:
        lr: where the learned rates start.
        steps: inner steps in training; the rates are the same in each.
    """
    adapt = learned_steps(loss, steps=steps)
    base = fedsgd(
        after(adapt, loss),
        outer=outer,
        adapt=learned_steps(loss, steps=steps if test_steps is None else test_steps),
    )

    def init(params: Params) -> ServerState:
        return base.init(params | rates_for(params, lr))

    return uniform(replace(base, init=init))
