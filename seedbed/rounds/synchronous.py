"""Rounds with a server: send to a cohort, wait for all of it, reduce, step. FedAvg's schedule.

Shapes: C clients of a cohort.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

import torch
from torch import Tensor

from seedbed import draws, tree
from seedbed.errors import Diverged, InputError
from seedbed.federated import Algorithm, ClientId, Engine, Group, Replies, ServerState


class Round(NamedTuple):
    """What a schedule yields: the server's state after `number` rounds."""

    number: int
    state: ServerState
    clients: Sequence[ClientId]
    info: Mapping[str, float]

    def _repr_html_(self) -> str:
        numbers = {"round": str(self.number), "clients": str(len(self.clients))}
        numbers |= {name: f"{value:.4g}" for name, value in self.info.items()}
        heads, cells = (("".join(f"<{tag}>{escape(t)}</{tag}>" for t in row)) for tag, row in
                        (("th", numbers), ("td", numbers.values())))  # fmt: skip
        return f"<table><tr>{heads}</tr><tr>{cells}</tr></table>"

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in self.info.items())
        return f"round {self.number}: {len(self.clients)} clients, {numbers}"


def synchronous(
    algorithm: Algorithm,
    engine: Engine,
    start: ServerState,
    *,
    cohort: int | None = None,
    seed: int = 0,
    done: int = 0,
) -> Iterator[Round]:
    """Endless rounds; stop by leaving the loop.

    Args:
        start: `algorithm.init(params)`, or the state of an earlier round to go on from.
        cohort: clients a round, drawn without replacement by (seed, round); None: all.
        done: rounds that `start` has behind it.
    Raises:
        InputError: the cohort is larger than the population.
        Diverged: the model became NaN or infinite; the last good round has been yielded before.
    """
    population = engine.population
    if cohort is not None and not 1 <= cohort <= len(population):
        raise InputError(f"cohort={cohort} of {len(population)} clients: choose between 1 and {len(population)}")
    state, number = start, done
    while True:
        chosen = choose_cohort(population, cohort, seed, number)
        sent = {c: algorithm.send(state, c) for c in chosen}
        replies = gather(algorithm, list(engine.ask(algorithm, sent, number)), len(population))
        after = algorithm.server(state, replies)
        number += 1
        if not tree.is_finite(after):
            raise Diverged(
                f"round {number}: the model is no longer finite (loss {_loss(replies)}); "
                "start again with lower learning rates (local.lr, outer.lr); what came before is intact"
            )
        state = after
        yield Round(number, state, chosen, {name: float(value) for name, value in replies.info.items()})


def choose_cohort(population: Sequence[ClientId], cohort: int | None, seed: int, number: int) -> list[ClientId]:
    if cohort is None or cohort == len(population):
        return list(population)
    drawn = draws.generator(seed, "cohort", number).choice(len(population), cohort, replace=False)
    return sorted(population[int(i)] for i in drawn)


def gather(algorithm: Algorithm, groups: Sequence[Group], population: int) -> Replies:
    """Reduce a round's messages; clients are put in order first, so that who finished when changes nothing."""
    groups = sorted(groups, key=lambda group: group.clients[0])
    clients = [c for group in groups for c in group.clients]
    weights = torch.cat([group.messages.weight for group in groups])
    if algorithm.reduce.linear:
        parts = [algorithm.reduce(group.messages.value, group.messages.weight) for group in groups]
        totals = torch.stack([group.messages.weight.sum() for group in groups])
        value = parts[0] if len(parts) == 1 else algorithm.reduce(tree.stack(parts), totals)
    else:
        value = algorithm.reduce(tree.concatenate([group.messages.value for group in groups]), weights)
    info = tree.concatenate([dict(group.messages.info) for group in groups])
    means = {name: (weights * number).sum() / weights.sum() for name, number in info.items()}
    return Replies(value, clients, population, torch.zeros_like(weights), weights, means)


def _loss(replies: Replies) -> str:
    loss: Tensor | None = replies.info.get("loss")
    return "unknown" if loss is None else f"{float(loss):.3g}"
