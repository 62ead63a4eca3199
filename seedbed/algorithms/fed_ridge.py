"""Ridge-regression head, federated: Bertinetto, Henriques, Torr and Vedaldi, "Meta-learning with differentiable
closed-form solvers" (R2D2), ICLR 2019, arXiv 1805.08136, equations 3–6. Only the body, λ, and the logits' scale and
bias are federated; each client solves its own head.
"""

from dataclasses import replace

from seedbed.algorithms.fed_proto import body_only
from seedbed.federated import Algorithm, Params, ServerState
from seedbed.learning.adaptations import chain, gradient_steps, ridge_head, ridge_parameters
from seedbed.learning.objectives import Predict
from seedbed.learning.optimizers import Optimizer, adam
from seedbed.learning.training import Objective


def fed_ridge(
    loss: Objective,
    features: Predict,
    *,
    ways: int,
    head: str = "head",
    outer: Optimizer = adam(1e-3),
    test_steps: int = 0,
    test_lr: float = 0.01,
) -> Algorithm:
    """As fed_proto, with the head W = Xᵀ(XXᵀ + λI)⁻¹Y instead of prototypes; λ, scale and bias start at 1, 1, 0."""
    solve = ridge_head(features, ways=ways, head=head)
    adapt = chain(solve, gradient_steps(loss, lr=test_lr, steps=test_steps))
    base = body_only(loss, solve, adapt, head=head, outer=outer)

    def init(params: Params) -> ServerState:
        return base.init(params | ridge_parameters(next(iter(params.values()))))

    return replace(base, init=init)
