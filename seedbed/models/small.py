"""Small models that work on every engine. Each ends in a linear layer named `head`.

Shapes: B examples, C channels, H and W pixels.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from seedbed.errors import InputError
from seedbed.models.normalisation import BatchNorm

Norm = Literal["group", "batch"]


class WithHead(nn.Module):
    """A body, flattened, then a linear head."""

    def __init__(self, body: nn.Module, width: int, outputs: int):
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> [B, outputs]."""
        output: Tensor = self.head(self.body(x).flatten(1))
        return output


def mlp(
    shape: Sequence[int] | int,
    outputs: int,
    *,
    hidden: Sequence[int] | int = (64,),
    activation: type[nn.Module] = nn.ReLU,
    norm: Norm | None = None,
) -> WithHead:
    """A multilayer perceptron over inputs of this shape, flattened; no hidden layer makes it linear.

    Args:
        shape: of an input; a whole number for inputs of so many numbers.
        norm: batch: `BatchNorm` before every activation; group or None: no normalisation.
    """
    sizes = [math.prod(_shape("mlp", shape)), *_widths(hidden)]
    layers: list[Any] = [nn.Flatten()]
    for i, o in pairwise(sizes):
        layers += [nn.Linear(i, o), *([BatchNorm(o)] if norm == "batch" else []), activation()]
    return WithHead(nn.Sequential(*layers), sizes[-1], outputs)


def conv(shape: Sequence[int], outputs: int, *, channels: int = 48, norm: Norm = "group") -> WithHead:
    """Four convolutions with normalisation, for images [C, H, W]; from 16 pixels on the first has stride 2.

    Half the channels in the first layer; pooling before the normalisation, which is cheaper and no worse.

    Args:
        norm: group: nn.GroupNorm; batch: `BatchNorm`, for fedbn.
    """
    if len(_shape("conv", shape)) != 3:
        raise InputError(f"conv takes images of [channels, height, width], not {shape!r}: use mlp for other inputs")
    small = min(shape[1:]) < 16
    first = max(8, channels // 2)
    body = nn.Sequential(
        _layer(shape[0], first, kernel=3 if small else 5, stride=1 if small else 2, norm=norm),
        _layer(first, channels, pool=True, norm=norm),
        _layer(channels, channels, pool=not small, norm=norm),
        _layer(channels, channels, norm=norm),
    )
    with torch.no_grad():
        width = body(torch.zeros(1, *shape)).numel()
    return WithHead(body, width, outputs)


def _shape(model: str, shape: Any) -> tuple[int, ...]:
    """A shape as a tuple of whole numbers."""
    found = (shape,) if isinstance(shape, int) else shape
    if not isinstance(found, Sequence) or isinstance(found, str) or not all(isinstance(n, int) for n in found):
        raise InputError(f"{model} takes the shape of an input, such as (4,) or (1, 28, 28), not {shape!r}")
    return tuple(found)


def _widths(hidden: Any) -> tuple[int, ...]:
    """Sizes of hidden layers; a whole number is that of one."""
    return (hidden,) if isinstance(hidden, int) else tuple(hidden)


def _layer(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, pool: bool = False, norm: Norm) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.MaxPool2d(2) if pool else nn.Identity(),
        BatchNorm(outputs) if norm == "batch" else nn.GroupNorm(math.gcd(8, outputs), outputs),
        nn.ReLU(),
    )
