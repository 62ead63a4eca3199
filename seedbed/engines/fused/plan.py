"""What training clients of a perceptron takes, beside the numbers."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from seedbed.engines.fused.perceptron import Dense


class Plan(NamedTuple):
    """How clients train."""

    layers: Sequence[Dense]
    lr: float
    momentum: float
    nesterov: bool
    decay: float
    pull: float | None  # None: none
    workers: int  # threads
    run: Callable[..., Iterable[Any]]  # map, or the same in these threads
    compiled: bool  # by the kernel, or in PyTorch's batched products
    looks: bool  # at numbers, to pass by what is not real: a GPU would be waited for

    @property
    def leaves(self) -> int:
        """How many parameters the model has: weights and biases."""
        return sum(1 + (layer.bias is not None) for layer in self.layers)
