"""FedPer: Arivazhagan, Aggarwal, Singh and Choudhary, "Federated learning with personalization layers", 2019,
arXiv 1912.00818, Algorithms 1 and 2: base layers are federated, the last ones stay with the client.

`partly_shared` is the ground of all methods that average some of a model's parameters only.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from seedbed import tree
from seedbed.data.types import Batch, Task
from seedbed.federated import Algorithm, Message, Params, Replies, ServerState
from seedbed.learning.adaptations import Moves, guarded_steps
from seedbed.learning.objectives import Adapt
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.parameter_subsets import inside_part, outside_part, part_named, refuse_no_parts
from seedbed.learning.training import Objective, TrainResult, train


def fedper(
    loss: Objective,
    *,
    head: str = "head",
    local: Optimizer = sgd(0.1),
    outer: Optimizer = sgd(1.0),
    test_steps: int = 10,
    test_lr: float = 0.1,
) -> Algorithm:
    """Body and head_i ← local steps on both together; body ← Σ n_i body_i / Σ n_i; head_i is client i's own.

    Args:
        head: the name of the head's module: its parameters are personal, never sent.
        test_steps: gradient steps of the head when a client adapts, from the head that it keeps; a client never seen
            has the initial one. The paper has known clients only: it is test_steps=0 for those.
        test_lr: their learning rate.
    """
    adapt = guarded_steps(loss, lr=test_lr, steps=test_steps, moves=inside_part(head))
    learn = partial(train, loss, local)
    return headed(
        head, partly_shared(learn, shared=outside_part(head), personal=inside_part(head), outer=outer, adapt=adapt)
    )


def partly_shared(
    learn: Callable[[Params, Task], TrainResult], *, shared: Moves, personal: Moves, outer: Optimizer, adapt: Adapt
) -> Algorithm:
    """FedAvg of the shared parameters; the personal ones stay with their client.

    The server's params are whole: what is not shared stays there as it began, which is what a client has when it is
    first seen, in whatever round. Parameters neither shared nor personal stay so everywhere.

    Args:
        learn: a client's training of the whole model in a round.
        outer: the server's optimiser, of the shared parameters.
        adapt: how a client makes the model, with its own parameters in it, fit its support set.
    """

    def init(params: Params) -> ServerState:
        params = tree.detach(params)
        return ServerState(params, outer.init(part_named(params, shared)))

    def client(sent: Params, own: Params, task: Task) -> tuple[Message, Params]:
        trained = learn({**sent, **own}, task)
        step = tree.sub(part_named(sent, shared), part_named(trained.params, shared))
        return Message(step, task.examples, {"loss": trained.loss}), part_named(trained.params, personal)

    def server(state: ServerState, replies: Replies) -> ServerState:
        moved, extra = outer.update(replies.value, state.extra, part_named(state.params, shared))
        return ServerState(state.params | moved, extra)

    def remember(sent: Params) -> Params:
        return part_named(sent, personal)

    def personalise(sent: Params, own: Params, support: Batch) -> Params:
        return adapt({**sent, **own}, support)

    return Algorithm(init, client, server, remember=remember, personalise=personalise)


def headed(head: str, algorithm: Algorithm) -> Algorithm:
    """The same algorithm, for models of a body and a head of this name: others are refused."""

    def init(params: Params) -> ServerState:
        refuse_no_parts(params, head)
        return algorithm.init(params)

    return replace(algorithm, init=init)
