"""What the catalogue says of an algorithm."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from seedbed.federated import Algorithm

Items = Literal["batches", "full", "episodes", "noisy_episodes", "episode_batches", "triples"]


class Axes(NamedTuple):
    """The choices that make an algorithm: every one in the catalogue is a point of its own. The defaults are FedAvg's.

    Attributes:
        objective: what a client minimises, or how it estimates the gradient.
        adapt: from a support set to a model: within a meta-objective, and when a client adapts.
        loop: a client's steps in a round, and on which parameters.
        payload: what a message holds.
        weight: how much a message counts: n (the client's examples) or 1.
        combiner: how messages become one.
        server: the server's step.
        kept: what a client keeps between rounds.
    """

    objective: str = "plain"
    adapt: str = "fine-tuning"
    loop: str = "a step an item"
    payload: str = "Δ"
    weight: str = "n"
    combiner: str = "mean"
    server: str = "any optimiser, SGD 1"
    kept: str = "–"


@dataclass(frozen=True)
class Entry:
    """An algorithm as it can be asked for.

    Attributes:
        factory: what makes it, from built objects.
        items: what its clients work on: mini-batches, the whole client as one batch, episodes (noisy ones have random
            numbers beside them), mini-batches of one episode, or triples.
        paper: where it is from.
        oracle: the file in tests/oracles that proves it.
        axes: where it stands among the others.
        number: the heading of docs/results.md under which its published number is reproduced; None: not yet.
        finetunes: its clients adapt by gradient steps; which layers, rates and numbers of steps is then chosen on
            validation clients, for it as for its rivals (unless `test_steps` is set).
        pooled: it runs on everybody's data in one place.
    """

    factory: Callable[..., Algorithm]
    items: Items
    paper: str
    oracle: str
    axes: Axes
    number: str | None = None
    finetunes: bool = False
    pooled: bool = False

    @property
    def equation(self) -> str:
        """What it computes, in one line: the first paragraph of the factory's docstring."""
        return " ".join((inspect.getdoc(self.factory) or "").split("\n\n")[0].split())

    def tuned(self, options: Mapping[str, Any]) -> bool:
        """Whether how its clients adapt is chosen on validation clients under these options."""
        return self.finetunes and "test_steps" not in options

    def items_for(self, options: Mapping[str, Any]) -> Items:
        """What clients work on under these options: Per-FedAvg's estimate of three batches takes triples, a generator
        that draws takes noise."""
        if options.get("gaussian"):
            return "noisy_episodes"
        return "triples" if options.get("batches") == 3 else self.items
