"""Gossip: mixing matrices, what they do to peers, D-PSGD, Dif-MAML and push-sum on quadratics.

Shapes: N peers, D dimensions of a quadratic.
"""

import math
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from seedbed import tree
from seedbed.algorithms.dif_maml import dif_maml
from seedbed.algorithms.dpsgd import dpsgd
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedavgm import fedavgm
from seedbed.algorithms.fedmeta import fedmeta
from seedbed.algorithms.fedsgd import fedsgd
from seedbed.algorithms.meta_sgd import meta_sgd
from seedbed.algorithms.push_sum import push_sum
from seedbed.algorithms.scaffold import scaffold
from seedbed.data.types import Episode, Task
from seedbed.engines import OneByOne, Vectorised
from seedbed.errors import InputError
from seedbed.federated import Algorithm, Replies, ServerState, uniform
from seedbed.learning.optimizers import adam, sgd
from seedbed.rounds import Round, gossip, mixing, synchronous, topology_links
from seedbed.rounds.gossip import GossipOrder
from seedbed.rounds.mixing import (
    DIRECTED,
    TOPOLOGIES,
    MixingMatrix,
    Topology,
    connected,
    grid_graph,
    ring,
    second_eigenvalue,
)

from .bench import ENGINES, D, Given, apart, bowl, bowls, start, task

N = 6
GAMMA = 0.2
UNDIRECTED = [name for name in TOPOLOGIES if name not in DIRECTED]
ORDERS: list[GossipOrder] = ["adapt_then_combine", "combine_then_adapt"]
every_engine = pytest.mark.parametrize("engine", ENGINES)
every_order = pytest.mark.parametrize("order", ORDERS)
every_topology = pytest.mark.parametrize("topology", TOPOLOGIES)


def mix(topology: Topology, peers: int = N, **failing: float) -> Callable[[int], MixingMatrix]:
    return mixing(topology_links(topology, peers, seed=3), directed=topology in DIRECTED, seed=3, **failing)  # type: ignore[arg-type]


def tasks(count: int = N) -> list[Task]:
    """A quadratic each, with unequal numbers of examples, which peers do not look at."""
    return [task(item, examples=1 + c) for c, item in enumerate(bowls(count))]


def run(algorithm: Algorithm, engine: Any, count: int, given: Any = None, **settings: Any) -> list[Round]:
    where = engine(Given(given or tasks()))
    return list(islice(gossip(algorithm, where, algorithm.init(start()), **settings), count))


def points(round: Round) -> Tensor:
    """The peers' own w [N, D]."""
    return round.rest()["peers.params.w"]


def scattered(seed: int = 0) -> Tensor:
    """Unlike places of the peers [N, D]."""
    return torch.randn(N, D, generator=torch.Generator().manual_seed(seed))


def spread(x: Tensor) -> float:
    """The norm of what the peers differ by."""
    return float((x - x.mean(0)).norm())


# ---- matrices -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topology", UNDIRECTED)
@pytest.mark.parametrize("failing", [{}, {"link_failure": 0.3, "peer_failure": 0.2}])
def test_undirected_exchanges_are_symmetric_and_doubly_stochastic(topology: Topology, failing: Any) -> None:
    """For any number of peers, in every round, whoever fails: rows and columns sum to 1, nothing is negative, nothing
    goes where no link is, and who is down keeps its own."""
    for peers in (1, 2, 3, 4, 7, 12):
        links, exchange = topology_links(topology, peers, seed=3), mix(topology, peers, **failing)
        for number in range(8):
            w, up = exchange(number)
            off = w * (1 - torch.eye(peers))
            assert torch.equal(w, w.T)
            assert float((w.sum(1) - 1).abs().max()) < 1e-15
            assert float(w.min()) >= -1e-15
            assert bool((links(number) | (off == 0)).all())
            assert all(bool((w[i] == torch.eye(peers)[i]).all()) for i in range(peers) if not up[i])
            assert all(up) or failing


@pytest.mark.parametrize("topology", DIRECTED)
@pytest.mark.parametrize("failing", [{}, {"link_failure": 0.3, "peer_failure": 0.2}])
def test_along_directed_links_columns_sum_to_1(topology: Topology, failing: Any) -> None:
    lopsided = False
    for peers in (1, 2, 3, 4, 7, 12):
        for number in range(8):
            w, _ = mix(topology, peers, **failing)(number)
            assert float((w.sum(0) - 1).abs().max()) < 1e-15
            assert float(w.min()) >= 0
            lopsided |= float((w.sum(1) - 1).abs().max()) > 0.1
    assert lopsided == bool(failing)


def test_metropolis_by_hand() -> None:
    """1/(1 + max(d_i, d_j)): thirds on a ring of four and on a line of three (a grid of 1 × 3), halves in a pair,
    1/N where all hear all; on a grid of 2 × 3 the corners have degree 2, the two in the middle 3."""
    third = 1 / 3
    line = torch.tensor([[2 * third, third, 0], [third, third, third], [0, third, 2 * third]])
    assert apart(mix("grid", 3)(0).matrix, line) < 1e-15
    assert apart(mix("ring", 4)(0).matrix, third * (torch.ones(4, 4) - torch.eye(4).roll(2, 1))) < 1e-15
    assert apart(mix("ring", 2)(5).matrix, torch.full((2, 2), 0.5)) < 1e-15
    assert apart(mix("complete", 7)(0).matrix, torch.full((7, 7), 1 / 7)) < 1e-15
    w = mix("grid", 6)(0).matrix
    assert [round(float(w[0, j]), 9) for j in (1, 2, 0)] == [round(x, 9) for x in (third, 0.25, 1 - third - 0.25)]


def test_lambda2_by_hand() -> None:
    """A ring with thirds is circulant: eigenvalues (1 + 2cos(2πk/N))/3. All to all: 1, 0, …, 0. A directed ring with
    halves: (1 + exp(2πik/N))/2, of absolute value |cos(πk/N)|."""
    for n in (5, 9, 16):
        assert math.isclose(second_eigenvalue(mix("ring", n)(0).matrix), (1 + 2 * math.cos(2 * math.pi / n)) / 3)
        assert math.isclose(second_eigenvalue(mix("directed_ring", n)(0).matrix), math.cos(math.pi / n))
        assert second_eigenvalue(mix("complete", n)(0).matrix) < 1e-14
    assert second_eigenvalue(torch.ones(1, 1)) == 0


def test_topologies_are_connected_and_those_that_change_do() -> None:
    """A pairing is not connected, nor twelve who hear from the one two before them; over several rounds they are."""
    for name in TOPOLOGIES:
        links = topology_links(name, 12, density=0.3, seed=1)
        assert connected(links(1)) == (name not in ("matching", "exponential"))
        assert torch.equal(links(4), topology_links(name, 12, density=0.3, seed=1)(4))
        assert torch.equal(links(0), links(1)) == (name not in ("matching", "exponential"))
    assert topology_links("matching", 7, seed=0)(0).sum() == 6
    reached = sum((topology_links("exponential", 12)(t) for t in range(4)), torch.zeros(12, 12, dtype=torch.bool))
    assert connected(reached)
    assert not torch.equal(topology_links("erdos_renyi", 12, seed=1)(0), topology_links("erdos_renyi", 12, seed=2)(0))
    assert grid_graph(12).sum() == 2 * (3 * 3 + 2 * 4)
    assert not connected(ring(4) & torch.zeros(4, 4, dtype=torch.bool))


def test_failures_are_as_probable_as_said_and_drawn_by_seed_and_round() -> None:
    """A link of which both ends are up carries with probability .7; of 30 · 400 peers .8 are up."""
    exchange, carried, up = mix("complete", 30, link_failure=0.3, peer_failure=0.2), 0.0, 0.0
    for number in range(400):
        w, there = exchange(number)
        ok = torch.tensor(there)
        both = (ok[:, None] & ok[None, :]) & ~torch.eye(30, dtype=torch.bool)
        carried += float((w[both] > 0).double().mean()) / 400
        up += sum(there) / 30 / 400
    assert abs(carried - 0.7) < 0.01
    assert abs(up - 0.8) < 0.015
    assert torch.equal(exchange(7).matrix, mix("complete", 30, link_failure=0.3, peer_failure=0.2)(7).matrix)
    assert not torch.equal(exchange(7).matrix, exchange(8).matrix)


# ---- what mixing does -----------------------------------------------------------------------------------------------

STILL = sgd(0.0)


@every_engine
@pytest.mark.parametrize("topology", UNDIRECTED)
@pytest.mark.parametrize("failing", [{}, {"link_failure": 0.3, "peer_failure": 0.2}])
def test_the_mean_is_preserved_and_disagreement_shrinks_by_lambda2(
    engine: Any, topology: Topology, failing: Any
) -> None:
    """Nobody learns (γ = 0). W symmetric doubly stochastic: 1ᵀWx = 1ᵀx; on what is orthogonal to 1, ‖Wx‖ ≤ |λ_2|‖x‖."""
    algorithm, x = dpsgd(bowl, outer=STILL), scattered()
    rest = {"peers.params.w": x}
    schedule = gossip(algorithm, engine(Given(tasks())), algorithm.init(start()),
                      mixing=mix(topology, **failing), rest=rest)  # fmt: skip
    for got in islice(schedule, 12):
        after = points(got)
        assert apart(after.mean(0), scattered().mean(0)) < 1e-14
        assert apart(got.state.params["w"], scattered().mean(0)) < 1e-14
        assert spread(after) <= got.info["lambda2"] * spread(x) + 1e-14
        assert math.isclose(got.info["consensus"], spread(after) / math.sqrt(N), abs_tol=1e-15)
        x = after
    assert spread(x) < 0.5 * spread(scattered())


def test_the_bound_is_reached() -> None:
    """Along the second eigenvector of a ring, disagreement is |λ_2|^t exactly."""
    w = mix("ring")(0).matrix
    slow = torch.linalg.eigh(w).eigenvectors[:, -2]
    algorithm, rest = dpsgd(bowl, outer=STILL), {"peers.params.w": slow[:, None].expand(N, D).clone()}
    schedule = gossip(algorithm, OneByOne(Given(tasks())), algorithm.init(start()), mixing=mix("ring"), rest=rest)
    for t, got in enumerate(islice(schedule, 10), 1):
        assert math.isclose(spread(points(got)), got.info["lambda2"] ** t * math.sqrt(D), rel_tol=1e-12)


@every_engine
def test_push_sum_finds_the_mean_that_plain_directed_averaging_misses(engine: Any) -> None:
    """A directed ring whose links fail (γ = 0). Pushed shares keep Σx and Σw = N, so that z = x/w of all goes to Σx/N.
    Plain averaging, where each takes the mean of its own and of what it hears (rows sum to 1), agrees on something
    else: Σ_i π_i x_i, with π that depends on what failed."""
    push, plain = push_sum(bowl, outer=STILL), dpsgd(bowl, outer=STILL)
    truth, pushing = scattered().mean(0), mix("directed_ring", link_failure=0.2)

    def hearing(number: int) -> MixingMatrix:
        heard = (pushing(number).matrix > 0).double()
        heard = torch.maximum(heard, torch.eye(N))
        return MixingMatrix(heard / heard.sum(1, keepdim=True), (True,) * N)

    at = {"peers.params.w": scattered()}
    counted = {**at, "peers.extra.w": torch.ones(N)}
    last = list(islice(gossip(push, engine(Given(tasks())), push.init(start()), mixing=pushing, rest=counted), 220))[-1]
    z = points(last) / last.rest()["peers.extra.w"][:, None]
    assert apart(z, truth.expand(N, D)) < 1e-10
    assert last.info["consensus"] < 1e-10
    assert apart(last.state.params["w"], truth) < 1e-14
    assert abs(float(last.state.extra["w"]) - 1) < 1e-14
    assert apart(points(last), truth.expand(N, D)) > 0.1
    got = list(islice(gossip(plain, engine(Given(tasks())), plain.init(start()), mixing=hearing, rest=at), 220))[-1]
    assert got.info["consensus"] < 1e-10
    assert apart(points(got)[0], truth) > 0.1


def test_only_floating_leaves_are_mixed() -> None:
    """Counts stay each peer's own."""
    start_, algorithm = {"w": torch.zeros(D)}, dpsgd(bowl)

    def server(state: ServerState, replies: Replies) -> ServerState:
        return ServerState(state.params, {"count": state.extra["count"] + 1 + replies.clients[0]})

    counting = Algorithm(lambda p: ServerState(p, {"count": torch.tensor(0)}), algorithm.client, server)
    schedule = gossip(counting, OneByOne(Given(tasks())), counting.init(start_), mixing=mix("ring"))
    got = list(islice(schedule, 3))[-1]
    assert got.rest()["peers.extra.count"].tolist() == [3 * (1 + i) for i in range(N)]


@every_engine
@every_order
def test_peers_that_are_down_stay_as_they_are(engine: Any, order: GossipOrder) -> None:
    """They are not asked, keep what they keep, and neither give nor take; in a round without anybody nothing moves."""
    algorithm, exchange = scaffold(bowl, local=sgd(GAMMA)), mix("ring", peer_failure=0.6)
    where = engine(Given(tasks()))
    before, kept = start()["w"].expand(N, D), dict[int, Any]()
    nobody = False
    for got in islice(gossip(algorithm, where, algorithm.init(start()), mixing=exchange, order=order), 60):
        up = exchange(got.number - 1).up
        assert list(got.clients) == [i for i in range(N) if up[i]]
        for i in range(N):
            moved = not torch.equal(points(got)[i], before[i])
            assert moved == up[i]
            if not up[i] and i in kept:
                assert apart(where.memory()[i], kept[i]) == 0
        nobody |= not any(up)
        before, kept = points(got), dict(where.memory())
    assert nobody


# ---- learning between peers -----------------------------------------------------------------------------------------


@every_engine
@every_order
@pytest.mark.parametrize("topology", UNDIRECTED)
def test_dpsgd_is_its_recursion_and_ends_at_its_fixed_point(
    engine: Any, order: GossipOrder, topology: Topology
) -> None:
    """On ½(x−c_i)ᵀA_i(x−c_i) with the peers' points stacked, X [N·D], 𝒲 = W ⊗ I, 𝒜 = diag(A_i):
        combine_then_adapt (the paper's)  X ← 𝒲X − γ𝒜(X − c):     fixed point (I − 𝒲 + γ𝒜)⁻¹ γ𝒜c
        adapt_then_combine                X ← 𝒲(X − γ𝒜(X − c)):   fixed point (I − 𝒲(I − γ𝒜))⁻¹ γ𝒲𝒜c
    which are not the same, nor any peer's own optimum, nor the common one."""
    items, exchange = bowls(N), mix(topology)
    a = torch.block_diag(*(i["A"] for i in items))
    c = torch.cat([i["c"] for i in items])
    eye, x = torch.eye(N * D), start()["w"].repeat(N)
    settled = topology == "ring" and engine is Vectorised
    got = run(dpsgd(bowl, outer=sgd(GAMMA)), engine, 20 + 280 * settled, mixing=exchange, order=order)
    for round in got[:20]:
        w = torch.kron(exchange(round.number - 1).matrix, torch.eye(D))
        pull = GAMMA * a @ (x - c)
        x = w @ x - pull if order == "combine_then_adapt" else w @ (x - pull)
        assert apart(points(round), x.reshape(N, D)) < 1e-13
    if settled:
        w = torch.kron(exchange(0).matrix, torch.eye(D))
        combine = order == "combine_then_adapt"
        m, b = (eye - w + GAMMA * a, a @ c) if combine else (eye - w @ (eye - GAMMA * a), w @ a @ c)
        assert apart(points(got[-1]), torch.linalg.solve(m, GAMMA * b).reshape(N, D)) < 1e-10


@every_engine
def test_averaged_gradients_between_all_peers_are_fedsgd(engine: Any) -> None:
    """W = 11ᵀ/N: after each round all replicas are the mean of x − γg_i(x), which is FedSGD's x − γ·mean g_i(x): the
    same numbers on every peer, bit for bit, and the server's to rounding. (Combine-then-adapt is another sequence:
    there replicas differ by their own last gradients.)"""
    algorithm = dpsgd(bowl, outer=sgd(GAMMA))
    got = run(algorithm, engine, 10, mixing=mix("complete"))
    parent = uniform(fedsgd(bowl, outer=sgd(GAMMA)))
    wanted = synchronous(parent, engine(Given(tasks())), parent.init(start()))
    for round, central in zip(got, wanted, strict=False):
        assert apart(points(round), points(round)[:1].expand(N, D)) < 1e-15
        assert apart(round.state.params, central.state.params) < 1e-14
        assert round.info["consensus"] < 1e-15
    other = run(algorithm, engine, 10, mixing=mix("complete"), order="combine_then_adapt")
    assert other[-1].info["consensus"] > 0.1


def episodes(count: int = N) -> list[Task]:
    found = bowls(2 * count)
    return [task(Episode(found[2 * c], found[2 * c + 1])) for c in range(count)]  # type: ignore[arg-type]


CENTRAL: Mapping[str, tuple[Callable[[], Algorithm], Callable[[], Algorithm], Any]] = {
    "dif_maml: fedmeta": (
        lambda: dif_maml(bowl, lr=0.2, steps=2, outer=sgd(GAMMA)),
        lambda: fedmeta(bowl, lr=0.2, steps=2, outer=sgd(GAMMA)),
        episodes,
    ),
    "meta_sgd": (
        lambda: meta_sgd(bowl, outer=sgd(GAMMA)),
        lambda: meta_sgd(bowl, outer=sgd(GAMMA)),
        episodes,
    ),
    "fedavg": (lambda: fedavg(bowl, local=sgd(GAMMA)), lambda: uniform(fedavg(bowl, local=sgd(GAMMA))), tasks),
    "fedavgm": (lambda: fedavgm(bowl, local=sgd(GAMMA)), lambda: uniform(fedavgm(bowl, local=sgd(GAMMA))), tasks),
    "scaffold": (lambda: scaffold(bowl, local=sgd(GAMMA)), lambda: scaffold(bowl, local=sgd(GAMMA)), tasks),
    "push_sum: fedsgd": (
        lambda: push_sum(bowl, outer=sgd(GAMMA, momentum=0.9)),
        lambda: uniform(fedsgd(bowl, outer=sgd(GAMMA, momentum=0.9))),
        tasks,
    ),
}


@every_engine
@pytest.mark.parametrize("name", CENTRAL)
def test_between_all_peers_a_linear_server_is_the_central_one(engine: Any, name: str) -> None:
    """W = 11ᵀ/N, adapt-then-combine: mean_i server(x, m_i) = server(x, mean_i m_i) where the server's step is linear in
    state and message (SGD, momentum, control variates with everybody there), and all count the same."""
    here, central, given = CENTRAL[name]
    algorithm, parent = here(), central()
    got = run(algorithm, engine, 8, given(), mixing=mix("complete"))
    wanted = list(islice(synchronous(parent, engine(Given(given())), parent.init(start())), 8))
    for a, b in zip(got, wanted, strict=True):
        assert apart(a.state.params, b.state.params) < 1e-13
        assert a.info["consensus"] < 1e-14


def test_an_adaptive_server_between_peers_is_not_the_central_one() -> None:
    """The law above must be able to fail: each peer's Adam divides by its own gradient."""
    algorithm = dpsgd(bowl, outer=adam(GAMMA))
    got = run(algorithm, OneByOne, 3, mixing=mix("complete"))[-1]
    wanted = list(islice(synchronous(algorithm, OneByOne(Given(tasks())), algorithm.init(start())), 3))[-1]
    assert apart(got.state.params, wanted.state.params) > 0.01


@every_engine
@pytest.mark.parametrize("topology", DIRECTED)
def test_push_sum_is_stochastic_gradient_push(engine: Any, topology: Topology) -> None:
    """SGP, Algorithm 1, in plain loops along links that fail: the gradient at z_j = x_j/w_j, off x_j; then both are
    pushed."""
    items, exchange = bowls(N), mix(topology, link_failure=0.3)
    x, w = start()["w"].repeat(N, 1), torch.ones(N)
    got = run(push_sum(bowl, outer=sgd(GAMMA)), engine, 25, mixing=exchange)
    for round in got:
        slopes = torch.stack([i["A"] @ (x[k] / w[k] - i["c"]) for k, i in enumerate(items)])
        p = exchange(round.number - 1).matrix
        x, w = p @ (x - GAMMA * slopes), p @ w
        assert apart(points(round), x) < 1e-12
        assert apart(round.rest()["peers.extra.w"], w) < 1e-13


def test_push_sum_ends_near_the_common_optimum() -> None:
    """Of the mean loss, (ΣA)⁻¹ΣAc, to O(γ), from far away."""
    items = bowls(N)
    best = torch.linalg.solve(sum(i["A"] for i in items), sum(i["A"] @ i["c"] for i in items))
    last = run(push_sum(bowl, outer=sgd(0.03)), Vectorised, 150, mixing=mix("directed_ring"))[-1]
    assert apart(last.state.params["w"], best) < 0.02 < 0.5 < apart(start()["w"], best)


# ---- stopping and going on ------------------------------------------------------------------------------------------


@every_engine
@every_order
def test_stop_and_resume_is_not_stopping(engine: Any, order: GossipOrder) -> None:
    """After each of four rounds, the peers' states and memories go to a new engine and a new schedule: bit for bit."""
    algorithm = scaffold(bowl, local=sgd(GAMMA), outer=sgd(0.5, momentum=0.9))
    settings: dict[str, Any] = {"mixing": mix("erdos_renyi", link_failure=0.2, peer_failure=0.2), "order": order}
    whole, past = engine(Given(tasks())), []
    for round in islice(gossip(algorithm, whole, algorithm.init(start()), **settings), 6):
        past.append((round, dict(whole.memory()), round.rest()))
    for stop in range(4):
        round, memory, rest = past[stop]
        again = engine(Given(tasks()))
        again.recall(memory)
        given = tree.map(torch.clone, (round.state, dict(rest)))
        resumed = gossip(algorithm, again, given[0], done=round.number, rest=given[1], **settings)
        for (later, kept, left), got in zip(past[stop + 1 :], resumed, strict=False):
            assert (later.number, later.clients, later.info) == (got.number, got.clients, got.info)
            assert apart((later.state, dict(left)), (got.state, dict(got.rest()))) == 0
            assert apart(dict(sorted(kept.items())), dict(sorted(again.memory().items()))) == 0


# ---- refused --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match=r"link_failure=1.0 .* less than 1"):
        mix("ring", link_failure=1.0)
    with pytest.raises(InputError, match=r"peer_failure=-0.1 .* from 0"):
        mix("ring", peer_failure=-0.1)
    with pytest.raises(InputError, match=r"density=0.01 did not connect 20 peers .* here 0.15"):
        topology_links("erdos_renyi", 20, density=0.01)
    with pytest.raises(InputError, match=r"round \d+: the model is no longer finite .* lower learning rates"):
        run(dpsgd(bowl, outer=sgd(1e200)), OneByOne, 5, mixing=mix("ring"))
