"""Wrap any algorithm: learning rates that follow the round, or that each client has of its own.

Warm-up, cosine and exponential decay over rounds (Reddi et al., ICLR 2021, arXiv 2003.00295, use the last:
.998 a round is usual in personalised federated learning).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from seedbed import tree
from seedbed.data.types import Batch, Task
from seedbed.federated import Algorithm, ClientId, Message, Params, Replies, ServerState
from seedbed.learning.optimizers import Optimizer, Schedule, scale_steps
from seedbed.tree import Tree

Make = Callable[[Mapping[str, Optimizer]], Algorithm]


def with_local_rates(
    make: Make,
    optimizers: Mapping[str, Optimizer],
    *,
    over_rounds: Mapping[str, Schedule] = {},
    of_clients: Mapping[ClientId, float] = {},
) -> Algorithm:
    """η_i,t = η·s(t)·f_i in round t from 0 on client i, for the optimisers that are made afresh in each round.

    The server counts its steps and sends a client its factors; what it sends is otherwise the algorithm's own.

    Args:
        make: builds the algorithm from its local optimisers, by their names in its factory.
        optimizers: these, with their rates η.
        over_rounds: s by optimiser; none: 1.
        of_clients: f_i, of all its optimisers; none: 1.
    """
    base = make(optimizers)

    def init(params: Params) -> ServerState:
        begun = base.init(params)
        rounds = tree.leaves(begun.params)[0].new_zeros(())
        return ServerState(begun.params, {"base": begun.extra, "rounds": rounds})

    def send(state: ServerState, client: ClientId) -> ServerState:
        sent, rounds, own = base.send(_inner(state), client), state.extra["rounds"], of_clients.get(client, 1.0)
        factors = {name: own * over_rounds[name](rounds) if name in over_rounds else rounds * 0 + own
                   for name in optimizers}  # fmt: skip
        if isinstance(sent, ServerState):
            return ServerState(sent.params, {"base": sent.extra, "factors": factors})
        return ServerState(sent, {"factors": factors})

    def client(sent: ServerState, kept: Tree, task: Task) -> tuple[Message, Tree]:
        factors: Mapping[str, Tensor] = sent.extra["factors"]
        scaled = {name: scale_steps(optimizer, factors[name]) for name, optimizer in optimizers.items()}
        return make(scaled).client(_unwrapped(sent), kept, task)

    def server(state: ServerState, replies: Replies) -> ServerState:
        after = base.server(_inner(state), replies)
        return ServerState(after.params, {"base": after.extra, "rounds": state.extra["rounds"] + 1})

    def personalise(sent: ServerState, kept: Tree, support: Batch) -> Params:
        return base.personalise(_unwrapped(sent), kept, support)

    return replace(
        base,
        init=init,
        send=send,
        client=client,
        server=server,
        remember=lambda sent: base.remember(_unwrapped(sent)),
        personalise=personalise,
    )


def _inner(state: ServerState) -> ServerState:
    return ServerState(state.params, state.extra["base"])


def _unwrapped(sent: ServerState) -> Tree:
    """What the algorithm itself sent: its params, or its state."""
    return ServerState(sent.params, sent.extra["base"]) if "base" in sent.extra else sent.params
