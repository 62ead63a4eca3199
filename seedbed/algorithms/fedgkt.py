"""FedGKT: He, Annavaram and Avestimehr, "Group knowledge transfer: federated learning of large CNNs at the edge",
NeurIPS 2020, arXiv 2007.14513, Algorithm 1: small nets on the clients, a large one on the server that learns from their
features, and both from each other's predictions.

Privacy: the features, labels and logits of a client's every example leave it, one by one. Features of a small net can
be turned back into inputs, and labels are given away as they are: this is no method for data that must stay at home.
Its reducer is `each`, so that secure aggregation cannot hide what one client sends.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from seedbed import tree
from seedbed.aggregation.no_reduce import no_reduce
from seedbed.data.types import Batch, Task
from seedbed.federated import Algorithm, Message, Params, Replies, ServerState
from seedbed.learning.adaptations import unadapted
from seedbed.learning.distillation import divergence
from seedbed.learning.objectives import Adapt, Loss, Predict, cross_entropy, masked_mean
from seedbed.learning.optimizers import Optimizer, adam, sgd
from seedbed.learning.parameter_subsets import inside_part, part_named
from seedbed.learning.passes import predictions
from seedbed.learning.training import train


class Uploaded(NamedTuple):
    """A batch as the server sees it."""

    features: Tensor  # [B, F]
    y: Tensor  # [B]
    mask: Tensor  # [B]
    logits: Tensor  # [B, N]  of the client's own head


def fedgkt(
    extract: Predict,
    exit: Predict,
    tail: Predict,
    *,
    temperature: float = 1.0,
    local: Optimizer = sgd(0.1),
    outer: Optimizer = adam(1e-3),
    server_epochs: int = 1,
    task_loss: Loss = cross_entropy,
    adapt: Adapt = unadapted,
) -> Algorithm:
    """θ_i ← steps on CE + T²·KL(p_server ‖ p_client);  tail ← steps on CE + T²·KL(p_client ‖ p_server) of features.

    A client's net is extract and exit, its own for good; the model of a client is extract and the server's tail.

    Departure: the server's logits are computed where the examples are: a client is sent the tail, instead of the
    logits of its examples. The numbers are the paper's, tail(features under the extractor as last uploaded), but the
    bytes and the client's memory are not: batches are drawn afresh each round, so that logits of the last round's would
    be of other examples. In the first round there are none: the server has learnt nothing yet.

    Args:
        extract: (params, x [B, ...]) -> features [B, F]; its parameters and exit's are named edge.*
        exit: (params, features) -> logits [B, N], the small net's own.
        tail: (params, features) -> logits [B, N], the large net's; its parameters are named tail.*
        temperature: T > 0 of both divergences.
        local: of extract and exit, made afresh each round.
        outer: of the tail, a step for every uploaded batch, client after client; its state goes on.
        server_epochs: passes of the server over what was uploaded in a round.
        adapt: how a client makes extract and tail its own, from its own extractor, or for a client that is new from
            the initial one: the paper has known clients only.
    """
    apart = divergence(temperature)

    def init(params: Params) -> ServerState:
        params = tree.detach(params)
        large = part_named(params, inside_part("tail"))
        return ServerState(params, {"outer": outer.init(large), "taught": tree.leaves(large)[0].new_zeros(())})

    def send(state: ServerState, client: int) -> ServerState:
        return ServerState(state.params, {"taught": state.extra["taught"]})

    def remember(sent: ServerState) -> Params:
        return part_named(sent.params, inside_part("edge"))

    def client(sent: ServerState, edge: Params, task: Task) -> tuple[Message, Params]:
        def objective(params: Params, batch: Batch) -> Tensor:
            logits = exit(params, predictions(extract, params, batch))
            theirs = tail(sent.params, predictions(extract, edge, batch, trains=False)).detach()
            both = task_loss(logits, batch.y) + sent.extra["taught"] * apart(logits, theirs)
            return masked_mean(both, batch.mask)

        trained = train(objective, local, edge, task)
        uploaded = [uploads(trained.params, tree.index(task.items, k)) for k in range(len(task.real))]
        value = Task(tree.stack(uploaded), task.real, task.examples)
        return Message(value, task.examples, {"loss": trained.loss}), trained.params

    def uploads(edge: Params, batch: Batch) -> Uploaded:
        real = batch.mask[:, None] > 0
        features = predictions(extract, edge, batch, trains=False)
        return Uploaded(torch.where(real, features, 0), batch.y, batch.mask, torch.where(real, exit(edge, features), 0))

    def server(state: ServerState, replies: Replies) -> ServerState:
        large, moments = part_named(state.params, inside_part("tail")), state.extra["outer"]
        for _ in range(server_epochs):
            for c in range(len(replies.clients)):
                trained = train(learns, outer, large, tree.index(replies.value, c), state=moments)
                large, moments = trained.params, trained.state
        taught = torch.ones_like(state.extra["taught"])
        return ServerState({**state.params, **large}, {"outer": moments, "taught": taught})

    def learns(params: Params, batch: Uploaded) -> Tensor:
        logits = tail(params, batch.features)
        return masked_mean(task_loss(logits, batch.y) + apart(logits, batch.logits), batch.mask)

    def personalise(sent: ServerState, edge: Params, support: Batch) -> Params:
        return adapt({**sent.params, **edge}, support)

    return Algorithm(
        init, client, server, send=send, remember=remember, personalise=personalise, reduce=no_reduce, unlike=True
    )
