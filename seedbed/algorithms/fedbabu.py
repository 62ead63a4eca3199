"""FedBABU: Oh, Kim and Yun, "FedBABU: toward enhanced representation for federated image classification", ICLR 2022,
arXiv 2106.06042, Algorithm 1: only the body is trained and averaged, under the random head that all began with.
"""

from functools import partial
from typing import Literal

from seedbed.algorithms.fedper import headed, partly_shared
from seedbed.federated import Algorithm
from seedbed.learning.adaptations import all_parameters, guarded_steps
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.parameter_subsets import empty_part, inside_part, outside_part, train_part
from seedbed.learning.training import Objective


def fedbabu(
    loss: Objective,
    *,
    head: str = "head",
    tunes: Literal["all", "body", "head"] = "all",
    local: Optimizer = sgd(0.1),
    outer: Optimizer = sgd(1.0),
    test_steps: int = 10,
    test_lr: float = 0.1,
) -> Algorithm:
    """body_i ← local steps under the initial head; body ← Σ n_i body_i / Σ n_i. Clients keep nothing.

    Args:
        head: the name of the head's module: it is never trained before a client adapts. It must not be zero.
        tunes: what a client fine-tunes when it adapts; the paper recommends all.
        test_steps, test_lr: of that fine-tuning, on the whole support set (the paper's is over epochs of
            mini-batches).
    """
    moves = {"all": all_parameters, "body": outside_part(head), "head": inside_part(head)}[tunes]
    adapt = guarded_steps(loss, lr=test_lr, steps=test_steps, moves=moves)
    learn = partial(train_part, loss, local, moves=outside_part(head))
    return headed(head, partly_shared(learn, shared=outside_part(head), personal=empty_part, outer=outer, adapt=adapt))
