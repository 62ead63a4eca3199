"""Rounds with a server: send to a cohort, wait for all of it, reduce, step. FedAvg's schedule.

Shapes: C clients of a cohort.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

import torch
from torch import Tensor

from seedbed import draws, tree
from seedbed.errors import InputError
from seedbed.federated import Algorithm, ClientId, Engine, Group, Reducer, Replies, ServerState
from seedbed.tree import Tree


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
        InputError: the cohort is larger than the population, or the model became NaN or infinite; the last good
            round has been yielded before.
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
            raise InputError(
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
    """Reduce a round's messages; clients are put in order first, so that who finished when changes nothing.

    Messages may be unlike, as those of clients with models of different architectures: what a dict holds under a key
    is reduced over the clients that sent that key, by their weights alone.
    """
    groups = sorted(groups, key=lambda group: group.clients[0])
    clients = [c for group in groups for c in group.clients]
    order = sorted(range(len(clients)), key=clients.__getitem__)
    weights = torch.cat([group.messages.weight for group in groups])[order]
    value = _reduced(algorithm.reduce, [(g.clients, g.messages.value, g.messages.weight) for g in groups])
    info = tree.index(tree.concatenate([dict(group.messages.info) for group in groups]), order)
    means = {name: (weights * number).sum() / weights.sum() for name, number in info.items()}
    return Replies(value, [clients[i] for i in order], population, torch.zeros_like(weights), weights, means)


Part = tuple[Sequence[ClientId], Tree, Tensor]  # clients, what they sent (stacked), their weights


def _reduced(reduce: Reducer, parts: Sequence[Part]) -> Tree:
    values = [value for _, value, _ in parts]
    if not tree.alike(values):
        if not all(isinstance(value, dict) for value in values):
            raise InputError("clients sent messages of unlike structure that are no dicts: they cannot be reduced")
        keys = sorted({key for value in values for key in value})
        return {k: _reduced(reduce, [(c, value[k], w) for c, value, w in parts if k in value]) for k in keys}
    if reduce.linear:
        means = [reduce(value, weights) for _, value, weights in parts]
        totals = torch.stack([weights.sum() for _, _, weights in parts])
        return means[0] if len(means) == 1 else reduce(tree.stack(means), totals)
    clients = [c for some, _, _ in parts for c in some]
    order = sorted(range(len(clients)), key=clients.__getitem__)
    stacked = tree.index(tree.concatenate_ragged(values), order)
    return reduce(stacked, torch.cat([weights for _, _, weights in parts])[order])


def _loss(replies: Replies) -> str:
    loss: Tensor | None = replies.info.get("loss")
    return "unknown" if loss is None else f"{float(loss):.3g}"
