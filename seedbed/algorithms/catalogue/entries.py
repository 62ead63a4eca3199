"""What the catalogue says of an algorithm."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from seedbed.federated import Algorithm
from seedbed.learning.optimizers import Optimizer

Items = Literal["batches", "full", "episodes", "noisy_episodes", "episode_batches", "triples"]
ScheduleName = Literal["synchronous", "asynchronous", "gossip"]


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
class CatalogueEntry:
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
        rounds: the schedules that it makes sense on, its own first. Without gossip: its server needs more than one
            peer's message.
        pushes: along directed links its peers count what they are pushed (push-sum).
        classes: it needs classes; no regression.
        normalises: its clients keep the statistics of batch normalisation, so that models may have it.
        same_labels: a label must mean the same for all its clients, so that a client is a task.
        each_message: its server needs each client's message, so that a sum of them is of no use to it.
        like_params: its messages have the structure of the params that clients are sent.
        everyone: all clients take part in each round by default, because its server's step is of the sum over all.
        needs_mean: why its server needs the mean of all messages, so that no robust rule can replace it; empty: a rule
            can.
        tunes: the learning rates that `tune` chooses, all by one factor; (): the optimisers of clients, or if there is
            none, that of the server.
    """

    factory: Callable[..., Algorithm]
    items: Items
    paper: str
    oracle: str
    axes: Axes
    number: str | None = None
    finetunes: bool = False
    pooled: bool = False
    rounds: tuple[ScheduleName, ...] = ("synchronous", "asynchronous", "gossip")
    pushes: bool = False
    classes: bool = False
    normalises: bool = False
    same_labels: bool = False
    each_message: bool = False
    like_params: bool = True
    everyone: bool = False
    needs_mean: str = ""

    def takes(self, name: str) -> bool:
        """Whether the factory has an argument of this name: public inputs, a teacher, an assignment, ..."""
        return name in inspect.signature(self.factory).parameters

    tunes: tuple[str, ...] = ()

    @property
    def equation(self) -> str:
        """What it computes, in one line: the first paragraph of the factory's docstring."""
        return " ".join((inspect.getdoc(self.factory) or "").split("\n\n")[0].split())

    @property
    def rates(self) -> tuple[str, ...]:
        """The settings that `tune` chooses."""
        optimizers = [n for n, p in self.settings.items() if isinstance(p.default, Optimizer)]
        inner = [n for n in optimizers if n != "outer"] or optimizers
        return self.tunes or tuple(f"{name}.lr" for name in inner)

    @property
    def settings(self) -> Mapping[str, inspect.Parameter]:
        """What the factory takes."""
        return inspect.signature(self.factory).parameters

    def tuned(self, options: Mapping[str, Any]) -> bool:
        """Whether its clients fine-tune under these options, as validation clients like best."""
        return self.finetunes and "test_steps" not in options

    def own_steps(self, options: Mapping[str, Any]) -> bool:
        """Whether its clients take steps of its own under these options, as many as validation clients like best."""
        return not self.finetunes and "test_steps" in self.settings and "test_steps" not in options

    @property
    def takes_steps(self) -> bool:
        """Whether its clients adapt by steps, of which there can be more or fewer."""
        return self.finetunes or "test_steps" in self.settings

    def items_for(self, options: Mapping[str, Any]) -> Items:
        """What clients work on under these options: Per-FedAvg's estimate of three batches takes triples, a generator
        that draws takes noise."""
        if "gaussian" in self.settings and options.get("gaussian"):
            return "noisy_episodes"
        return "triples" if "batches" in self.settings and options.get("batches") == 3 else self.items
