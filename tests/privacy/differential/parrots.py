"""An algorithm whose clients say what they are told to, for tests of what privacy makes of it."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from seedbed import tree
from seedbed.federated import Algorithm, Message, MessageBatch, Replies, ServerState
from seedbed.privacy.differential import Adaptive, Independent, Noise, with_privacy
from seedbed.rounds.synchronous import gather
from seedbed.tree import Tree

KEY = Noise(bytes(range(32)))


def told(sent: Tree, kept: Tree, task: Any) -> tuple[Message, Tree]:
    """The task is what the client says, and how much it claims to count."""
    value, weight = task
    return Message(value, torch.as_tensor(weight, dtype=torch.float64), {"loss": torch.tensor(1.0)}), kept


def step(state: ServerState, replies: Replies) -> ServerState:
    return state._replace(params=tree.add(state.params, replies.value), extra={"replies": replies.weights.sum()})


def parrots(like: Tree) -> Algorithm:
    return Algorithm(lambda params: ServerState(params, {"replies": torch.tensor(0.0)}), told, step)


def quiet(like: Tree, clip: float | Adaptive, *, z: float = 0.0, expected: int = 2, population: int = 8) -> Algorithm:
    return with_privacy(parrots(like), Independent(KEY, z, expected, population), clip=clip)


def summed(algorithm: Algorithm, state: ServerState, says: Sequence[tuple[Tree, float]], groups: int = 1) -> Replies:
    """The replies of clients that say this, in so many groups; the mean times their number is the sum."""
    sent = algorithm.send(state, 0)
    messages = [algorithm.client(sent, {}, said)[0] for said in says]
    size = math.ceil(len(messages) / groups)
    parts = [messages[i : i + size] for i in range(0, len(messages), size)]
    stacked = [MessageBatch(range(i * size, i * size + len(p)), tree.stack(p)) for i, p in enumerate(parts)]
    return gather(algorithm, stacked, 8)
