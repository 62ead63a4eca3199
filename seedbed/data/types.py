"""What a client works on. Shapes: K steps of a task, B examples of a batch.

Padding is part of the types, so that clients of any size can be stacked: `Batch.mask` says which examples are real,
`Task.real` which items are.
"""

from typing import Any, NamedTuple, NoReturn

from torch import Tensor

from seedbed.errors import InputError

Tree = Any
NO_KEY: Any = ()  # of a batch that a model only predicts


class WrongItem(InputError, AttributeError):
    """An algorithm asks an item for what its sampler does not give."""


class Batch(NamedTuple):
    """Some examples of one client."""

    x: Tensor  # [B, ...]
    y: Tensor  # [B] class numbers, or [B, ...] targets
    mask: Tensor  # [B]  1 = real example, 0 = padding
    key: Any = NO_KEY  # []  whole number from which a model that trains on it draws; the engine sets it

    def __getattr__(self, name: str) -> NoReturn:
        if name in ("support", "query", "curvature"):
            need = "three batches a step: sample triples(...)" if name == "curvature" else EPISODES_NEEDED
            raise WrongItem(f"the algorithm needs {need}; its tasks are plain batches")
        raise AttributeError(f"a Batch has no {name!r}")


class Episode(NamedTuple):
    """A support set to adapt to and a query set, disjoint from it, to be judged on."""

    support: Batch
    query: Batch

    def __getattr__(self, name: str) -> NoReturn:
        _refuse_item("an Episode", name)


class Triple(NamedTuple):
    """Per-FedAvg's three independent batches: D to adapt to, D' to be judged on, D'' for the curvature."""

    support: Batch
    query: Batch
    curvature: Batch

    def __getattr__(self, name: str) -> NoReturn:
        _refuse_item("a Triple", name)


EPISODES_NEEDED = "a support set and a query set: sample support_query(...) or episodes(...)"


def _refuse_item(kind: str, name: str) -> NoReturn:
    if name in Batch._fields:
        raise WrongItem("the algorithm trains on batches: sample batches(...); its tasks are episodes")
    if name == "curvature":
        raise WrongItem("the algorithm needs three batches a step: sample triples(...); its tasks are episodes")
    raise AttributeError(f"{kind} has no {name!r}")


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
