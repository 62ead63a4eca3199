"""What a client works on. Shapes: K steps of a task, B examples of a batch.

Padding is part of the types, so that clients of any size can be stacked: `Batch.mask` says which examples are real,
`Task.real` which items are.
"""

from typing import Any, NamedTuple

from torch import Tensor

Tree = Any


class Batch(NamedTuple):
    """Some examples of one client."""

    x: Tensor  # [B, ...]
    y: Tensor  # [B] class numbers, or [B, ...] targets
    mask: Tensor  # [B]  1 = real example, 0 = padding


class Episode(NamedTuple):
    """A support set to adapt to and a query set, disjoint from it, to be judged on."""

    support: Batch
    query: Batch


class Triple(NamedTuple):
    """Per-FedAvg's three independent batches: D to adapt to, D' to be judged on, D'' for the curvature."""

    support: Batch
    query: Batch
    curvature: Batch


class NoisyBatch(NamedTuple):
    """An episode, and what a model that draws at random draws on it."""

    support: Batch
    query: Batch
    noise: Tensor  # [Z]  standard normal numbers


class Task(NamedTuple):
    """What one client works on in one round."""

    items: Tree  # K batches, episodes, noisy ones or triples, stacked: leaves [K, ...]
    real: Tensor  # [K]  1 = real item, 0 = padding
    examples: Tensor  # []  how many real examples: the paper's n_k

    @property
    def steps(self) -> Tensor:
        """How many items are real: []."""
        return self.real.sum()
