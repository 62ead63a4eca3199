"""The asynchronous schedule: its clock by hand, FedAsync and FedBuff on it, and what they are when nobody is late."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from seedbed import tree
from seedbed.algorithms.fedadam import fedadam
from seedbed.algorithms.fedasync import fedasync, staleness_factor
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedbuff import fedbuff
from seedbed.algorithms.scaffold import scaffold
from seedbed.data.types import Task
from seedbed.engines import OneByOne, Vectorised
from seedbed.errors import InputError
from seedbed.federated import Algorithm, uniform
from seedbed.learning.optimizers import sgd
from seedbed.rounds import Round, asynchronous, equal_latency, lognormal_latency, synchronous

from .bench import ENGINES, D, Given, apart, bowl, bowls, start, task

ETA = 0.2
SECONDS = (2.0, 3.0, 7.0)
every_engine = pytest.mark.parametrize("engine", ENGINES)


def by_client(client: int, version: int) -> float:
    return SECONDS[client]


def clients(count: int = 3) -> list[Task | Callable[[int], Task]]:
    """A quadratic each, another one in each piece of work, in unequal numbers of steps and of examples."""

    def work(client: int) -> Callable[[int], Task]:
        return lambda number: task(*bowls(1 + client % 3, seed=10 * number + client), examples=1.0 + client)

    return [work(c) for c in range(count)]


def by_number(memory: Mapping[int, Any]) -> dict[int, Any]:
    """In order, for engines meet clients in orders of their own."""
    return dict(sorted(memory.items()))


def run(algorithm: Algorithm, engine: Any, count: int, **settings: Any) -> list[Round]:
    tasks = settings.pop("tasks", None) or clients()
    schedule = asynchronous(algorithm, engine(Given(tasks)), algorithm.init(start()), **settings)
    return list(islice(schedule, count))


# ---- the clock ------------------------------------------------------------------------------------------------------

# Clients 0, 1, 2 take 2, 3 and 7 seconds and start at 0. At 6 both 0 (sent at 4) and 1 (sent at 3) are there: 0 comes
# first, and both are sent out again only after that. (seconds, client, version that it was sent, versions since)
TRACE = [
    (2.0, 0, 0, 0),
    (3.0, 1, 0, 1),
    (4.0, 0, 1, 1),
    (6.0, 0, 3, 0),
    (6.0, 1, 2, 2),
    (7.0, 2, 0, 5),
    (8.0, 0, 5, 1),
    (9.0, 1, 5, 2),
]


@every_engine
def test_the_clock_and_staleness_by_hand(engine: Any) -> None:
    got = run(fedasync(bowl), engine, len(TRACE), latency=by_client)
    found = [(r.info["time"], *r.clients, r.number - 1 - int(r.info["staleness"]), r.info["staleness"]) for r in got]
    assert found == [tuple(map(float, row)) for row in TRACE]


@every_engine
@pytest.mark.parametrize("decay", ["constant", "polynomial", "hinge"])
def test_fedasync_is_algorithm_1(engine: Any, decay: Any) -> None:
    """Along the trace above, θ_t = (1 − α_t)θ_{t−1} + α_t·w with α_t = α·s(δ) and w two gradient steps from the model
    of the version that the client was sent, on ½(w−c)ᵀA(w−c) + (ρ/2)‖w − θ_τ‖². Each client's quadratic is the same
    here in every piece of its work."""
    items, rho, alpha = bowls(3), 0.3, 0.6
    s = {
        "constant": lambda d: 1.0,
        "polynomial": lambda d: (1.0 + d) ** -0.5,
        "hinge": lambda d: 1.0 if d <= 1 else 1 / (3 * (d - 1) + 1),
    }[decay]
    path = [start()["w"]]
    for _, client, version, stale in TRACE:
        sent = w = path[version]
        for _ in range(2):
            w = w - ETA * (items[client]["A"] @ (w - items[client]["c"]) + rho * (w - sent))
        path.append((1 - alpha * s(stale)) * path[-1] + alpha * s(stale) * w)
    a = 3.0 if decay == "hinge" else None
    algorithm = fedasync(bowl, alpha=alpha, decay=decay, a=a, b=1, rho=rho, local=sgd(ETA))
    got = run(algorithm, engine, len(TRACE), latency=by_client, tasks=[task(i, i) for i in items])
    assert max(apart(r.state.params["w"], w) for r, w in zip(got, path[1:], strict=True)) < 1e-14


@every_engine
def test_fedasync_with_alpha_1_is_the_last_writer(engine: Any) -> None:
    """α = 1, s = 1: θ_t = w, the model that arrived, whatever came between."""
    items = bowls(3)
    got = run(
        fedasync(bowl, alpha=1, decay="constant", rho=0, local=sgd(ETA)),
        engine, len(TRACE), latency=by_client, tasks=[task(i) for i in items],
    )  # fmt: skip
    path = [start()["w"], *(r.state.params["w"] for r in got)]
    for (_, client, version, _), after in zip(TRACE, path[1:], strict=True):
        sent, item = path[version], items[client]
        assert apart(after, sent - ETA * item["A"] @ (sent - item["c"])) < 1e-15


@every_engine
def test_fedbuff_is_algorithm_1(engine: Any) -> None:
    """K = 2 along the same clock: replies 1, 2 make version 1; 3, 4 version 2; … With one step each
    Δ_i = η·A_i(θ_τ − c_i), θ ← θ − η_g·½(s(δ_1)Δ_1 + s(δ_2)Δ_2): divided by K, not by Σs. Versions differ from TRACE's
    as the server steps half as often: 0 at 4 was sent version 0 (at 2), 0 at 6 version 1 (sent at 4, after the reply
    of 3 seconds had made it), 1 at 6 version 1 (sent at 3); 2 at 7 version 0; 0 and 1 at 8 and 9 version 2 (sent at
    6, where three replies are in and the third waits)."""
    items, eta_g = bowls(3), 0.7
    replies = [(0, 0), (1, 0), (0, 0), (0, 1), (1, 1), (2, 0), (0, 2), (1, 2)]
    path = [start()["w"]]
    for first, second in zip(replies[::2], replies[1::2], strict=True):
        now, moved = len(path) - 1, torch.zeros(D)
        for client, version in (first, second):
            delta = ETA * items[client]["A"] @ (path[version] - items[client]["c"])
            moved = moved + (1 + now - version) ** -0.5 * delta / 2
        path.append(path[-1] - eta_g * moved)
    algorithm = fedbuff(bowl, local=sgd(ETA), outer=sgd(eta_g))
    unequal = [task(i, examples=n) for i, n in zip(items, (5.0, 1.0, 2.0), strict=True)]
    got = run(algorithm, engine, 4, latency=by_client, buffer=2, tasks=unequal)
    assert [r.info["time"] for r in got] == [3, 6, 7, 9]
    assert [list(r.clients) for r in got] == [[0, 1], [0, 0], [1, 2], [0, 1]]
    assert max(apart(r.state.params["w"], w) for r, w in zip(got, path[1:], strict=True)) < 1e-14


@pytest.mark.parametrize("decay", ["constant", "polynomial", "hinge"])
def test_staleness_is_1_when_fresh_and_never_grows(decay: Any) -> None:
    """s(0) = 1; s non-increasing and above 0. By hand: 1/√4 = ½ (polynomial, a = ½, δ = 3); hinge with the paper's
    a = 10, b = 4: 1 at δ = 4, 1/11 at δ = 5."""
    s = staleness_factor(decay)(torch.arange(20.0))
    assert s[0] == 1
    assert all(0 < b <= a for a, b in pairwise(s.tolist()))
    known = {"constant": (1, 1, 1), "polynomial": (0.5, 5**-0.5, 6**-0.5), "hinge": (1, 1, 1 / 11)}[decay]
    assert torch.allclose(s[3:6], torch.tensor(known, dtype=s.dtype), atol=1e-15)


# ---- nobody late ----------------------------------------------------------------------------------------------------

ALGORITHMS: Mapping[str, Callable[[], Algorithm]] = {
    "fedavg": lambda: fedavg(bowl, local=sgd(ETA, momentum=0.5)),
    "fedadam": lambda: fedadam(bowl, local=sgd(ETA)),
    "scaffold": lambda: scaffold(bowl, local=sgd(ETA)),
    "fedbuff": lambda: fedbuff(bowl, local=sgd(ETA)),
    "fedasync": lambda: fedasync(bowl, local=sgd(ETA)),
}
every_algorithm = pytest.mark.parametrize("name", ALGORITHMS)


@every_engine
@every_algorithm
@pytest.mark.parametrize("cohort", [5, 3])
def test_equal_speed_and_a_full_buffer_are_synchronous_rounds(engine: Any, name: str, cohort: int) -> None:
    """concurrency = buffer = cohort: all come in at once, one step, and the next cohort is drawn as it is with a
    server that waits. Bit for bit one by one; to rounding where the engines' groups are added up in another order."""
    algorithm, at = ALGORITHMS[name](), ALGORITHMS[name]().init(start())
    waiting, going = engine(Given(clients(5))), engine(Given(clients(5)))
    rounds = islice(synchronous(algorithm, waiting, at, cohort=cohort, seed=3), 6)
    steps = asynchronous(algorithm, going, at, latency=equal_latency(0.1), concurrency=cohort, buffer=cohort, seed=3)
    for a, b in zip(rounds, steps, strict=False):
        assert (a.number, a.clients) == (b.number, b.clients)
        assert b.info["staleness"] == 0
        assert apart(a.state, b.state) <= (0 if engine is OneByOne else 1e-14)
    for client, kept in waiting.memory().items():
        assert apart(kept, going.memory()[client]) <= 1e-14


@every_engine
def test_fedbuff_of_fresh_replies_is_uniform_fedavg(engine: Any) -> None:
    """K = m, δ = 0, η_g = 1: θ − (1/m)ΣΔ, bit for bit but for the factor mean(s) = 1."""
    found = []
    for algorithm in (fedbuff(bowl, local=sgd(ETA)), uniform(fedavg(bowl, local=sgd(ETA)))):
        found.append(run(algorithm, engine, 5, latency=equal_latency(), buffer=3)[-1].state)
    assert apart(*found) == 0


# ---- who works on what ----------------------------------------------------------------------------------------------


class Spied(Vectorised):
    """Writes down who is asked together, and with which number."""

    def __init__(self, source: Any):
        super().__init__(source)
        self.asks: list[tuple[int, list[int]]] = []

    def ask(self, algorithm: Algorithm, sent: Mapping[int, Any], round: int) -> Iterator[Any]:
        self.asks.append((round, list(sent)))
        return super().ask(algorithm, sent, round)


def test_every_piece_of_work_has_a_task_of_its_own_and_those_at_work_are_computed_together() -> None:
    """Nobody is computed twice on one task, and nobody while still at work: pieces = replies + those at work. With 20
    devices of unlike speed and a step at every reply, asks are several times fewer than replies."""
    tasks, engine = clients(20), Spied(Given(clients(20)))
    algorithm = fedasync(bowl, local=sgd(ETA))
    schedule = asynchronous(algorithm, engine, algorithm.init(start()), latency=lognormal_latency(0), concurrency=15)
    got = list(islice(schedule, 300))
    pieces = [(client, number) for number, chosen in engine.asks for client in chosen]
    assert len(pieces) == len(set(pieces))
    assert len(got) <= len(pieces) <= len(got) + 15
    assert [number for number, _ in engine.asks] == list(range(len(engine.asks)))
    assert 3 * len(engine.asks) < len(got)
    assert len(tasks) == len({c for chosen in got for c in chosen.clients})


@every_engine
def test_what_a_client_keeps_goes_on_from_its_own_last_work(engine: Any) -> None:
    """A client that keeps a count of its pieces of work says 0, 1, 2, … in the order in which it replies."""
    base = fedavg(bowl, local=sgd(ETA))

    def client(sent: Any, kept: Tensor, task: Task) -> Any:
        message, _ = base.client(sent, {}, task)
        return message._replace(info={"piece": kept}), kept + 1

    algorithm = replace(base, client=client, remember=lambda sent: torch.zeros(()))
    got = run(algorithm, engine, 60, latency=lognormal_latency(1, spread=1.0), tasks=clients(4), concurrency=3)
    said: dict[int, list[float]] = {}
    for round in got:
        said.setdefault(round.clients[0], []).append(round.info["piece"])
    assert len(said) == 4
    assert all(pieces == list(range(len(pieces))) for pieces in said.values())


def test_latencies_are_drawn_by_seed_client_and_version() -> None:
    """The same again when asked again, whatever was asked between; devices differ by `spread`, one device's pieces by
    `jitter`: log seconds have these standard deviations, which 400 devices show to 3·.7/√800, or better."""
    latency = lognormal_latency(0, median=2.0, spread=0.7, jitter=0.2)
    first = [[latency(c, v) for v in range(10)] for c in range(400)]
    assert first == [[latency(c, v) for v in range(10)] for c in range(400)]
    logs = torch.tensor(first).log()
    assert abs(float(logs.mean(1).std()) - 0.7) < 0.075
    assert abs(float((logs - logs.mean(1, keepdim=True)).std()) - 0.19) < 0.015
    assert abs(float(logs.mean()) - torch.tensor(2.0).log()) < 0.1
    assert lognormal_latency(1)(0, 0) != lognormal_latency(0)(0, 0)
    assert equal_latency(3.0)(5, 7) == 3


# ---- stopping and going on ------------------------------------------------------------------------------------------


@every_engine
@every_algorithm
def test_stop_and_resume_is_not_stopping(engine: Any, name: str) -> None:
    """After each of ten updates, state, memory and rest go to a new engine and a new schedule: bit for bit, also what
    the clients keep and the clock."""
    algorithm = ALGORITHMS[name]()
    settings: dict[str, Any] = {"latency": lognormal_latency(4, spread=1.0), "concurrency": 4, "buffer": 2, "seed": 1}
    whole = engine(Given(clients(6)))
    past = []
    for round in islice(asynchronous(algorithm, whole, algorithm.init(start()), **settings), 12):
        past.append((round, dict(whole.memory()), round.rest()))
    for stop in range(10):
        round, memory, rest = past[stop]
        again = engine(Given(clients(6)))
        again.recall(memory)
        given = tree.map(torch.clone, (round.state, dict(rest)))
        resumed = asynchronous(algorithm, again, given[0], done=round.number, rest=given[1], **settings)
        for (later, kept, left), got in zip(past[stop + 1 :], resumed, strict=False):
            assert (later.number, later.clients, later.info) == (got.number, got.clients, got.info)
            assert apart((later.state, by_number(kept)), (got.state, by_number(again.memory()))) == 0
            assert apart(dict(left), dict(got.rest())) == 0


@every_engine
def test_stopping_between_replies_of_one_moment(engine: Any) -> None:
    """Four clients of equal speed and a step at every reply: rounds 1 to 3 end in the midst of a moment."""
    algorithm = fedasync(bowl, local=sgd(ETA))
    past = run(algorithm, engine, 9, latency=equal_latency(), tasks=clients(4))
    assert [r.info["time"] for r in past] == [1, 1, 1, 1, 2, 2, 2, 2, 3]
    assert [list(r.clients) for r in past[:5]] == [[0], [1], [2], [3], [0]]
    for stop in range(8):
        round = past[stop]
        schedule = asynchronous(
            algorithm,
            engine(Given(clients(4))),
            round.state,
            latency=equal_latency(),
            done=round.number,
            rest=round.rest(),
        )
        assert apart([r.state for r in past[stop + 1 :]], [r.state for r in islice(schedule, 8 - stop)]) == 0


# ---- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"concurrency": 4}, r"concurrency=4 of 3 clients: choose between 1 and 3"),
        ({"concurrency": 0}, r"concurrency=0 of 3"),
        ({"buffer": 0}, r"buffer=0 .* at least 1"),
        ({"latency": equal_latency(0.0)}, r"latency\(0, 0\) is 0.0 seconds: it must be above 0"),
        ({"latency": equal_latency(float("nan"))}, r"latency\(0, 0\) is nan"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        run(fedasync(bowl), OneByOne, 1, **{"latency": equal_latency(), **settings})


def test_a_model_that_is_no_longer_finite_is_not_yielded() -> None:
    with pytest.raises(InputError, match=r"round \d+: the model is no longer finite .* lower learning rates"):
        run(fedavg(bowl, local=sgd(1e200)), OneByOne, 5, latency=equal_latency())
