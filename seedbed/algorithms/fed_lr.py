"""Logistic-regression head, federated: Bertinetto, Henriques, Torr and Vedaldi, "Meta-learning with differentiable
closed-form solvers" (LR-D2), ICLR 2019, arXiv 1805.08136, section 3.2. Only the body and λ are federated; each client
solves its own head by a few steps of Newton's method, for any number of classes (the paper's is for two).
"""

from seedbed.algorithms.fed_proto import body_only
from seedbed.federated import Algorithm
from seedbed.learning.heads import LOGISTIC, logistic_head
from seedbed.learning.objectives import Predict
from seedbed.learning.optimizers import Optimizer, adam
from seedbed.learning.training import Objective


def fed_lr(
    loss: Objective,
    features: Predict,
    *,
    ways: int,
    head: str = "head",
    newton_steps: int = 5,
    outer: Optimizer = adam(1e-3),
    test_steps: int = 0,
    test_lr: float = 0.01,
) -> Algorithm:
    """Body ← outer step along mean_i ∇ L_i(query_i) under W = argmin Σ cross-entropy(support_i) + λ/2‖W‖².

    As fed_proto, with the head of softmax regression instead of prototypes.

    Args:
        newton_steps: from a head of zeros; the meta-gradient goes through all of them. λ starts at 1.
    """
    solve = logistic_head(features, ways=ways, head=head, steps=newton_steps)
    return body_only(loss, solve, head=head, outer=outer, test_steps=test_steps, test_lr=test_lr, learned=LOGISTIC)
