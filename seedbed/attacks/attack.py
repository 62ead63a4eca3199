"""What an attack is, and where it enters: around an engine (messages) and around a task source (data).

Attackers are known clients. They obey the schedule, know what the others send in the round, and may say anything. Every
draw is a function of (seed, round, client), so that an attacked run is resumed bit for bit like any other.

Shapes: a attackers of a round, h honest clients, C clients, K items, B examples.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from seedbed import draws, tree
from seedbed.federated import Algorithm, Around, ClientId, Engine, Group, Message, ServerState
from seedbed.tasks.sampling import AroundSource, TaskSource
from seedbed.tasks.types import Batch, Task
from seedbed.tree import Tree


class Seen(NamedTuple):
    """What attackers know in a round."""

    own: Message  # leaves [a, ...]: what they would have sent, had they been honest (on poisoned data, if it is)
    honest: Message  # leaves [h, ...]: what the others send; their own where there is nobody else
    draws: Sequence[np.random.Generator]  # [a]  one for each attacker
    first: Callable[[], Message]  # leaves [a, ...]: what they would have sent in the first round


Lie = Callable[[Seen], Message]  # -> leaves [a, ...]
Poison = Callable[[Batch], Batch]  # leaves [..., B, ...]


def as_it_is(seen: Seen) -> Message:
    """No lie: what the attackers computed, on poisoned data."""
    return seen.own


@dataclass(frozen=True)
class Attack:
    """Lies about messages, poisoned data, or both.

    Attributes:
        poison: what attackers' batches become: those they train on, of episodes the query sets; None: as they are.
        trigger: what the examples of anybody become to call what a backdoor has planted; None: it plants nothing.
        names: as how many clients each attacker speaks; those above one are invented (Sybils).
    """

    name: str
    lie: Lie = as_it_is
    poison: Poison | None = None
    trigger: Poison | None = None
    names: int = 1


class Attacked(Around):
    """An engine some of whose clients lie.

    Args:
        attackers: their numbers.
        start: the server's state before the first round, for those that replay.
        seed: of what attackers draw.
    """

    def __init__(
        self, engine: Engine, attack: Attack, attackers: Collection[ClientId], start: ServerState, *, seed: int = 0
    ):
        super().__init__(engine)
        self.attack, self.attackers, self.start, self.seed = attack, attackers, start, seed

    def ask(self, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int) -> Iterator[Group]:
        hostile = sorted(c for c in sent if c in self.attackers)
        if not hostile:
            yield from self.engine.ask(algorithm, sent, round)
            return
        honest = sorted(set(sent) - set(hostile))
        groups = list(self.engine.ask(algorithm, sent, round))
        place = {c: i for i, c in enumerate(c for group in groups for c in group.clients)}
        messages = tree.concatenate([group.messages for group in groups])
        own = tree.index(messages, [place[c] for c in hostile])
        others = tree.index(messages, [place[c] for c in honest]) if honest else own
        if honest:
            yield Group(honest, others)
        drawn = [draws.generator(self.seed, "attack", round, c) for c in hostile]
        lies = self.attack.lie(Seen(own, others, drawn, lambda: self._first(algorithm, hostile)))
        yield Group(hostile, lies)
        for name in range(1, self.attack.names):
            yield Group([-1 - c - name * len(self.population) for c in hostile], lies)

    def _first(self, algorithm: Algorithm, hostile: Sequence[ClientId]) -> Message:
        """What these clients say in the first round, computed anew: there is no store of it to lose in a crash."""
        kept = dict(self.engine.memory())
        self.engine.recall({})
        sent = {c: algorithm.send(self.start, c) for c in hostile}
        groups = list(self.engine.ask(algorithm, sent, 0))
        self.engine.recall(kept)
        place = {c: i for i, c in enumerate(c for group in groups for c in group.clients)}
        first: Message = tree.index(tree.concatenate([g.messages for g in groups]), [place[c] for c in hostile])
        return first


class Poisoned(AroundSource):
    """Tasks some of which are poisoned: all of the attackers' batches; of their episodes the sets to be judged on.

    Support sets stay: a client whose labels are drawn afresh in each episode would only rename them.
    """

    def __init__(self, source: TaskSource, poison: Poison, attackers: Collection[ClientId]):
        super().__init__(source)
        self.poison, self.attackers = poison, attackers

    def tasks(self, clients: Sequence[int], round: int) -> Task:
        task = self.source.tasks(clients, round)
        if not any(c in self.attackers for c in clients):
            return task
        hostile = torch.tensor([c in self.attackers for c in clients])

        def only_theirs(changed: Tensor, before: Tensor) -> Tensor:
            return torch.where(hostile.reshape(-1, *[1] * (before.ndim - 1)), changed, before)

        return task._replace(items=tree.map(only_theirs, judged_on(task.items, self.poison), task.items))


class Triggered(AroundSource):
    """Episodes whose queries call a backdoor: only those that are not of its target's class count."""

    def __init__(self, source: TaskSource, trigger: Poison):
        super().__init__(source)
        self.trigger = trigger

    def tasks(self, clients: Sequence[int], round: int) -> Task:
        task = self.source.tasks(clients, round)
        return task._replace(items=judged_on(task.items, self._called))

    def _called(self, query: Batch) -> Batch:
        called = self.trigger(query)
        return called._replace(mask=query.mask * (query.y != called.y))


def judged_on(items: Tree, change: Poison) -> Tree:
    """Change what is learnt from: of an episode or a triple all but its support set."""
    parts = getattr(items, "_fields", ())
    if "query" not in parts:
        return tree.map_parts(change, items, Batch)
    return items._replace(**{part: change(getattr(items, part)) for part in parts if part != "support"})


def choose_attackers(population: Sequence[ClientId], part: int | float, seed: int) -> frozenset[ClientId]:
    """So many clients (a count, or a fraction, rounded up), drawn by the seed: the same in every round."""
    count = part if isinstance(part, int) else math.ceil(part * len(population) - 1e-9)
    return frozenset(draws.generator(seed, "attackers").permutation(list(population))[:count].tolist())
