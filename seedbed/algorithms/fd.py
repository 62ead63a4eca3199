"""FD, federated distillation: Jeong, Oh, Kim, Park, Bennis and Kim, "Communication-efficient on-device machine
learning: federated distillation and augmentation under non-IID private data", 2018, arXiv 1811.11479, Algorithm 1.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from seedbed import tree
from seedbed.algorithms.feddf import Assign, assign_architectures, own_architecture, refuse_unknown_architecture
from seedbed.data.types import Batch, Task
from seedbed.federated import Algorithm, Message, Params, Replies, ServerState
from seedbed.learning.adaptations import guarded_steps
from seedbed.learning.distillation import divergence, imitation
from seedbed.learning.heads import one_hot
from seedbed.learning.objectives import Predict
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.passes import predictions
from seedbed.learning.training import Item, Objective, fold, train
from seedbed.tree import Tree


class LogitTable(NamedTuple):
    """Mean logits by label."""

    scores: Tensor  # [N, N]  a row for each label; on the server the sum over clients
    has: Tensor  # [N]  1 where there is an example of the label; on the server how many clients have one


class FDState(NamedTuple):
    """What a client keeps."""

    params: Params
    said: LogitTable  # in the last round that it took part in
    version: Tensor  # []  of the server's table that `said` went into; −1: of none


def fd(
    loss: Objective,
    predict: Predict,
    *,
    ways: int,
    gamma: float = 1.0,
    temperature: float = 1.0,
    local: Optimizer = sgd(0.1),
    test_steps: int = 100,
    test_lr: float = 0.1,
    assign: Assign = assign_architectures,
    newcomer: str | None = None,
) -> Algorithm:
    """θ_i ← local steps on L_i + γ·T²·KL(σ(ẑ_y/T) ‖ σ(z/T));  ẑ_y = mean of z̄_jy over the other clients j ≠ i.

    z̄_jy are the mean logits of client j's examples of label y: N·(N + 1) numbers a client and round, whatever the size
    of its model. The server adds them up and a client takes its own out of the sum, so that sums are all that the
    server needs. A label that no other client had in the last round has no teacher.

    Departures: (1) z̄ is of the model at the end of a round; in the paper it gathers while the model moves. (2) KL,
    whose gradient is that of the paper's cross-entropy between the two. (3) The paper knows the clients that train
    only; one that comes later begins with the initial model, which is why that is sent too, and adapts by steps on the
    same loss. (4) Architectures may differ, as nothing of a model is shared: params are {architecture: params}.

    Args:
        ways: labels, and logits, of the model (N). They must mean the same for all clients.
        gamma: γ ≥ 0; 0: local training.
        temperature: T > 0.
        test_steps, test_lr: of the steps when a client adapts, from the model that it keeps or the initial one.
        newcomer: the architecture of a client never seen in training; None: the first. A run chooses it on validation
            clients.
    """

    apart = divergence(temperature)

    def init(params: Params) -> ServerState:
        refuse_unknown_architecture(newcomer, params)
        like = tree.leaves(params)[0]
        table = LogitTable(like.new_zeros(ways, ways), like.new_zeros(ways))
        return ServerState(tree.detach(params), {"table": table, "version": like.new_zeros(())})

    def remember(sent: ServerState) -> FDState:
        return FDState(sent.params, tree.zeros_like(sent.extra["table"]), sent.extra["version"] * 0 - 1)

    def objective(sent: ServerState, own: FDState) -> Objective:
        counted = (own.version == sent.extra["version"]).to(own.version.dtype)
        others = tree.axpy(-counted, own.said, sent.extra["table"])
        teacher = others.scores / others.has.clamp_min(1)[:, None]  # [N, N]

        def teach(batch: Batch) -> Batch:
            known = (others.has > 0.5).to(batch.mask.dtype)
            return batch._replace(y=teacher[batch.y], mask=batch.mask * known[batch.y])

        imitate = imitation(predict, teach, apart)
        return lambda params, batch: loss(params, batch) + gamma * imitate(params, batch)

    def client(sent: ServerState, own: FDState, task: Task) -> tuple[Message, FDState]:
        trained = train(objective(sent, own), local, own.params, task)
        said = by_label(predict, trained.params, task, ways)
        after = FDState(trained.params, said, sent.extra["version"] + 1)
        return Message(said, torch.ones_like(task.examples), {"loss": trained.loss}), after

    def server(state: ServerState, replies: Replies) -> ServerState:
        table = tree.scale(len(replies.clients), replies.value)
        return state._replace(extra={"table": table, "version": state.extra["version"] + 1})

    def personalise(sent: ServerState, own: FDState, support: Batch) -> Params:
        return guarded_steps(objective(sent, own), lr=test_lr, steps=test_steps)(own.params, support)

    return Algorithm(
        init, client, server, send=own_architecture(assign, newcomer), remember=remember, personalise=personalise
    )


def by_label(predict: Predict, params: Params, task: Task, ways: int) -> LogitTable:
    """The mean logits of a task's real examples of each label, 0 for a label without any."""

    def add(sums: Tree, item: Item) -> Tree:
        of_label = one_hot(item.y, ways, item.mask.dtype) * item.mask[:, None]  # [B, N]
        # A masked row may hold anything, so that its logits are cut off, not only multiplied by 0.
        logits = torch.where(item.mask[:, None] > 0, predictions(predict, params, item, trains=False), 0)
        return sums[0] + of_label.T @ logits, sums[1] + of_label.sum(0)

    blank = task.examples.new_zeros(ways)
    sums, counts = fold(add, (blank[:, None] * blank, blank), task)
    return LogitTable(sums / counts.clamp_min(1)[:, None], (counts > 0).to(counts.dtype))
