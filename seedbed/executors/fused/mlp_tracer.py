"""Which models the fused kernel can train: those whose forward pass is linear layers with activations between them.

It is found out by watching one pass, so that it does not matter how the module is written.

Shapes: B examples, F numbers of an example.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from seedbed.learning.objectives import Predict
from seedbed.lowrank.factored_matrix import METADATA

NONE, RELU, TANH = range(3)  # as the kernel numbers them
ACTIVATIONS: dict[Any, int] = {
    **dict.fromkeys((torch.relu, F.relu, Tensor.relu), RELU),
    **dict.fromkeys((torch.tanh, Tensor.tanh), TANH),
}
FLATTENING = (torch.flatten, Tensor.flatten, torch.reshape, Tensor.reshape, Tensor.view)


class DenseLayer(NamedTuple):
    """A linear layer and what follows it."""

    weight: str  # the name of a parameter [n_out, n_in]
    bias: str | None
    inputs: int
    outputs: int
    activation: int


class NotAnMLP(Exception):
    """A model is no multilayer perceptron; why."""


def trace_mlp(
    predict: Predict, shapes: Mapping[str, torch.Size], example: torch.Size, dtype: torch.dtype
) -> list[DenseLayer]:
    """The layers of a model, by one forward pass on zeros.

    Args:
        shapes: of its parameters.
        example: the shape of one example.
    Raises:
        Unlike: it does something else.
    """
    params = {name: torch.zeros(shape, dtype=dtype) for name, shape in shapes.items()}
    x = torch.zeros(2, *example, dtype=dtype)
    watching = _Watching(x, params)
    with torch.no_grad():
        predict(params, x)  # what a model makes for itself at its first use is no part of a pass
        with watching:
            end = predict(params, x)
    if end is not watching.now or not watching.layers:
        raise NotAnMLP("the model does not end in a linear layer")
    if watching.layers[-1].activation != NONE:
        raise NotAnMLP("an activation follows the last linear layer")
    used = {name for layer in watching.layers for name in (layer.weight, layer.bias)}
    left = [name for name in params if name not in used]
    if left:
        raise NotAnMLP(f"parameter {left[0]} belongs to no linear layer")
    return watching.layers


class _Watching(TorchFunctionMode):
    def __init__(self, x: Tensor, params: Mapping[str, Tensor]):
        super().__init__()
        self.now, self.layers = x, list[DenseLayer]()
        self.names = {id(p): name for name, p in params.items()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in METADATA or not isinstance(found, Tensor):
            return found
        if not args or args[0] is not self.now:
            raise NotAnMLP(f"it computes {_named(func)} beside its layers")
        if func is F.linear and found.dtype == self.now.dtype:
            self._layer(*args, **(kwargs or {}))
        elif func in ACTIVATIONS and self.layers and self.layers[-1].activation == NONE:
            self.layers[-1] = self.layers[-1]._replace(activation=ACTIVATIONS[func])
        elif found.dtype != self.now.dtype:
            raise NotAnMLP("it computes in another precision")
        elif not (func in FLATTENING and found.shape == self.now.flatten(1).shape):
            raise NotAnMLP(f"it computes {_named(func)}")
        self.now = found
        return found

    def _layer(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
        names = [None if p is None else self.names.get(id(p)) for p in (weight, bias)]
        used = {name for layer in self.layers for name in (layer.weight, layer.bias)}
        if names[0] is None or (bias is not None and names[1] is None) or used & ({*names} - {None}) or x.ndim != 2:
            raise NotAnMLP("a linear layer's weights are not parameters of its own")
        outputs, inputs = weight.shape
        self.layers.append(DenseLayer(names[0], names[1], inputs, outputs, NONE))


def _named(func: Any) -> str:
    return str(getattr(func, "__name__", func))
