"""Prototype head, federated: Snell, Swersky and Zemel, "Prototypical networks for few-shot learning", NeurIPS 2017,
arXiv 1703.05175, equations 1–2. Only the body is federated: each client solves its own head from its support set.
"""

from collections.abc import Mapping
from dataclasses import replace

from seedbed.algorithms.fedsgd import fedsgd
from seedbed.errors import InputError
from seedbed.federated import Algorithm, Params, ServerState, uniform
from seedbed.learning.adaptations import chain_adaptations, guarded_steps
from seedbed.learning.heads import learned_scalars, prototype_head
from seedbed.learning.objectives import Adapt, Predict, solved_head_objective
from seedbed.learning.optimizers import Optimizer, adam
from seedbed.learning.training import Objective


def fed_proto(
    loss: Objective,
    features: Predict,
    *,
    ways: int,
    head: str = "head",
    scale: float | None = 1.0,
    outer: Optimizer = adam(1e-3),
    test_steps: int = 0,
    test_lr: float = 0.01,
) -> Algorithm:
    """Body ← outer step along mean_i ∇ L_i(query_i) under the prototypes of support_i.

    Args:
        features: (params, x [B, ...]) -> [B, F], what the head sees.
        ways: classes of a task (N).
        head: the name of the head's module: its parameters are solved, never sent.
        scale: of the squared distances in the logits: 1 is the paper's; None: 16/F for F features.
        test_steps: gradient steps on the support set after the prototypes, when a client adapts; test_lr is theirs.
    """
    solve = prototype_head(features, ways=ways, head=head, scale=scale)
    return body_only(loss, solve, head=head, outer=outer, test_steps=test_steps, test_lr=test_lr)


def body_only(
    loss: Objective,
    solve: Adapt,
    *,
    head: str,
    outer: Optimizer,
    test_steps: int,
    test_lr: float,
    learned: Mapping[str, float] | None = None,
) -> Algorithm:
    """Meta-learning of a body under a head that each client solves for itself.

    Args:
        solve: body's params -> params with the head that the support set gives. Queries of a class that the support
            set lacks are not counted.
        learned: the head's own learned numbers, which are federated with the body, and where they start.
    """
    adapt = chain_adaptations(solve, guarded_steps(loss, lr=test_lr, steps=test_steps))
    base = fedsgd(solved_head_objective(solve, loss), outer=outer, adapt=adapt)

    def init(params: Params) -> ServerState:
        body = {n: p for n, p in params.items() if not n.startswith(f"{head}.")}
        if not body:
            raise InputError("the model is all head, so that nothing is left to federate: give it a hidden layer")
        return base.init(body | learned_scalars(learned or {}, next(iter(body.values()))))

    return uniform(replace(base, init=init))
