"""FedRep: Collins, Hassani, Mokhtari and Shakkottai, "Exploiting shared representations for personalized federated
learning", ICML 2021, arXiv 2102.07078, Algorithm 1: the head first, under the body that was sent; then the body.
"""

from seedbed.algorithms.fedper import headed, partly_shared
from seedbed.data.types import Task
from seedbed.federated import Algorithm, Params
from seedbed.learning.adaptations import guarded_steps
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.parameter_subsets import inside_part, outside_part, train_part
from seedbed.learning.training import Objective, TrainResult


def fedrep(
    loss: Objective,
    *,
    head: str = "head",
    head_epochs: int = 1,
    local: Optimizer = sgd(0.1),
    outer: Optimizer = sgd(1.0),
    test_steps: int = 10,
    test_lr: float = 0.1,
) -> Algorithm:
    """head_i ← steps under the body as sent; body_i ← steps under that head; body ← Σ n_i body_i / Σ n_i.

    Args:
        head: the name of the head's module: its parameters are personal, never sent.
        head_epochs: passes of the head over a task's items (the paper's τ, up to 10 epochs in its experiments)
            before the one pass of the body. A pass of the head costs as many examples as one of the body.
        local: of both phases, its state made afresh for each.
        test_steps: gradient steps of the head when a client adapts, from the head that it keeps; a client never seen
            has the initial one, and learns its head under the fixed body, as new clients do in the paper's experiments.
        test_lr: their learning rate.
    """

    def learn(params: Params, task: Task) -> TrainResult:
        fitted = train_part(loss, local, params, task, moves=inside_part(head), epochs=head_epochs)
        return train_part(loss, local, fitted.params, task, moves=outside_part(head))

    # Departure: weights n_i, as in FedAvg; Algorithm 1 takes the plain mean, which `uniform` gives.
    adapt = guarded_steps(loss, lr=test_lr, steps=test_steps, moves=inside_part(head))
    return headed(
        head, partly_shared(learn, shared=outside_part(head), personal=inside_part(head), outer=outer, adapt=adapt)
    )
