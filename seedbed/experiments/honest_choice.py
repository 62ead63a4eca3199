"""Choosing how clients adapt, on all known clients: cross-fitted starts, a prior learned on one half and judged on the
other, by the loss, for each number of examples.

Shapes: C clients, F folds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from seedbed import randomness
from seedbed.algorithms.cross_fitted import cross_fitted
from seedbed.data.sampling import TaskSource, TaskSourceWrapper
from seedbed.data.types import Batch
from seedbed.federated import Algorithm, ClientId, Engine, Params, ServerState
from seedbed.learning.objectives import Metric
from seedbed.rounds import synchronous

MOST_CLIENTS = 200  # that judge
MOST_LEARNERS = 300  # that a prior is learned from: more tell it no better
FEW = 6  # clients, fewer than which are not halved
NONE, BIAS = "none", "bias"


@dataclass(frozen=True)
class Way:
    """One way to adapt.

    Attributes:
        algorithm: how it personalises, over params that stay as they are (`frozen()`).
        metric: the loss of personal params on queries; less is better.
        rounds: of learning its prior; 0: it has none.
        residuals: [B] residuals of a batch, NaN where there is no row; None: none are asked for.
    """

    algorithm: Algorithm
    metric: Metric
    rounds: int = 0
    residuals: Metric | None = None

    def scores(self, params: Params, batch: Batch) -> Tensor:
        """[1 + B] the loss, and the residuals."""
        loss = self.metric(params, batch).double().reshape(1)
        return loss if self.residuals is None else torch.cat([loss, self.residuals(params, batch)])


Losses = Mapping[str, Mapping[ClientId, float]]  # by way and client


class Among(TaskSourceWrapper):
    """A source of some of its clients."""

    def __init__(self, source: TaskSource, clients: Sequence[ClientId]):
        super().__init__(source)
        self.some = clients
        self.tasks = source.tasks

    @property
    def clients(self) -> Sequence[ClientId]:
        return self.some


def fold_of(clients: Sequence[ClientId], folds: int, *, seed: int = 0) -> dict[ClientId, int]:
    """Each client's fold, drawn by the seed; folds differ by one client at most."""
    order = randomness.generator(seed, "folds").permutation(len(clients))
    return {clients[int(place)]: i % folds for i, place in enumerate(order)}


def some_of(clients: Sequence[ClientId], most: int, *, seed: int = 0) -> list[ClientId]:
    """At most so many of them, drawn by the seed, in their order."""
    order = randomness.generator(seed, "some clients").permutation(len(clients))
    return [clients[int(place)] for place in sorted(order[:most])]


def learn(
    algorithm: Algorithm, engine: Engine, state: ServerState, clients: Sequence[ClientId], rounds: int
) -> ServerState:
    """The state after so many rounds of these clients."""
    schedule = synchronous(algorithm, engine, state, answering=lambda cohort, round: list(clients))
    for round in islice(schedule, rounds):
        state = round.state
    return state


def judge(
    ways: Mapping[str, Way],
    engine: Engine,
    starts: Params,
    folds: Mapping[ClientId, int],
    sources: Mapping[str, TaskSource],
    *,
    seed: int = 0,
    keep: Callable[[str, str, ClientId, Tensor], None] = lambda size, way, client, residuals: None,
) -> Mapping[str, Losses]:
    """The losses of each way, by number of examples: {size: {way: {client: loss}}}.

    A half of few clients says nothing of the other: of fewer than six, all have the prior of all.

    Args:
        engine: of the known clients, whose tasks hold each example once.
        starts: trained without the fold's clients, stacked [F, ...].
        sources: episodes of the known clients that are large enough, by number of examples.
        keep: is given each way's residuals [E, B] of each client, by number of examples.
    """
    halves = fold_of(engine.population, 2, seed=seed)
    found: dict[str, dict[str, dict[ClientId, float]]] = {size: {name: {} for name in ways} for size in sources}
    for name, way in ways.items():
        algorithm = cross_fitted(way.algorithm, folds)
        for half in (0, 1):
            few = len(engine.population) < FEW
            others = [c for c in engine.population if few or halves[c] != half]
            learners = some_of(others, MOST_LEARNERS, seed=seed)
            state = learn(algorithm, engine, algorithm.init(starts), learners, way.rounds)
            for size, source in sources.items():
                judges = [c for c in source.clients if halves[c] == half][: MOST_CLIENTS // 2]
                if judges:
                    scores = engine.evaluate(algorithm, state, Among(source, judges), way.scores)
                    found[size][name] |= {c: float(s[:, 0].mean()) for c, s in scores.items()}
                    for client, each in scores.items():
                        keep(size, name, client, each[:, 1:])
    return found


def choose(losses: Losses) -> str:
    """The way for one number of examples: bias where its mean gain over none is above 0; any other only for a paired
    gain over that of more than one standard error, the one of the least mean loss first.

    A loss that is not finite rules a way out.
    """
    mean = {name: math.fsum(each.values()) / len(each) for name, each in losses.items()}
    current = BIAS if BIAS in mean and mean[BIAS] < mean[NONE] else NONE
    others = sorted(
        (name for name in mean if name not in (NONE, BIAS) and math.isfinite(mean[name])), key=mean.__getitem__
    )
    return next((name for name in others if is_better(losses[name], losses[current])), current)


def is_better(one: Mapping[ClientId, float], other: Mapping[ClientId, float]) -> bool:
    """Whether the mean paired gain is above one standard error."""
    gains = torch.tensor([other[c] - one[c] for c in one], dtype=torch.float64)
    return len(gains) > 1 and bool(gains.mean() > gains.std() / math.sqrt(len(gains)))
