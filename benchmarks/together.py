"""Several federations in step on one engine: seeds and settings side by side, like clients of one population.

What a small model costs is the number of operations, hardly their size: nine runs stacked take little longer than one.
Each run has a cohort, a server and a state of its own; that they share an engine changes none of their numbers.

Shapes: R runs, N clients of a run; client n of run r is number r·N + n.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count, islice

import torch
from rich.progress import Progress

from seedbed import tree
from seedbed.data.population import Population
from seedbed.data.sampling import TaskSource
from seedbed.data.types import Task
from seedbed.federated import Algorithm, Engine, MessageBatch, Params, ServerState
from seedbed.learning.objectives import Metric, Predict, correct
from seedbed.rounds.round import choose_cohort, gather

Answering = Callable[[int, list[int], int], list[int]]  # (run, its cohort, round) -> those of it who answer


class Copies:
    """A source in which client i is client `of[i]` of another: the same clients for several runs."""

    def __init__(self, source: TaskSource, of: Sequence[int]):
        self.source, self.of = source, of
        self.clients = range(len(of))

    def size(self, client: int) -> int:
        return self.source.size(self.of[client])

    def tasks(self, clients: Sequence[int], round: int) -> Task:
        return self.source.tasks([self.of[client] for client in clients], round)


def together(
    algorithm: Algorithm,
    engine: Engine,
    starts: Sequence[ServerState],
    *,
    seeds: Sequence[int],
    cohort: int | None = None,
    answering: Answering = lambda run, cohort, round: cohort,
) -> Iterator[list[ServerState]]:
    """Endless synchronous rounds of R runs: the servers' states after each.

    Args:
        engine: over R·N clients.
        starts: R states of servers. What differs between runs beside data and seed, a rate for one, travels in them.
        seeds: R seeds of the cohorts.
    """
    states, n = list(starts), len(engine.population) // len(starts)
    for round in count():
        asked = []
        for run, seed in enumerate(seeds):
            asked.append(answering(run, choose_cohort(range(run * n, (run + 1) * n), cohort, seed, round), round))
        sent = {c: algorithm.send(states[run], c) for run, chosen in enumerate(asked) for c in chosen}
        groups = list(engine.ask(algorithm, sent, round))
        for run, chosen in enumerate(asked):
            mine = [part for group in groups for part in _those(group, set(chosen))]
            states[run] = algorithm.server(states[run], gather(algorithm, mine, n))
        yield list(states)


def last(rounds: Iterator[list[ServerState]], count: int, bar: Progress, description: str) -> list[ServerState]:
    """The states after so many rounds, shown on the bar while they last."""
    task = bar.add_task(description, total=count)
    states = deque(bar.track(islice(rounds, count), total=count, task_id=task), maxlen=1).pop()
    bar.remove_task(task)
    return states


def scores(
    algorithm: Algorithm, engine: Engine, states: Sequence[ServerState], source: TaskSource, metric: Metric
) -> torch.Tensor:
    """What each client of each run scores on its episodes, on average: [R, N]."""
    n = len(source.clients) // len(states)
    own = replace(algorithm, send=lambda states, client: algorithm.send(states[client // n], client))
    found = engine.evaluate(own, states, source, metric)  # type: ignore[arg-type]
    return torch.stack([found[client].mean(0) for client in source.clients]).reshape(len(states), n, -1).squeeze(-1)


def global_accuracies(predict: Predict, models: Sequence[Params], test: Population) -> torch.Tensor:
    """The accuracy of each run's one model over all its clients' test examples: [R]."""
    n, found = len(test) // len(models), []
    for run, params in enumerate(models):
        rows = torch.as_tensor(test.only(range(run * n, (run + 1) * n)).rows)
        found.append(correct(predict(params, test.x[rows]), test.y[rows]).mean())
    return torch.stack(found)


def own_accuracies(predict: Predict, models: Sequence[Params], test: Population, *, runs: int) -> torch.Tensor:
    """The accuracy of each run over all its clients' test examples, each client by a model of its own: [R].

    Args:
        models: R·N of them.
    """
    right = []
    for client, params in enumerate(models):
        rows = torch.as_tensor(test.rows_of(client))
        right.append(correct(predict(params, test.x[rows]), test.y[rows]).sum())
    sizes = torch.as_tensor(test.sizes).reshape(runs, -1)
    return torch.stack(right).reshape(runs, -1).sum(1) / sizes.sum(1)


def _those(group: MessageBatch, clients: set[int]) -> list[MessageBatch]:
    """The messages of some clients out of a group of stacked ones; none where the group has none of them."""
    where = [i for i, client in enumerate(group.clients) if client in clients]
    if not where:
        return []
    return [MessageBatch([group.clients[i] for i in where], tree.index(group.messages, torch.tensor(where)))]
