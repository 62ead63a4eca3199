"""LG-FedAvg: Liang, Liu, Liu, Allen, Auerbach, Brent, Salakhutdinov and Morency, "Think locally, act globally:
federated learning with local and global representations", 2020, arXiv 2001.01523, Algorithm 1: FedPer the other way
round. Every client has a body of its own; the head is federated.

The authors begin from weights that FedAvg has trained: `lg_fedavg(...).init(state.params)` with FedAvg's state.
"""

from functools import partial

from seedbed.algorithms.fedper import headed, partly_shared
from seedbed.federated import Algorithm
from seedbed.learning.adaptations import guarded_steps
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.parameter_subsets import inside_part, outside_part
from seedbed.learning.training import Objective, train


def lg_fedavg(
    loss: Objective,
    *,
    head: str = "head",
    local: Optimizer = sgd(0.1),
    outer: Optimizer = sgd(1.0),
    test_steps: int = 10,
    test_lr: float = 0.1,
) -> Algorithm:
    """body_i and head ← local steps on both together; head ← Σ n_i head_i / Σ n_i; body_i is client i's own.

    Args:
        head: the name of the head's module: its parameters are shared.
        test_steps: gradient steps of body and head together when a client adapts, as in a round, from the body that
            it keeps; a client never seen has the initial one. Departure: for a new device the authors average the
            outputs of all local models, which would mean to send them. Where an episode's classes are new, no head
            can be shared: what is left is local training from the initial body.
        test_lr: their learning rate.
    """
    # Departure from the authors' code, not from the paper: weights n_i, where the code takes the plain mean.
    adapt = guarded_steps(loss, lr=test_lr, steps=test_steps)
    learn = partial(train, loss, local)
    return headed(
        head, partly_shared(learn, shared=inside_part(head), personal=outside_part(head), outer=outer, adapt=adapt)
    )
