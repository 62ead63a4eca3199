"""Attacks: what each says, in closed form; who attacks; and that an attacked run is as repeatable as any other.

Shapes: a attackers, h honest clients.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from seedbed import tree
from seedbed.aggregation import make_rule
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fltrust import fltrust
from seedbed.algorithms.momentum import with_momentum
from seedbed.algorithms.scaffold import scaffold
from seedbed.attacks import ATTACKS, AttackedEngine, PoisonedTasks, TriggeredTasks, choose_attackers
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, batches, episodes
from seedbed.data.types import Batch, Episode, Task
from seedbed.engines import OneByOne, Vectorised
from seedbed.errors import InputError
from seedbed.federated import Algorithm, ClientId, Message, uniform
from seedbed.learning.objectives import cross_entropy, supervised
from seedbed.learning.optimizers import sgd
from seedbed.rounds import Round, synchronous
from seedbed.tree import Tree

CLIENTS, HOSTILE = 7, frozenset({1, 4})
SHAPE = (1, 4, 4)


def population() -> Population:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(CLIENTS * 12) % 3
    x = torch.rand(len(y), *SHAPE, generator=g) / 4 + y[:, None, None, None] / 4
    return Population.from_arrays(x, y, [f"c{i // 12}" for i in range(len(y))], classes=("a", "b", "c"))


def predict(params: Mapping[str, Any], x: Any) -> Any:
    return x.flatten(1) @ params["w"] + params["b"]


LOSS = supervised(predict, cross_entropy)
START = {"w": torch.zeros(16, 3, dtype=torch.float64), "b": torch.zeros(3, dtype=torch.float64)}


def made(name: str, **settings: Any) -> Any:
    context: dict[str, Any] = {
        "label_flip": {"classes": 3},
        "backdoor": {"shape": SHAPE, "size": 2},
        "after_adaptation": {"loss": LOSS},
    }
    return ATTACKS[name](**context.get(name, {}), **settings)


def attacked(name: str | None, algorithm: Algorithm, engine: Any = OneByOne, **settings: Any) -> Any:
    source: Any = Sampled(population(), batches(4), seed=3)
    if name is None:
        return engine(source)
    attack = made(name, **settings)
    source = source if attack.poison is None else PoisonedTasks(source, attack.poison, HOSTILE)
    return AttackedEngine(engine(source), attack, HOSTILE, algorithm.init(START), seed=3)


def messages(name: str | None, round: int = 2, **settings: Any) -> dict[ClientId, Message]:
    """What each client says in a round."""
    algorithm = fedavg(LOSS)
    params = {"w": START["w"] + 0.1, "b": START["b"]}
    sent = dict.fromkeys(range(CLIENTS), params)
    return said_by(attacked(name, algorithm, **settings), algorithm, sent, round)


def said_by(engine: Any, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int) -> dict[ClientId, Message]:
    groups = engine.ask(algorithm, sent, round)
    return {c: tree.index(g.messages, i) for g in groups for i, c in enumerate(g.clients)}


def flat(message: Message) -> torch.Tensor:
    return torch.cat([leaf.flatten() for leaf in tree.leaves(message.value)])


def test_what_each_lie_says() -> None:
    """Against the same round without an attack, x_c: −x_c, 10·x_c, −3·mean, mean − 1.5·sd, the honest message farthest
    from the mean, noise three times as long as the honest on average, −x_c of weight 10⁶, ten names."""
    x = {c: flat(m) for c, m in messages(None).items()}
    honest = torch.stack([x[c] for c in range(CLIENTS) if c not in HOSTILE])
    far = honest[(honest - honest.mean(0)).norm(dim=1).argmax()]
    want = {
        "sign_flip": lambda own: -own,
        "scaling": lambda own: 10 * own,
        "ipm": lambda own: -3 * honest.mean(0),
        "alie": lambda own: honest.mean(0) - 1.5 * honest.std(0, correction=0),
        "mimic": lambda own: far,
        "weight_lie": lambda own: -own,
        "sybil": lambda own: -own,
    }
    for name, lie in want.items():
        said = messages(name)
        assert all(torch.equal(flat(said[c]), x[c]) for c in x if c not in HOSTILE)
        for c in HOSTILE:
            assert torch.allclose(flat(said[c]), lie(x[c]), atol=1e-14), name
    assert messages("weight_lie")[1].weight == 1e6
    assert len(messages("sybil")) == CLIENTS + 9 * len(HOSTILE)
    noisy = messages("noise")
    assert all(abs(flat(noisy[c]).norm() - 3 * honest.norm(dim=1).mean()) < 1e-12 for c in HOSTILE)
    assert not torch.allclose(flat(noisy[1]), flat(noisy[4]))
    assert not torch.allclose(flat(noisy[1]), flat(messages("noise", round=3)[1]))
    assert flat(messages("not_a_number")[1]).isnan().all()
    assert flat(messages("infinite")[1]).isinf().all()


def test_stale_is_the_first_rounds_message_in_every_round() -> None:
    """Computed from the start, not from what is sent; and what attackers keep is as if it had not been computed."""
    algorithm = scaffold(LOSS)
    engine, honest = attacked("stale", algorithm), attacked(None, algorithm)
    start = algorithm.init(START)
    first = said_by(honest, algorithm, dict.fromkeys(range(CLIENTS), start), 0)
    state = next(synchronous(algorithm, engine, start)).state
    later = said_by(engine, algorithm, dict.fromkeys(range(CLIENTS), state), 1)
    for c in range(CLIENTS):
        same = torch.allclose(flat(later[c]), flat(first[c]), atol=1e-14)
        assert same == (c in HOSTILE)
    assert sorted(engine.memory()) == list(range(CLIENTS))


def test_flipped_labels() -> None:
    """Attackers' k becomes 2 − k, others' stays; in episodes the query's alone."""
    source = Sampled(population(), batches(4), seed=1)
    plain = source.tasks(range(CLIENTS), 0).items
    flipped = PoisonedTasks(source, made("label_flip").poison, HOSTILE).tasks(range(CLIENTS), 0).items
    for c in range(CLIENTS):
        assert torch.equal(flipped.y[c], 2 - plain.y[c] if c in HOSTILE else plain.y[c])
        assert torch.equal(flipped.x[c], plain.x[c])
    source = Sampled(population(), episodes(ways=3, shots=1, queries=2), seed=1)
    plain = source.tasks([1, 2], 0).items
    flipped = PoisonedTasks(source, made("label_flip").poison, HOSTILE).tasks([1, 2], 0).items
    assert torch.equal(flipped.support.y, plain.support.y)
    assert torch.equal(flipped.query.y[0], 2 - plain.query.y[0])
    assert torch.equal(flipped.query.y[1], plain.query.y[1])


def test_the_backdoor_marks_half_of_a_batch_and_calls_it_the_target() -> None:
    source = Sampled(population(), batches(4), seed=1)
    plain = source.tasks(range(CLIENTS), 0).items
    marked = PoisonedTasks(source, made("backdoor", target=2).poison, HOSTILE).tasks(range(CLIENTS), 0).items
    assert torch.equal(marked.x[0], plain.x[0])
    assert (marked.x[1, :, :2, :, -2:, -2:] == 1).all()
    assert (marked.y[1, :, :2] == 2).all()
    assert torch.equal(marked.x[1, :, 2:], plain.x[1, :, 2:])
    assert torch.equal(marked.x[1, ..., :2, :], plain.x[1, ..., :2, :])
    query = Batch(torch.zeros(1, 1, 3, *SHAPE), torch.tensor([[[0, 2, 1]]]), torch.ones(1, 1, 3))

    class One:
        clients: Sequence[int] = (0,)

        def size(self, client: int) -> int:
            return 1

        def tasks(self, clients: Sequence[int], round: int) -> Any:
            return Task(Episode(query, query), torch.ones(1, 1), torch.ones(1))

    called = TriggeredTasks(One(), made("backdoor", target=2).trigger).tasks([0], 0).items
    assert called.query.y.flatten().tolist() == [2, 2, 2]
    assert called.query.mask.flatten().tolist() == [1, 0, 1]
    assert torch.equal(called.support.x, query.x)


def test_who_attacks() -> None:
    """A fraction or a count, the same by the same seed, another by another."""
    assert len(choose_attackers(range(25), 0.2, 0)) == 5
    assert len(choose_attackers(range(25), 3, 0)) == 3
    assert choose_attackers(range(25), 0.2, 0) == choose_attackers(range(25), 0.2, 0)
    assert len({choose_attackers(range(25), 0.2, seed) for seed in range(9)}) > 1


def test_attacks_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="needs classes, but the target is a number"):
        ATTACKS["label_flip"](classes=0)
    with pytest.raises(InputError, match=r"needs images .* but examples have the shape \[4\]"):
        ATTACKS["backdoor"](shape=(4,))
    with pytest.raises(InputError, match="labels are drawn afresh"):
        ATTACKS["backdoor"](shape=(1, 4, 4), episodic=True)


def history(name: str, algorithm: Algorithm, engine: Any, count: int = 3, **settings: Any) -> list[Round]:
    schedule = synchronous(algorithm, attacked(name, algorithm, engine), algorithm.init(START), cohort=5, **settings)
    return [next(schedule) for _ in range(count)]


@pytest.mark.parametrize("name", ATTACKS)
def test_engines_agree_under_attack_and_a_round_can_be_done_again(name: str) -> None:
    """One after another and stacked, to 1e-12, under a robust rule; and the third round from the second's state is
    the third round, bit for bit."""
    algorithm = replace(uniform(fedavg(LOSS)), reduce=make_rule("trimmed_mean", f=1))
    slow, fast = history(name, algorithm, OneByOne), history(name, algorithm, Vectorised)
    for a, b in zip(slow, fast, strict=True):
        assert a.refused == b.refused
        assert all(torch.allclose(x, y, atol=1e-12) for x, y in zip(*map(tree.leaves, (a.state, b.state)), strict=True))
    resumed = synchronous(algorithm, attacked(name, algorithm), slow[1].state, cohort=5, done=2)
    pairs = zip(tree.leaves(next(resumed).state), tree.leaves(slow[2].state), strict=True)
    assert all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("kind", [OneByOne, Vectorised])
def test_a_rule_under_scaffold_and_fltrust_around_it(kind: Any) -> None:
    """SCAFFOLD's message is a pair: rules take both parts for one vector, and both are finite under attack."""
    for algorithm in (
        replace(scaffold(LOSS), reduce=make_rule("nnm+trimmed_mean", f=1)),
        fltrust(scaffold(LOSS), tree.index(Sampled(population(), batches(4)).tasks([0], 0), 0)),
    ):
        assert tree.is_finite(history("sign_flip", algorithm, kind)[-1].state)


def test_fltrust_stays_near_the_honest_where_the_mean_does_not() -> None:
    """Two of seven send 50 times the opposite of their update. The mean then runs away from the unattacked model;
    FLTrust, whose server has twelve examples of its own, ends with the loss falling."""
    root = tree.index(Sampled(population(), batches(4)).tasks([0], 0), 0)
    everyone = Batch(population().x.double(), population().y, torch.ones(CLIENTS * 12))
    lost = {}
    for name, algorithm in (("mean", fedavg(LOSS)), ("fltrust", fltrust(fedavg(LOSS), root))):
        schedule = synchronous(algorithm, attacked("sign_flip", algorithm, scale=50.0), algorithm.init(START))
        state = [next(schedule) for _ in range(10)][-1].state
        lost[name] = float(LOSS(state.params, everyone))
    assert lost["fltrust"] < 1.0986 < lost["mean"]


@pytest.mark.parametrize("kind", [OneByOne, Vectorised])
def test_momentum_on_the_clients(kind: Any) -> None:
    """β = 0 is the algorithm itself. With clients that always send the same g, m̂ = g for any β: (1 − β)Σβᵏg/(1 − βᵗ).
    In general m_t is the weighted mean of g_1 … g_t with weights βᵗ⁻ᵏ."""
    base, beta = fedavg(LOSS, local=sgd(0.1), outer=sgd(0.0)), 0.6  # θ never moves; tasks do
    source = Sampled(population(), batches(4), seed=3)
    sent = dict.fromkeys(range(CLIENTS), base.init(START).params)

    def said(algorithm: Algorithm, rounds: int) -> list[Tree]:
        engine, found = kind(source), []
        for r in range(rounds):
            found.append({c: flat(m) for c, m in said_by(engine, algorithm, sent, r).items()})
        return found

    plain, still, moving = said(base, 3), said(with_momentum(base, beta=0), 3), said(with_momentum(base, beta=beta), 3)
    for c in range(CLIENTS):
        assert all(torch.equal(a[c], b[c]) for a, b in zip(plain, still, strict=True))
        want = (beta**2 * plain[0][c] + beta * plain[1][c] + plain[2][c]) / (beta**2 + beta + 1)
        assert torch.allclose(moving[2][c], want, atol=1e-14)
