"""Clients that do a part of their work, and clients that do not answer."""

from typing import Any

import pytest
import torch

from seedbed import InputError
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedprox import fedprox
from seedbed.algorithms.scaffold import scaffold
from seedbed.data.stragglers import ShortenedTasks, Stragglers
from seedbed.learning.optimizers import sgd
from seedbed.rounds import synchronous

from .bench import ENGINES, D, Given, apart, bowl, bowls, power, rounds, start, task

STEPS, SHARES, DONE = [10, 4, 6], [0.3, 1.0, 0.01], [3, 4, 1]
EXAMPLES = [3.0, 1.0, 2.0]


def clients() -> list[Any]:
    return [task(*[item] * k, examples=n) for item, k, n in zip(bowls(3), STEPS, EXAMPLES, strict=True)]


@pytest.mark.parametrize("engine", ENGINES)
def test_partial_work_in_closed_form(engine: Any) -> None:
    """After τ GD steps on ½(w − c)ᵀA(w − c) a client is at c + (I − ηA)^τ (θ − c), and counts by n_i whatever τ.

    Of 10, 4 and 6 steps, shares of .3, 1 and .01 leave 3, 4 and, as there is always one, 1.
    """
    eta, theta = 0.2, start()
    source = ShortenedTasks(Given(clients()), lambda client, round: SHARES[client])
    algorithm = fedavg(bowl, local=sgd(eta))
    after = next(synchronous(algorithm, engine(source), algorithm.init(theta))).state.params["w"]
    want = torch.zeros(D)
    for item, steps, n in zip(bowls(3), DONE, EXAMPLES, strict=True):
        kept = power(torch.eye(D) - eta * item["A"], steps)
        want += n / sum(EXAMPLES) * (item["c"] + kept @ (theta["w"] - item["c"]))
    assert apart(after, want) < 1e-14


def test_a_shortened_task_has_no_more_items_than_its_longest() -> None:
    """Work that nobody does is cut away, so that it costs nothing; the sizes that engines group by stay."""
    given = Given(clients())
    source = ShortenedTasks(given, lambda client, round: SHARES[client])
    cut = source.tasks([0, 1, 2], 0)
    assert cut.real.sum(1).tolist() == DONE
    assert cut.real.shape[1] == max(DONE) == len(cut.items["c"][0])
    assert cut.examples.tolist() == EXAMPLES
    assert [source.size(c) for c in source.clients] == [given.size(c) for c in given.clients]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_client_that_does_not_answer_is_one_not_asked(engine: Any) -> None:
    """Over three rounds in each of which another client is away: as if the others had been the cohort. SCAFFOLD takes
    notice of how many answer (|S|/N), and of what a client keeps."""
    algorithm = scaffold(bowl, local=sgd(0.1))

    def away(cohort: Any, round: int) -> list[int]:
        return [c for c in cohort if c != round]

    given = rounds(algorithm, clients(), start(), 3, engine, answering=away)
    state, memory = algorithm.init(start()), {}
    for number in range(3):
        alone = engine(Given(clients()))
        alone.recall(memory)
        sent = {c: algorithm.send(state, c) for c in range(3) if c != number}
        state = _by_hand(algorithm, state, alone, sent, number)
        memory = alone.memory()
        assert list(given[number].clients) == list(sent)
        assert apart(given[number].state, state) < 1e-15


def _by_hand(algorithm: Any, state: Any, engine: Any, sent: Any, number: int) -> Any:
    """The server's step on the plain mean of what the clients sent."""
    values = {}
    for group in engine.ask(algorithm, sent, number):
        for i, client in enumerate(group.clients):
            values[client] = {part: v["w"][i] for part, v in group.messages.value.items()}
    mean = {part: {"w": torch.stack([v[part] for v in values.values()]).mean(0)} for part in ("moved", "c")}
    c = state.extra["c"]["w"] + len(sent) / 3 * mean["c"]["w"]
    return state._replace(
        params={"w": state.params["w"] - mean["moved"]["w"]}, extra={"c": {"w": c}, "outer": state.extra["outer"]}
    )


def test_a_round_that_nobody_answers_changes_nothing() -> None:
    """The state stays, the round is counted, and training goes on."""
    past = rounds(fedavg(bowl), clients(), start(), 3, answering=lambda cohort, round: cohort if round != 1 else [])
    assert [r.number for r in past] == [1, 2, 3]
    assert [len(r.clients) for r in past] == [3, 0, 3]
    assert past[1].state is past[0].state
    assert apart(past[2].state.params, past[1].state.params) > 1e-3


def test_the_draws() -> None:
    """As many are slow as asked for (5 standard errors); a slow client's share is uniform (mean ½) and below 1, a fast
    one's 1; who is dropped is who would have done a part; everything follows from (seed, round, client) alone."""
    slow = Stragglers(0.3, seed=1)
    shares = torch.tensor([[slow.share(c, r) for c in range(50)] for r in range(80)])
    late = shares < 1
    assert abs(late.double().mean() - 0.3) < 5 * (0.3 * 0.7 / late.numel()) ** 0.5
    assert abs(shares[late].mean() - 0.5) < 5 * (1 / 12 / late.sum()) ** 0.5
    for round in range(80):
        assert list(slow.answering(range(50), round)) == [c for c in range(50) if not late[round, c]]
    assert Stragglers(0.3, seed=1).share(7, 5) == slow.share(7, 5)
    assert any(Stragglers(0.3, seed=2).slow(c, 0) != slow.slow(c, 0) for c in range(50))
    assert len({tuple(row) for row in late.tolist()}) > 70
    assert list(Stragglers(0.0).answering(range(50), 0)) == list(range(50))


@pytest.mark.parametrize("part", [-0.1, 1.0, 1.5, float("nan")])
def test_no_probability_is_refused(part: float) -> None:
    with pytest.raises(InputError, match=r"stragglers\.fraction=.* is a probability"):
        Stragglers(part)


def test_without_stragglers_a_source_is_as_it_was() -> None:
    """Shares of 1 leave FedProx's run bit for bit."""
    algorithm = fedprox(bowl, mu=0.5)
    plain = rounds(algorithm, clients(), start(), 2, ENGINES[1])
    engine = ENGINES[1](ShortenedTasks(Given(clients()), Stragglers(0.0).share))
    schedule = synchronous(algorithm, engine, algorithm.init(start()))
    assert apart([next(schedule).state for _ in range(2)][-1].params, plain[-1].state.params) == 0
