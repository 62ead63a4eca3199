"""Federated empirical Bayes: a start for all, and a prior of the clients' effects on its scores, learned from sums.

A mixed model (Laird and Ware, "Random-effects models for longitudinal data", Biometrics 1982) whose fixed part is any
trained start; the prior's update is MacKay's fixed point (Neural Computation 1992, section 4). A client sends 3R + 2
numbers for R effects: see `learning.empirical_bayes`.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from seedbed import tree
from seedbed.algorithms.fedavg import fedavg
from seedbed.data.types import Batch, Task
from seedbed.errors import InputError
from seedbed.federated import Algorithm, ClientId, Message, Params, Replies, ServerState, broadcast, uniform
from seedbed.learning.effects import (
    Columns,
    Effects,
    Likelihood,
    free_means,
    head_effects,
    likelihood,
    personal,
    rows_of,
    start_prior,
)
from seedbed.learning.empirical_bayes import Posterior, Rows, effects_of, sums_of, update
from seedbed.learning.objectives import Predict, Supervised
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.training import Objective
from seedbed.tree import Tree


def fed_eb(
    loss: Objective,
    predict: Predict,
    features: Predict,
    *,
    head: str = "head",
    columns: Columns = "bias",
    nodes: int = 1,
    start: float = 0.003,
    local: Optimizer = sgd(0.1),
    outer: Optimizer = sgd(1.0),
) -> Algorithm:
    """η = z + φᵀb, b ~ N(μ, diag τ²);  τ² ← τ²·Σ(d − d̄)²/Σ(1 − V_jj), d the mean of (b − μ)/τ;  θ by FedAvg.

    A client adapts to the posterior of its effects: in closed form for numbers, by Newton's method for classes. z is
    the score under θ as it was sent. Every client counts the same.

    Args:
        loss: `supervised(predict, squared_error)` of one number, or `supervised(predict, cross_entropy)`.
        features: what the head sees, [B, F].
        head: the name of the head's module.
        columns: bias: φ = 1. slopes: φ = (1, features), which for a linear model are its inputs.
        nodes: of the quadrature, for columns=bias and two classes; 1: Laplace's method.
        start: τ² of the first round, in units of the score; of numbers, the noise starts at 1.
        local: the optimiser of FedAvg for θ; with lr=0 the start stays as it is given.
        outer: the server's optimiser for θ.
    """
    if not isinstance(loss, Supervised):
        raise InputError(
            "fed_eb needs a loss of predictions: give supervised(predict, loss), with the loss of examples"
        )
    score = loss.loss

    def kind(params: Params) -> Likelihood:
        return likelihood(score, len(params[f"{head}.bias"]), nodes=nodes)

    base = uniform(fedavg(loss, local=local, outer=outer))
    return with_prior(base, predict, head_effects(features, columns, head=head), kind, start=start)


def frozen() -> Algorithm:
    """A start that stays as it is: clients send nothing."""

    def client(sent: Params, kept: Tree, task: Task) -> tuple[Message, Tree]:
        return Message({}, torch.ones_like(task.examples), {}), kept

    return Algorithm(lambda params: ServerState(tree.detach(params), {}), client, lambda state, replies: state)


def with_prior(
    base: Algorithm,
    predict: Predict,
    effects: Effects,
    kind: Callable[[Params], Likelihood],
    *,
    start: float = 0.003,
) -> Algorithm:
    """Any algorithm that broadcasts its params, with a prior of the clients' effects on the scores of those params.

    Args:
        base: what trains the start; `frozen()` for one that is trained.
        kind: how examples follow from scores, given the params.
        start: τ² of the first round.
    Raises:
        InputError: the base sends each client something of its own; or (in rounds) clients work on no plain batches.
    """
    if base.send is not broadcast:
        raise InputError(
            "with_prior needs a base that broadcasts its params: give frozen(), on a start that is trained"
        )

    def init(params: Params) -> ServerState:
        params, inner = base.init(params)
        return ServerState(params, {"base": inner, "prior": start_prior(effects, kind(params), params, start)})

    def send(state: ServerState, client: ClientId) -> ServerState:
        return ServerState(state.params, state.extra["prior"])

    def remember(sent: ServerState) -> Tree:
        return base.remember(sent.params)

    def inferred(sent: ServerState, batch: Batch) -> tuple[Rows, Posterior]:
        model = kind(sent.params)
        rows = rows_of(model, effects, predict, sent.params, batch)
        return rows, model.infer(rows, sent.extra)

    def client(sent: ServerState, kept: Tree, task: Task) -> tuple[Message, Tree]:
        rows, posterior = inferred(sent, whole(task))
        message, kept = base.client(sent.params, kept, task)
        value = {"base": message.value, "sums": sums_of(posterior, rows)}
        examples = rows.mask.sum()
        loss = -posterior.evidence / torch.where(examples == 0, 1.0, examples)
        return Message(value, torch.ones_like(message.weight), {**message.info, "loss": loss.to(message.weight)}), kept

    def server(state: ServerState, replies: Replies) -> ServerState:
        before = ServerState(state.params, state.extra["base"])
        after = base.server(before, replies._replace(value=replies.value["base"]))
        model, prior = kind(state.params), state.extra["prior"]
        prior = update(prior, replies.value["sums"], free_means(model, prior), numbers=model.numbers)
        return ServerState(after.params, {"base": after.extra, "prior": prior})

    def personalise(sent: ServerState, kept: Tree, support: Batch) -> Params:
        _, posterior = inferred(sent, support)
        return personal(effects, sent.params, *effects_of(posterior, sent.extra), sent.extra.noise)

    return replace(base, init=init, send=send, remember=remember, client=client, server=server, personalise=personalise)


def whole(task: Task) -> Batch:
    """A task's batches as one, in which each example counts once however often the task has it: [K, B] -> [KB]."""
    if not isinstance(task.items, Batch):
        raise InputError("fed_eb works on batches of a client's examples, not on episodes: give batches(...)")
    x, y, mask = task.items[:3]
    counts = mask * task.real[:, None]
    once = task.examples / counts.sum().clamp_min(1)
    return Batch(x.flatten(0, 1), y.flatten(0, 1), (once * counts).flatten())
