"""Many classes, few examples of each: prototypes under a prior over clients, on the features of a trained start.

A two-level Gaussian model (Lindley and Smith, "Bayes estimates for the linear model", JRSS B 1972), learned from sums.
"""

import torch
from torch import Tensor

from seedbed import tree
from seedbed.algorithms.fed_eb import whole
from seedbed.data.types import Batch, Task
from seedbed.federated import Algorithm, ClientId, Message, Params, Replies, ServerState
from seedbed.learning.gaussian_head import ClassPrior, ClassSums, linear_head, prototypes, update_classes
from seedbed.learning.heads import one_hot
from seedbed.learning.objectives import Predict
from seedbed.learning.passes import predictions
from seedbed.tree import Tree


def fed_gaussian_head(features: Predict, *, ways: int, head: str = "head", start: float = 0.1) -> Algorithm:
    """c_k ~ N(μ_k, T), f ~ N(c_k, S): μ, T, S ← fixed point of clients' sums; a client's head is its posterior c_k.

    The start stays as it is; its head is replaced. Every client counts the same; a label means the same for all.

    Args:
        features: (params, x [B, ...]) -> [B, F], what the head sees.
        ways: K, classes in all.
        start: T of the first round, where S is 1 and μ is 0.
    """

    def init(params: Params) -> ServerState:
        params = tree.detach(params)
        mean = params[f"{head}.weight"].new_zeros(ways, params[f"{head}.weight"].shape[1], dtype=torch.float64)
        return ServerState(params, ClassPrior(mean, torch.full_like(mean[0], start), torch.ones_like(mean[0])))

    def send(state: ServerState, client: ClientId) -> ServerState:
        return state

    def inferred(sent: ServerState, batch: Batch) -> tuple[Tensor, ClassSums]:
        hot = one_hot(batch.y, ways, torch.float64) * batch.mask[:, None].double()
        return prototypes(predictions(features, sent.params, batch, trains=False).double(), hot, sent.extra)

    def client(sent: ServerState, kept: Tree, task: Task) -> tuple[Message, Tree]:
        return Message(inferred(sent, whole(task))[1], torch.ones_like(task.examples), {}), kept

    def server(state: ServerState, replies: Replies) -> ServerState:
        return ServerState(state.params, update_classes(state.extra, replies.value))

    def personalise(sent: ServerState, kept: Tree, support: Batch) -> Params:
        c, _ = inferred(sent, support)
        weight, bias = linear_head(torch.where(c.isfinite().all(), c, sent.extra.mean), sent.extra)
        like = sent.params[f"{head}.weight"]
        return {**sent.params, f"{head}.weight": weight.to(like), f"{head}.bias": bias.to(like)}

    return Algorithm(init, client, server, send=send, personalise=personalise)
