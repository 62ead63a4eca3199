"""Ragged clients, two small models, and runs that are kept: what the law table is computed on.

Shapes: C clients, K items, B examples of a batch, E episodes.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from seedbed import tree
from seedbed.data.population import Population
from seedbed.data.sampling import (
    Client,
    Draw,
    Sampled,
    Sampler,
    TaskSource,
    batches,
    episode_batches,
    episodes,
    support_query,
    triples,
    with_noise,
)
from seedbed.data.types import Batch, Task
from seedbed.engines import OneByOne, Vectorised
from seedbed.federated import Algorithm, ClientId, ServerState
from seedbed.learning.objectives import Objective, Predict, cross_entropy, supervised
from seedbed.learning.optimizers import sgd
from seedbed.learning.parameter_generation import GeneratedLayer
from seedbed.models import Model
from seedbed.randomness import seeded_init
from seedbed.rounds import Round, synchronous

SIZES = (9, 12, 14, 10, 17, 13)  # examples of each client
INPUTS, HIDDEN, CLASSES = 4, 8, 3
NUMBERS = HIDDEN * (INPUTS + 1) + CLASSES * (HIDDEN + 1)  # parameters of the networks below
COHORT = 4
TOLERANCE = 1e-10
MOMENTUM = sgd(0.1, momentum=0.9, nesterov=True, weight_decay=0.01)


# ---- models ----------------------------------------------------------------------------------------------


class Net(NamedTuple):
    """What an algorithm is built from."""

    predict: Predict
    features: Predict
    loss: Objective
    params: Mapping[str, Tensor]

    @property
    def layers(self) -> list[GeneratedLayer]:
        """Both, for those who generate them."""
        body = GeneratedLayer(("body.weight", "body.bias"), lambda p, x: x, INPUTS)
        return [body, GeneratedLayer(("head.weight", "head.bias"), self.features, HIDDEN)]


@functools.cache
def module() -> Net:
    """A real nn.Module, through the adapter."""
    with seeded_init(0):
        layers = OrderedDict(body=nn.Linear(INPUTS, HIDDEN), tanh=nn.Tanh(), head=nn.Linear(HIDDEN, CLASSES))
        model = Model(nn.Sequential(layers))
    return Net(model.predict, model.features, supervised(model.predict, cross_entropy), model.params)


@functools.cache
def by_hand() -> Net:
    """The same network as plain functions, elsewhere to begin with."""

    def features(p: Any, x: Tensor) -> Tensor:
        return torch.tanh(x @ p["body.weight"].T + p["body.bias"])

    def predict(p: Any, x: Tensor) -> Tensor:
        return features(p, x) @ p["head.weight"].T + p["head.bias"]

    g = torch.Generator().manual_seed(1)
    params = {n: 0.5 * torch.randn(p.shape, generator=g) for n, p in module().params.items()}
    return Net(predict, features, supervised(predict, cross_entropy), params)


# ---- clients ---------------------------------------------------------------------------------------------


@functools.cache
def population() -> Population:
    """Six clients of unequal size that hold three classes each, every client's inputs shifted its own way."""
    g = torch.Generator().manual_seed(0)
    owner = np.repeat(np.arange(len(SIZES)), SIZES)
    y = torch.cat([torch.arange(n) % CLASSES for n in SIZES])
    shifts = torch.randn(len(SIZES), INPUTS, generator=g)[owner]
    means = 2 * torch.randn(CLASSES, INPUTS, generator=g)[y]
    return Population.from_arrays(means + shifts + torch.randn(len(y), INPUTS, generator=g), y, owner)


def ragged(make: Callable[[int], Sampler]) -> Sampler:
    """1, 2 or 3 items, by the client's size."""

    def sampler(client: Client, rng: np.random.Generator) -> Draw:
        return make(1 + len(client.rows) % 3)(client, rng)

    return sampler


ITEMS: dict[str, Sampler] = {
    "batches": batches(4),  # 3 to 5 steps; the last batch has 1, 2 or 4 examples
    "full": batches(None),  # one batch of 9 to 17 examples
    "episodes": ragged(lambda k: episodes(ways=CLASSES, shots=(1, 2), queries=3, count=k)),
    "parts": ragged(lambda k: support_query(0.4, steps=k)),  # episodes too: of 4 to 7 and 5 to 10 examples
    "noisy_episodes": with_noise(ragged(lambda k: support_query(0.4, steps=k)), NUMBERS),
    "triples": ragged(lambda k: triples(5, steps=k)),
    "episode_batches": ragged(lambda k: episode_batches(ways=CLASSES, shots=3, size=4, steps=k)),
}


def clients(items: str) -> Sampled:
    """The clients' tasks, of these items."""
    return Sampled(population(), ITEMS[items], seed=5)


@functools.cache
def judging() -> Sampled:
    """Episodes to evaluate on: 1 to 3 of a client."""
    sampler = ragged(lambda k: episodes(ways=CLASSES, shots=2, queries=2, count=k))
    return Sampled(population(), sampler, seed=5, purpose="evaluate")


class Padded:
    """The same tasks with more padding: two items more that are not real, and three examples more in every
    batch that are masked, all full of numbers of about a million."""

    def __init__(self, source: TaskSource):
        self.source, self.clients, self.size = source, source.clients, source.size

    def tasks(self, clients: Sequence[int], round: int) -> Task:
        items, real, examples = self.source.tasks(clients, round)
        items = tree.pytree.tree_map(_longer, items, is_leaf=lambda node: isinstance(node, Batch))
        return Task(items, torch.cat([real, torch.zeros(len(clients), 2)], 1), examples)


def _longer(batch: Batch | Tensor) -> Batch | Tensor:
    """[C, K, B, ...] -> [C, K+2, B+3, ...]; noise [C, K, Z] -> [C, K+2, Z]."""
    if isinstance(batch, Tensor):
        return torch.cat([batch, 1e6 * batch[:, :1], batch[:, :1]], 1)
    g = torch.Generator().manual_seed(9)
    x = torch.cat([batch.x, 1e6 * torch.randn(*batch.x.shape[:2], 3, INPUTS, generator=g)], 2)
    y = torch.cat([batch.y, batch.y[:, :, :3].flip(2)], 2)
    mask = torch.cat([batch.mask, torch.zeros(*batch.mask.shape[:2], 3)], 2)
    more = 1e6 * torch.randn(len(x), 2, *x.shape[2:], generator=g)
    return Batch(
        torch.cat([x, more], 1),
        torch.cat([y, y[:, :1], y[:, :1]], 1),
        torch.cat([mask, *[mask[:, :1] + 1] * 2], 1),
    )


# ---- rows and runs ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """An algorithm of the law table.

    Attributes:
        name: as in the catalogue.
        make: builds it for a network.
        items: what its clients work on, by the name in ITEMS.
        net: the network and where its parameters start.
        variant: which of the algorithm's forms it is.
        bare: why secure aggregation refuses it, in words of the refusal; empty: it sums it. So does privacy.
    """

    name: str
    make: Callable[[Net], Algorithm]
    items: str
    net: Callable[[], Net] = field(default=by_hand)
    variant: str = ""
    bare: str = ""

    def __str__(self) -> str:
        return f"{self.name}-{self.variant}" if self.variant else self.name

    @property
    def algorithm(self) -> Algorithm:
        return self.make(self.net())

    @property
    def start(self) -> ServerState:
        return self.algorithm.init(dict(self.net().params))


Make = Callable[[Net], Algorithm]
Reduction = tuple[Make, Make, str]  # the child, its parent, and what clients work on
Still = tuple[Make, str]  # with a rate of zero, and what clients work on


class Past(NamedTuple):
    """A run: its rounds, and what clients kept after each."""

    rounds: list[Round]
    memories: list[dict[ClientId, Any]]


def run(
    row: Row,
    engine: Any,
    *,
    count: int = 3,
    state: ServerState | None = None,
    algorithm: Algorithm | None = None,
    **settings: Any,
) -> Past:
    """So many rounds on this engine; by default from the row's start, with a cohort smaller than the
    population."""
    past = Past([], [])
    settings = {"cohort": COHORT, "seed": 2} | settings
    schedule = synchronous(algorithm or row.algorithm, engine, state or row.start, **settings)
    for _ in range(count):
        past.rounds.append(next(schedule))
        past.memories.append(dict(engine.memory()))
    return past


@functools.cache
def reference(row: Row, kind: type[OneByOne]) -> Past:
    """Three rounds of the row on an engine as it comes."""
    return run(row, kind(clients(row.items)))


def trained(row: Row, kind: type[OneByOne]) -> OneByOne:
    """The engine as it was after those three rounds."""
    engine = kind(clients(row.items))
    engine.recall(reference(row, kind).memories[-1])
    return engine


def first(count: int, past: Past) -> Past:
    """So many rounds of a run."""
    return Past(past.rounds[:count], past.memories[:count])


# ---- comparisons -----------------------------------------------------------------------------------------


def apart(a: Any, b: Any) -> float:
    """The largest absolute difference between two trees of the same structure."""
    assert tree.pytree.tree_structure(a) == tree.pytree.tree_structure(b)
    pairs = zip(tree.leaves(a), tree.leaves(b), strict=True)
    return max((float((torch.as_tensor(x) - torch.as_tensor(y)).abs().max()) for x, y in pairs), default=0.0)


def runs_apart(a: Past, b: Past) -> float:
    """The largest difference between two runs: state, info, and what clients keep, in every round."""
    assert [r.number for r in a.rounds] == [r.number for r in b.rounds]
    assert [r.clients for r in a.rounds] == [r.clients for r in b.rounds]
    return apart(
        [(r.state, dict(r.info), _by_client(m)) for r, m in zip(*a, strict=True)],
        [(r.state, dict(r.info), _by_client(m)) for r, m in zip(*b, strict=True)],
    )


def _by_client(memory: Mapping[ClientId, Any]) -> list[tuple[Any, ...]]:
    """In order, for engines meet clients in orders of their own."""
    return [(torch.tensor(c), memory[c]) for c in sorted(memory)]


def copied(value: Any) -> Any:
    """A deep copy of a tree."""
    return tree.map(torch.clone, value)


KINDS: list[type[OneByOne]] = [OneByOne, Vectorised]
