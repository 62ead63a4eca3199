"""FedMD: Li and Wang, "FedMD: heterogenous federated learning via model distillation", NeurIPS 2019 workshop, arXiv
1910.03581, Algorithm 1: clients of different architectures agree on the scores of public examples.
"""

import torch
from torch import Tensor

from seedbed import tree
from seedbed.algorithms.feddf import Assign, assign_architectures, own_architecture, refuse_unknown_architecture
from seedbed.data.types import Batch, Task
from seedbed.federated import Algorithm, Message, Params, Replies, ServerState
from seedbed.learning.adaptations import unadapted
from seedbed.learning.distillation import divergence, imitate_scores
from seedbed.learning.heads import one_hot
from seedbed.learning.objectives import Adapt, Predict
from seedbed.learning.optimizers import Optimizer, adam, sgd
from seedbed.learning.training import Objective, train

CERTAIN_LOGIT = 10.0  # the logit of a public label, others 0: a probability of .9996 among ten classes


def fedmd(
    loss: Objective,
    predict: Predict,
    *,
    public: Tensor,
    labels: Tensor | None = None,
    temperature: float = 1.0,
    local: Optimizer = sgd(0.1),
    digest: Optimizer = adam(1e-3),
    digest_steps: int = 20,
    digest_size: int = 64,
    adapt: Adapt = unadapted,
    assign: Assign = assign_architectures,
    newcomer: str | None = None,
) -> Algorithm:
    """Digest: θ_i ← steps towards the consensus z̄ on public d;  revisit: steps on L_i;  send z_i(d);  z̄ ← mean z_i.

    A client's model never leaves it. Params are {architecture: params}; `loss` and `predict` take {its name: params}.

    Departures: (1) all public examples are scored in every round, the paper draws some of them. (2) Scores are
    digested by T²·KL (the paper leaves the loss open). (3) The paper knows the clients that train only; for those that
    come later the server has a student of each architecture that digests the consensus too: it is what a client is sent
    and begins with, and what a client that has begun does not read.

    Args:
        public: inputs [P, ...], in a random order.
        labels: their classes [P], the paper's transfer learning: what there is to digest before the first consensus,
            in as many steps; None: nothing is.
        temperature: T of the digest.
        local: of the revisit, on the client's own batches.
        digest: its optimiser, made afresh each round; digest_steps steps of digest_size public examples.
        adapt: how a client makes a model its own: the one that it keeps, or the student that it is sent.
        newcomer: the architecture of a client never seen in training; None: the first. A run chooses it on validation
            clients.
    """

    apart = divergence(temperature)

    def digested(params: Params, extra: Params) -> Params:
        return imitate_scores(
            predict, digest, params, public, extra["consensus"],
            steps=digest_steps, size=digest_size, apart=apart, wanted=extra["agreed"],
        )  # fmt: skip

    def init(params: Params) -> ServerState:
        refuse_unknown_architecture(newcomer, params)
        first = next(iter(params))
        blank = torch.zeros_like(predict({first: params[first]}, public)).detach()  # [P, N]
        known = blank if labels is None else CERTAIN_LOGIT * one_hot(labels, blank.shape[1], blank.dtype)
        extra = {"consensus": known, "agreed": blank.new_full((), float(labels is not None))}
        return ServerState(tree.detach(params), extra)

    def client(sent: ServerState, own: Params, task: Task) -> tuple[Message, Params]:
        trained = train(loss, local, digested(own, sent.extra), task)
        scores = predict(trained.params, public)
        return Message(scores, torch.ones_like(task.examples), {"loss": trained.loss}), trained.params

    def server(state: ServerState, replies: Replies) -> ServerState:
        extra = {"consensus": replies.value, "agreed": torch.ones_like(state.extra["agreed"])}
        return ServerState({n: digested({n: p}, extra)[n] for n, p in state.params.items()}, extra)

    def personalise(sent: ServerState, own: Params, support: Batch) -> Params:
        return adapt(own, support)

    return Algorithm(
        init,
        client,
        server,
        send=own_architecture(assign, newcomer),
        remember=lambda s: s.params,
        personalise=personalise,
    )
