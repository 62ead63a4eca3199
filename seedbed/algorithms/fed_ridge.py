"""Ridge-regression head, federated: Bertinetto, Henriques, Torr and Vedaldi, "Meta-learning with differentiable
closed-form solvers" (R2D2), ICLR 2019, arXiv 1805.08136, equations 3–6. Only the body, λ, and the logits' scale and
bias are federated; each client solves its own head.
"""

from seedbed.algorithms.fed_proto import body_only
from seedbed.federated import Algorithm
from seedbed.learning.heads import RIDGE, ridge_head
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
    return body_only(loss, solve, head=head, outer=outer, test_steps=test_steps, test_lr=test_lr, learned=RIDGE)
