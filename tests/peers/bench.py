"""Peers in one process on a clock of their own, and a network between them that loses what it is told to lose."""

import heapq
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seedbed import randomness, tree
from seedbed.algorithms.dif_maml import dif_maml
from seedbed.algorithms.dpsgd import dpsgd
from seedbed.algorithms.fedavgm import fedavgm
from seedbed.algorithms.push_sum import push_sum
from seedbed.algorithms.scaffold import scaffold
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, Sampler, batches, support_query
from seedbed.deployment.federation.protocol import FederationProtocol
from seedbed.deployment.peers.peer import Peer
from seedbed.deployment.peers.peer_policy import PeerPolicy
from seedbed.engines import OneByOne
from seedbed.federated import Algorithm, ClientId, ServerState
from seedbed.learning.objectives import Objective, cross_entropy, supervised
from seedbed.learning.optimizers import sgd
from seedbed.models import Model, mlp
from seedbed.randomness import seeded_init
from seedbed.rounds import Round, gossip
from seedbed.rounds.mixing import Mixing, MixingMatrix, mixing

SIZES = (9, 12, 14, 10, 17, 11)
SEED = 5
NAMES = "abcdef"
LEARNING = 8  # rounds after which `learn, then mix` only mixes


def learning(done: Tensor) -> Tensor:
    """The count of steps is mixed too, and so may be a rounding away from a whole number."""
    return (done < LEARNING - 0.5).to(done)


def key(i: ClientId, j: ClientId) -> bytes:
    return bytes([min(i, j), max(i, j), 7, 7]) * 8


def population(peers: int) -> Population:
    """All of it, which no peer has."""
    g, sizes = torch.Generator().manual_seed(0), SIZES[:peers]
    y = torch.cat([torch.arange(n) % 3 for n in sizes])
    x = 2 * torch.randn(3, 4, generator=g)[y] + torch.randn(len(y), 4, generator=g)
    return Population.from_arrays(x, y, np.repeat(np.arange(peers), sizes))


def made(name: str) -> tuple[Algorithm, Sampler, ServerState]:
    with seeded_init(0):
        model = Model(mlp((4,), 3, hidden=(5,)))
    loss: Objective = supervised(model.predict, cross_entropy)
    algorithms: dict[str, Callable[[], Algorithm]] = {
        "dpsgd": lambda: dpsgd(loss, outer=sgd(0.2)),
        "learn, then mix": lambda: dpsgd(loss, outer=sgd(0.5, schedule=learning)),
        "still": lambda: dpsgd(loss, outer=sgd(0.0)),
        "push_sum": lambda: push_sum(loss, outer=sgd(0.2)),
        "still push_sum": lambda: push_sum(loss, outer=sgd(0.0)),
        "scaffold": lambda: scaffold(loss, local=sgd(0.1)),
        "fedavgm": lambda: fedavgm(loss, local=sgd(0.1)),
        "dif_maml": lambda: dif_maml(loss),
    }
    algorithm = algorithms[name]()
    sampler = support_query(0.5, steps=2) if name == "dif_maml" else batches(4)
    return algorithm, sampler, algorithm.init(model.params)


def plan(name: str, scattered: ClientId | None = None) -> FederationProtocol:
    """Made from settings and made-up numbers alone; `scattered`: this peer starts elsewhere than others."""
    algorithm, sampler, start = made(name)
    if scattered is not None:
        g = torch.Generator().manual_seed(scattered)
        start = start._replace(params=tree.map(lambda x: torch.randn(x.shape, generator=g).to(x), start.params))
    made_up = Population.from_arrays(torch.zeros(9, 4), torch.arange(9) % 3, ["nobody"] * 9)
    return FederationProtocol(
        f"test-{name}", algorithm, start, tree.index(Sampled(made_up, sampler).tasks([0], 0), 0), {"a": name}
    )


def peer(name: str, own: ClientId, terms: PeerPolicy, folder: Path, *, scattered: bool = False, **other: Any) -> Peer:
    """A peer with its own rows, and nobody else's."""
    whole = population(len(terms.names))
    rows = whole.rows_of(own)
    mine = Population.from_arrays(whole.x[rows], whole.y[rows], ["here"] * len(rows))
    source = Sampled(mine, made(name)[1], seed=SEED, first=own)
    keys = {j: key(own, j) for j in range(len(terms.names)) if j != own}
    return Peer(plan(name, own if scattered else None), terms, own, source, keys, folder / NAMES[own], **other)


def terms(peers: int = 4, **other: Any) -> PeerPolicy:
    return PeerPolicy(**{"names": tuple(NAMES[:peers]), "rounds": 6, "seed": SEED, **other})


def simulated(name: str, settled: PeerPolicy, mixes: Mapping[int, MixingMatrix] | None = None) -> list[Round]:
    """The same by `gossip`, with the exchanges that there were; None: all."""
    algorithm, sampler, start = made(name)
    engine = OneByOne(Sampled(population(len(settled.names)), sampler, seed=SEED))
    whole: Mixing = mixing(settled.links, directed=settled.directed)
    schedule = gossip(
        algorithm, engine, start, mixing=whole if mixes is None else mixes.__getitem__, order=settled.order
    )
    return [next(schedule) for _ in range(settled.rounds)]


def states(last: Round) -> list[dict[str, Tensor]]:
    """Each peer's own leaves after a simulated round."""
    rest = last.rest()
    count = len(next(iter(rest.values())))
    return [{name.removeprefix("peers."): leaf[i] for name, leaf in rest.items()} for i in range(count)]


def apart(state: ServerState, leaves: Mapping[str, Tensor]) -> float:
    own = tree.named_leaves(state)
    assert own.keys() == leaves.keys()
    return max(float((own[n].double() - leaves[n].double()).abs().max()) for n in own)


def carried(
    settled: PeerPolicy, took: Mapping[ClientId, Sequence[Round]], dead: ClientId | None = None
) -> dict[int, MixingMatrix]:
    """The exchanges that there were, from what each peer says of its rounds; both ends must say the same.

    Args:
        dead: a peer that was killed for good: of its links the others' word counts.
    """
    n, found = len(settled.names), {}
    said = {(i, r.number - 1): set(r.clients) - {i} for i, rounds in took.items() for r in rounds if i != dead}
    for t in range(settled.rounds):
        links = torch.zeros(n, n, dtype=torch.bool)
        for i in range(n):
            for j in said.get((i, t), set()):
                assert j == dead or i in said.get((j, t), set()), f"round {t}: {i} counted {j}, but not {j} {i}"
                links[i, j] = links[j, i] = True
        shares = torch.where(links & settled.links(t), settled.weights(t), 0.0)
        matrix = shares + torch.diag(1 - shares.sum(0 if settled.directed else 1))
        up = [(i, t) in said or bool(links[i].any()) for i in range(n)]
        found[t] = MixingMatrix(matrix, tuple(up))
    return found


class World:
    """Peers and a network on one clock.

    Args:
        lose: (from, to, seconds) -> whether a message is lost; `late`: seconds that it travels.
    """

    def __init__(
        self,
        make: Callable[[ClientId, int], Peer],
        peers: int,
        *,
        lose: Callable[[ClientId, ClientId, float], bool] = lambda i, j, t: False,
        late: Callable[[], float] = lambda: 0.01,
    ):
        self.make, self.lose, self.late = make, lose, late
        self.now, self.starts = 0.0, 0
        self.alive: dict[ClientId, Peer] = {}
        self.took: dict[ClientId, list[Round]] = {i: [] for i in range(peers)}
        self.ended: dict[ClientId, Peer] = {}
        self._travelling: list[tuple[float, int, ClientId, int, list[bytes]]] = []
        self._order = count()
        for i in range(peers):
            self.start(i)

    def start(self, i: ClientId) -> None:
        self.starts += 1
        self.alive[i] = self.make(i, self.starts)
        reached = self.alive[i].round  # what it had closed and forgot to write down never was
        self.took[i] = [r for r in self.took[i] if r.number <= reached]

    def kill(self, i: ClientId) -> None:
        self.alive.pop(i).close()

    def step(self, seconds: float = 0.05) -> None:
        """So much later: what has arrived is taken, and everybody does what it can."""
        self.now += seconds
        while self._travelling and self._travelling[0][0] <= self.now:
            _, _, to, started, frames = heapq.heappop(self._travelling)
            if to in self.alive and self.alive[to].session == started:
                self.alive[to].take(frames, self.now)
        for i, one in list(self.alive.items()):
            self.turn(i, one)

    def turn(self, i: ClientId, one: Peer) -> None:
        closed = one.advance(self.now)
        if closed is not None:
            self.took[i].append(closed)
        for to, frames in one.outbox(self.now):
            if to in self.alive and not self.lose(i, to, self.now):
                due = self.now + self.late()
                heapq.heappush(
                    self._travelling, (due, next(self._order), to, self.alive[to].session, [bytes(f) for f in frames])
                )
        if one.left:
            self.ended[i] = self.alive.pop(i)
            one.close()

    def run(self, until: float = 10_000.0) -> None:
        while self.alive and self.now < until:
            self.step()
        assert not self.alive, (
            f"still at work after {self.now} seconds: {[(i, p.round) for i, p in self.alive.items()]}"
        )


def chances(seed: int, *key: int) -> np.random.Generator:
    return randomness.generator(seed, "faults", *key)
