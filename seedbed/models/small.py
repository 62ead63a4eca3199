"""Small models that work on every engine. Each ends in a linear layer named `head`."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class WithHead(nn.Module):
    """A body, flattened, then a linear head."""

    def __init__(self, body: nn.Module, width: int, outputs: int):
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.body(x).flatten(1))
        return output


def mlp(shape: Sequence[int], outputs: int, *, hidden: Sequence[int] = (64,), activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    """A multilayer perceptron over inputs of this shape, flattened; no hidden layer makes it linear."""
    sizes = [math.prod(shape), *hidden]
    layers: list[Any] = [nn.Flatten()]
    for i, o in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(i, o), activation()]
    return WithHead(nn.Sequential(*layers), sizes[-1], outputs)
