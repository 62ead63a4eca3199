"""What training clients of a perceptron takes, beside the numbers."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from seedbed.executors.fused.mlp_tracer import DenseLayer


class FusedSpec(NamedTuple):
    """How clients train."""

    layers: Sequence[DenseLayer]
    lr: float
    momentum: float
    nesterov: bool
    decay: float
    pull: float | None  # None: none
    workers: int  # threads
    run: Callable[..., Iterable[Any]]  # map, or the same in these threads
    by: "OptimizerSpec"  # what computes: `by_kernel`, `by_products` or `by_blocks`
    looks: bool  # at numbers, to pass by what is not real: a GPU would be waited for

    @property
    def leaves(self) -> int:
        """How many parameters the model has: weights and biases."""
        return sum(1 + (layer.bias is not None) for layer in self.layers)


OptimizerSpec = Callable[[FusedSpec, Sequence[Tensor], Sequence[bool]], list[Tensor]]
