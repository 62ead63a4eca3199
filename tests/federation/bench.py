"""Five small clients, a plan for each algorithm, server and nodes in one process, and the simulation beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from seedbed import tree
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedavgm import fedavgm
from seedbed.algorithms.fedper import fedper
from seedbed.algorithms.per_fedavg import per_fedavg
from seedbed.algorithms.scaffold import scaffold
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, Sampler, batches, support_query
from seedbed.deployment.federation.node import Node
from seedbed.deployment.federation.protocol import FederationProtocol
from seedbed.deployment.federation.round_policy import RoundPolicy
from seedbed.deployment.federation.server import Server
from seedbed.deployment.federation.transport import InProcess, Transport
from seedbed.engines import OneByOne
from seedbed.federated import Algorithm, ClientId, ServerState
from seedbed.learning.objectives import Objective, cross_entropy, supervised
from seedbed.models import Model, mlp
from seedbed.randomness import seeded_init
from seedbed.rounds import Round, synchronous
from seedbed.tree import Tree

SIZES = (9, 12, 14, 10, 17)  # examples of each client
CLIENTS = tuple(range(len(SIZES)))
KEYS = {c: bytes([c + 1]) * 32 for c in CLIENTS}
SEED = 5
SOME = batches(4)  # several steps a round


class Case(NamedTuple):
    algorithm: Algorithm
    sampler: Sampler


def _model(hidden: int) -> Model:
    with seeded_init(0):
        return Model(mlp((4,), 3, hidden=(hidden,)))


def case(name: str, hidden: int = 5) -> tuple[Case, ServerState]:
    """An algorithm of each kind: plain, with a memory of its server, with one of its clients, with meta-gradients."""
    model = _model(hidden)
    loss: Objective = supervised(model.predict, cross_entropy)
    head = [n.rpartition(".")[0] for n in model.params][-1]
    made = {
        "fedavg": lambda: Case(fedavg(loss), SOME),
        "fedavgm": lambda: Case(fedavgm(loss), SOME),
        "scaffold": lambda: Case(scaffold(loss), SOME),
        "fedper": lambda: Case(fedper(loss, head=head), SOME),
        "per_fedavg": lambda: Case(per_fedavg(loss, alpha=0.1), support_query(0.5, steps=2)),
    }[name]()
    return made, made.algorithm.init(model.params)


def population() -> Population:
    """All of it, which no node has."""
    g = torch.Generator().manual_seed(0)
    owner = np.repeat(np.arange(len(SIZES)), SIZES)
    y = torch.cat([torch.arange(n) % 3 for n in SIZES])
    x = 2 * torch.randn(3, 4, generator=g)[y] + torch.randn(len(y), 4, generator=g)
    return Population.from_arrays(x, y, owner)


def plan(name: str = "fedavg", *, hidden: int = 5, **other: Any) -> FederationProtocol:
    """Made from settings and made-up numbers alone."""
    (algorithm, sampler), start = case(name, hidden)
    made_up = Population.from_arrays(torch.zeros(9, 4), torch.arange(9) % 3, ["nobody"] * 9)
    example = tree.index(Sampled(made_up, sampler).tasks([0], 0), 0)
    settings = {"algorithm": name, "hidden": hidden, **other}
    return FederationProtocol(f"test-{name}", algorithm, start, example, settings)


def node(name: str, client: ClientId, folder: Path, *, hidden: int = 5, **other: Any) -> Node:
    """A client with its own arrays, and nobody else's."""
    rows = population().rows_of(client)
    own = Population.from_arrays(population().x[rows], population().y[rows], [f"hospital {client}"] * len(rows))
    source = Sampled(own, case(name)[0].sampler, seed=SEED, first=client)
    return Node(plan(name, hidden=hidden, **other), client, source, KEYS[client], folder / f"node-{client}")


def nodes(name: str, folder: Path, *, hidden: int = 5) -> dict[ClientId, Node]:
    return {c: node(name, c, folder, hidden=hidden) for c in CLIENTS}


def serve(name: str, folder: Path, transport: Transport, *, hidden: int = 5, **terms: Any) -> Server:
    settled = RoundPolicy(**{"rounds": 4, "clients": CLIENTS, "seed": SEED, **terms})
    return Server(plan(name, hidden=hidden), settled, KEYS, folder / "server", transport)


def run(name: str, folder: Path, *, hidden: int = 5, **terms: Any) -> tuple[list[Round], InProcess]:
    """Served and closed, by a transport that does what it should."""
    transport = InProcess(nodes(name, folder, hidden=hidden))
    server = serve(name, folder, transport, hidden=hidden, **terms)
    rounds = list(server.rounds())
    server.close()
    return rounds, transport


def simulated(
    name: str, rounds: int = 4, *, cohort: int | None = None, accepted: Sequence[Sequence[ClientId]] | None = None,
    hidden: int = 5,
) -> tuple[list[Round], Mapping[ClientId, Tree]]:  # fmt: skip
    """The same by `synchronous` on the engine that is the reference, in the same whole numbers: rounds and memories.

    Args:
        accepted: who answers, round by round; None: all.
    """
    (_, sampler), start = case(name, hidden)
    algorithm = plan(name, hidden=hidden).algorithm  # weights are cut to the plan's cap
    algorithm = replace(algorithm, reduce=RoundPolicy(rounds=1, clients=CLIENTS).reduce(algorithm))
    engine = OneByOne(Sampled(population(), sampler, seed=SEED))
    answering = None if accepted is None else lambda chosen, number: accepted[number]
    schedule = synchronous(algorithm, engine, start, cohort=cohort, seed=SEED, answering=answering)
    return [next(schedule) for _ in range(rounds)], engine.memory()


def same(a: Tree, b: Tree) -> bool:
    """Bit for bit."""
    return tree.structure_of(a) == tree.structure_of(b) and all(
        x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True)
    )
