"""Dif-MAML: Kayaalp, Vlaski and Sayed, "Dif-MAML: decentralized multi-agent meta-learning", IEEE Open Journal of Signal
Processing 2022, arXiv 2010.02870, Algorithm 1: on gossip with order=adapt_then_combine.
"""

from seedbed.algorithms.fedmeta import fedmeta
from seedbed.federated import Algorithm
from seedbed.learning.adaptations import MetaGradient
from seedbed.learning.objectives import Adapt
from seedbed.learning.optimizers import Optimizer, adam
from seedbed.learning.training import Objective


def dif_maml(
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
    """ψ_i = w_i − μ∇Q_i(w_i), Q_i(w) = L_i(w − α∇L_i(w; support); query);  w_i ← Σ_j W_ij ψ_j.

    Args:
        lr: the inner learning rate α.
        steps: inner steps in training; the paper's is 1.
        order: exact | recomputed | first | hessian_free, as in fedmeta.
        delta: the length of the finite difference of `hessian_free`.
        outer: each peer's optimiser, with μ for its learning rate: sgd in the paper's analysis, Adam in its
            experiments. Departure: its state is mixed with the neighbours' too, so that peers with unequal data agree
            on their step.
        adapt: how a client adapts; None: by the inner steps, `test_steps` of them (None: as many as in training).
    """
    return fedmeta(loss, lr=lr, steps=steps, order=order, delta=delta, outer=outer, adapt=adapt, test_steps=test_steps)
