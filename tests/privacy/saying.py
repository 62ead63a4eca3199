"""An engine whose clients say what they are told to, and an algorithm that takes one step along their mean."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from seedbed import tree
from seedbed.federated import Algorithm, ClientId, Message, MessageBatch, Replies, ServerState
from seedbed.tree import Tree


class Saying:
    """Client c says says[c] [D], with its weight and loss, in groups of two."""

    def __init__(self, says: Tensor, weights: Sequence[float] | None = None, losses: Sequence[float] | None = None):
        self.says, self.population = says, range(len(says))
        self.weights = [1.0] * len(says) if weights is None else weights
        self.losses = [0.5] * len(says) if losses is None else losses

    def ask(self, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int) -> Iterator[MessageBatch]:
        asked = list(sent)
        for some in (asked[i : i + 2] for i in range(0, len(asked), 2)):
            yield MessageBatch(some, tree.stack([self.message(c) for c in some]))

    def message(self, client: ClientId) -> Message:
        says, weight = self.says[client], torch.tensor(self.weights[client], dtype=torch.float64)
        return Message({"w": says[1:], "b": says[:1]}, weight, {"loss": torch.tensor(self.losses[client])})

    def memory(self) -> dict[ClientId, Any]:
        return {}

    def recall(self, memory: Mapping[ClientId, Tree]) -> None:
        """Nothing is kept."""

    def evaluate(self, *arguments: Any) -> Any:
        raise AssertionError("nobody is judged here")


def steps(**settings: Any) -> Algorithm:
    """θ ← θ − what the messages are reduced to."""

    def server(state: ServerState, replies: Replies) -> ServerState:
        return state._replace(params=tree.sub(state.params, replies.value))

    return Algorithm(lambda params: ServerState(params, {}), lambda *_: None, server, **settings)  # type: ignore[arg-type, return-value]


def start(size: int) -> ServerState:
    return ServerState({"w": torch.zeros(size - 1, dtype=torch.float64), "b": torch.zeros(1, dtype=torch.float64)}, {})
