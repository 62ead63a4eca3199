"""A net in two: a small one on the client, and a large one on the server that goes on from its features.

Shapes: B examples, F features, N classes.
"""

from torch import Tensor, nn

from seedbed.models.model import Model, Params
from seedbed.models.small import WithHead


class SplitNet(nn.Module):
    """`edge` has a head of its own; `tail` takes its features."""

    def __init__(self, edge: WithHead, tail: WithHead):
        super().__init__()
        self.edge, self.tail = edge, tail

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> [B, N] by the edge's body and the tail."""
        output: Tensor = self.tail(self.edge.body(x).flatten(1))
        return output


class SplitHalves:
    """The three functions that a split net has, of the params of the whole (edge.*, tail.*)."""

    def __init__(self, module: SplitNet):
        self._edge, self._tail = Model(module.edge, head="head"), Model(module.tail, head="head")

    def extract(self, params: Params, x: Tensor) -> Tensor:
        """[B, ...] -> [B, F]."""
        return self._edge.features(_of("edge", params), x)

    def exit(self, params: Params, features: Tensor) -> Tensor:
        """The edge's own logits: [B, F] -> [B, N]."""
        return features @ params["edge.head.weight"].T + params["edge.head.bias"]

    def tail(self, params: Params, features: Tensor) -> Tensor:
        """The server's logits: [B, F] -> [B, N]."""
        return self._tail.predict(_of("tail", params), features)


def _of(part: str, params: Params) -> Params:
    return {n.removeprefix(f"{part}."): p for n, p in params.items() if n.startswith(f"{part}.")}
