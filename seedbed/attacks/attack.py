"""What an attack is, and where it enters: around an engine (messages) and around a task source (data).

Attackers are known clients. They obey the schedule, know what the others send in the round, and may say anything. Every
draw is a function of (seed, round, client), so that an attacked run is resumed bit for bit like any other.

Shapes: a attackers of a round, h honest clients, C clients, K items, B examples.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from seedbed import randomness, tree
from seedbed.aggregation.no_reduce import no_reduce
from seedbed.aggregation.robust import TooFewMessages
from seedbed.data.sampling import TaskSource, TaskSourceWrapper
from seedbed.data.types import Batch, Task
from seedbed.errors import InputError
from seedbed.federated import Algorithm, ClientId, Engine, EngineWrapper, Message, MessageBatch, ServerState
from seedbed.rounds.message_validation import MessageValidator
from seedbed.tree import Tree


class HonestMessages(NamedTuple):
    """What attackers know in a round."""

    own: Message  # leaves [a, ...]: what they would have sent, had they been honest (on poisoned data, if it is)
    honest: Message  # leaves [h, ...]: what the others send; their own where there is nobody else
    draws: Sequence[np.random.Generator]  # [a]  one for each attacker
    first: Callable[[], Message]  # leaves [a, ...]: what they would have sent in the first round
    outcome: Callable[[Message], Tree]  # attackers' messages [a, ...] -> the server's value of the round, [...]
    harm: Tree = ()  # leaves [a, ...]: what the attack's own client computes


Lie = Callable[[HonestMessages], Message]  # -> leaves [a, ...]
Poison = Callable[[Batch], Batch]  # leaves [..., B, ...]


def no_attack(seen: HonestMessages) -> Message:
    """No lie: what the attackers computed, on poisoned data."""
    return seen.own


@dataclass(frozen=True)
class Attack:
    """Lies about messages, poisoned data, or both.

    Attributes:
        poison: what attackers' batches become: those they train on, of episodes the query sets; None: as they are.
        trigger: what the examples of anybody become to call what a backdoor has planted; None: it plants nothing.
        names: as how many clients each attacker speaks; those above one are invented (Sybils).
        client: a client function that attackers run after the algorithm's, for `Seen.harm`; it must return what the
            client keeps as it was. None: none.
        tries_server: the lie is chosen by what the server's rule makes of it (`Seen.outcome`).
    """

    name: str
    lie: Lie = no_attack
    poison: Poison | None = None
    trigger: Poison | None = None
    names: int = 1
    client: Callable[[Tree, Tree, Task], tuple[Message, Tree]] | None = None
    tries_server: bool = False

    def refuse(self, algorithm: Algorithm) -> None:
        """
        Raises:
            InputError: the attack tries the server's rule, and this algorithm's server has none.
        """
        if self.tries_server and algorithm.reduce is no_reduce:
            raise InputError(
                f"attack={self.name} searches for what harms the server's rule the most, but this algorithm's server "
                "needs each message (reduce=each): use min_max or min_sum"
            )


class AttackedEngine(EngineWrapper):
    """An engine some of whose clients lie.

    Args:
        attackers: their numbers.
        start: the server's state before the first round, for those that replay.
        seed: of what attackers draw.
        gate: the server's; attackers know it.
    """

    def __init__(
        self,
        engine: Engine,
        attack: Attack,
        attackers: Collection[ClientId],
        start: ServerState,
        *,
        seed: int = 0,
        gate: MessageValidator | None = MessageValidator(),
    ):
        super().__init__(engine)
        self.attack, self.attackers, self.start, self.seed, self.gate = attack, attackers, start, seed, gate

    def ask(self, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int) -> Iterator[MessageBatch]:
        hostile = sorted(c for c in sent if c in self.attackers)
        if not hostile:
            yield from self.engine.ask(algorithm, sent, round)
            return
        self.attack.refuse(algorithm)
        honest = sorted(set(sent) - set(hostile))
        groups = list(self.engine.ask(algorithm, sent, round))
        own = _of(groups, hostile)
        others = _of(groups, honest) if honest else own
        truths = [MessageBatch(honest, others)] if honest else []
        yield from truths
        drawn = [randomness.generator(self.seed, "attack", round, c) for c in hostile]
        first, outcome = partial(self._first, algorithm, hostile), partial(self._outcome, algorithm, truths, hostile)
        harm = self._harm(algorithm, {c: sent[c] for c in hostile}, round)
        lies = self.attack.lie(HonestMessages(own, others, drawn, first, outcome, harm))
        yield MessageBatch(hostile, lies)
        for name in range(1, self.attack.names):
            yield MessageBatch([-1 - c - name * len(self.population) for c in hostile], lies)

    def _first(self, algorithm: Algorithm, hostile: Sequence[ClientId]) -> Message:
        """What these clients say in the first round, computed anew: there is no store of it to lose in a crash."""
        kept = dict(self.engine.memory())
        self.engine.recall({})
        sent = {c: algorithm.send(self.start, c) for c in hostile}
        groups = list(self.engine.ask(algorithm, sent, 0))
        self.engine.recall(kept)
        return _of(groups, hostile)

    def _outcome(
        self, algorithm: Algorithm, truths: Sequence[MessageBatch], hostile: Sequence[ClientId], lies: Message
    ) -> Tree:
        """The server's value of the round with these lies in it; zero, which is no step, where too few are admitted."""
        groups = [*truths, MessageBatch(hostile, lies)]
        asked = [c for group in groups for c in group.clients]
        groups = list(self.gate.admit(groups, asked).groups) if self.gate else groups
        messages = _of(groups, sorted(c for group in groups for c in group.clients))  # in the order of the real round
        try:
            return algorithm.reduce(messages.value, messages.weight)
        except TooFewMessages:
            return tree.map(lambda x: torch.zeros_like(x[0]), lies.value)

    def _harm(self, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int) -> Tree:
        """What the attack's own client computes."""
        if self.attack.client is None:
            return ()
        groups = list(self.engine.ask(replace(algorithm, client=self.attack.client), sent, round))
        return _of(groups, list(sent)).value


def _of(groups: Sequence[MessageBatch], clients: Sequence[ClientId]) -> Message:
    """These clients' messages, in this order."""
    place = {c: i for i, c in enumerate(c for group in groups for c in group.clients)}
    chosen: Message = tree.index(tree.concatenate([g.messages for g in groups]), [place[c] for c in clients])
    return chosen


class PoisonedTasks(TaskSourceWrapper):
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

        return task._replace(items=tree.map(only_theirs, backdoor_judge(task.items, self.poison), task.items))


class TriggeredTasks(TaskSourceWrapper):
    """Episodes whose queries call a backdoor: only those that are not of its target's class count."""

    def __init__(self, source: TaskSource, trigger: Poison):
        super().__init__(source)
        self.trigger = trigger

    def tasks(self, clients: Sequence[int], round: int) -> Task:
        task = self.source.tasks(clients, round)
        return task._replace(items=backdoor_judge(task.items, self._called))

    def _called(self, query: Batch) -> Batch:
        called = self.trigger(query)
        return called._replace(mask=query.mask * (query.y != called.y))


def backdoor_judge(items: Tree, change: Poison) -> Tree:
    """Change what is learnt from: of an episode or a triple all but its support set."""
    parts = getattr(items, "_fields", ())
    if "query" not in parts:
        return tree.map_subtrees(change, items, Batch)
    return items._replace(**{part: change(getattr(items, part)) for part in parts if part != "support"})


def choose_attackers(population: Sequence[ClientId], part: int | float, seed: int) -> frozenset[ClientId]:
    """So many clients (a count, or a fraction, rounded up), drawn by the seed: the same in every round."""
    count = part if isinstance(part, int) else math.ceil(part * len(population) - 1e-9)
    return frozenset(randomness.generator(seed, "attackers").permutation(list(population))[:count].tolist())
