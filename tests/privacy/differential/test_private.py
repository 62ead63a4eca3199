"""The wrapper: fixed denominator, equal weights, adaptive clip, cohorts by chance and in turn, and what it refuses."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import seedbed as sb
from seedbed import InputError, tree
from seedbed.privacy.differential import (
    Adaptive,
    Banded,
    Gaussian,
    Independent,
    LocallyNoised,
    LocalPrivacy,
    TreeAggregation,
    public_info,
    with_privacy,
)
from seedbed.privacy.differential.central import bind, split_multiplier
from seedbed.rounds import synchronous
from tests.agreement.bench import COHORT, SIZES, by_hand, clients

from .parrots import KEY, parrots, quiet, summed

LIKE = {"w": torch.zeros(4, dtype=torch.float64)}
ONE = {"w": torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)}


def test_the_denominator_is_fixed() -> None:
    """Three clients of ‖·‖ = 1 where two were expected: their sum over 2, not over 3, whatever weights they claim."""
    algorithm = quiet(LIKE, 1.0, expected=2)
    state = algorithm.init(LIKE)
    after = algorithm.server(state, summed(algorithm, state, [(ONE, 1.0), (ONE, 7.0), (ONE, 0.0)]))
    assert torch.allclose(after.params["w"], 1.5 * ONE["w"], atol=1e-12)
    assert public_info(after).extra == {"replies": torch.tensor(2.0)}  # the algorithm sees m nameless replies
    assert int(after.extra["round"]) == 1


@pytest.mark.parametrize("answered", [1, 2, 5])
def test_noise_does_not_depend_on_how_many_answer(answered: int) -> None:
    """z·C in the sum: what is left when the clients' part is taken off is the key's noise of that round, over m."""
    algorithm = quiet(LIKE, 0.5, z=3.0, expected=2)
    state = algorithm.init(LIKE)
    after = algorithm.server(state, summed(algorithm, state, [(ONE, 1.0)] * answered))
    key = bind(Independent(KEY, 3.0, 2, 8), parrots(LIKE), 0.5).key
    noise = torch.as_tensor(key.normal(4, "sum", 0)) * 3.0 * 0.5
    assert torch.allclose(2 * after.params["w"], answered * 0.5 * ONE["w"] + noise, atol=1e-9)


def test_a_round_computed_again_is_the_same_release() -> None:
    algorithm = quiet(LIKE, 0.5, z=3.0)
    state = algorithm.init(LIKE)
    replies = summed(algorithm, state, [(ONE, 1.0)])
    first, again = algorithm.server(state, replies), algorithm.server(state, replies)
    assert torch.equal(first.params["w"], again.params["w"])
    second = algorithm.server(first, replies)
    assert not torch.allclose(second.params["w"] - first.params["w"], first.params["w"] - state.params["w"])


# ---- adaptive clipping ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("z", "m", "deviation", "want"), [(1.0, 100, 5.0, 1.00504), (1.0, 50, 2.5, 1.02062), (0.5, 100, 5.0, 0.50063)]
)
def test_the_budget_is_split_as_in_the_paper(z: float, m: int, deviation: float, want: float) -> None:
    assert split_multiplier(z, deviation) == pytest.approx(want, abs=1e-5)
    assert Adaptive().deviation(m, z) == deviation
    assert split_multiplier(z, deviation) ** -2 + (2 * deviation) ** -2 == pytest.approx(z**-2, rel=1e-12)


def test_small_cohorts_give_little_for_adapting() -> None:
    """m/20 would be 0.5 at m = 10, against which z = 2 has no solution; at least 2z costs 3.3 % at most."""
    assert split_multiplier(2.0, Adaptive().deviation(10, 2.0)) <= 2.0 * 1.0328


def test_the_clip_goes_to_the_quantile() -> None:
    """Norms 1, 2, …, 9 and γ = 0.5: from 0.1 the clip comes to rest between 4 and 6, where half are within."""
    algorithm = quiet(LIKE, Adaptive(start=0.1), expected=9, population=9)
    state = algorithm.init(LIKE)
    says = [(tree.scale(k, ONE), 1.0) for k in range(1, 10)]
    for _ in range(150):
        state = algorithm.server(state, summed(algorithm, state, says))
    assert 4 <= float(state.extra["clip"]) <= 6


def test_one_step_of_the_clip() -> None:
    """One of two within: b̃ = 1/2, and γ = 0.9 makes C grow by exp(0.2·0.4); noise of its own stream comes on top."""
    says = [(tree.scale(0.05, ONE), 1.0), (ONE, 1.0)]
    for z in (0.0, 1.0):
        clip = Adaptive(start=0.1, quantile=0.9)
        algorithm = quiet(LIKE, clip, z=z)
        state = algorithm.init(LIKE)
        after = algorithm.server(state, summed(algorithm, state, says))
        key = bind(Independent(KEY, z, 2, 8), parrots(LIKE), clip).key
        noise = float(key.normal(1, "within", 0)[0]) * clip.deviation(2, z) / 2 if z else 0.0
        assert float(after.extra["clip"]) == pytest.approx(0.1 * math.exp(0.2 * (0.4 - noise)), rel=1e-9)


# ---- cohorts --------------------------------------------------------------------------------------------------------


def test_inclusion_is_by_chance_of_the_rate() -> None:
    """2,000 rounds of 50 clients at q = 0.3: each client's and all clients' rate within 3 (4 for the most extreme of
    50) deviations; sizes are binomial; no two clients, and no client's rounds one after another, hang together."""
    rounds, n, q = 2000, 50, 0.3
    mechanism = Independent(KEY, 1.0, 15, n)
    took = np.zeros((rounds, n))
    for t in range(rounds):
        took[t, mechanism.cohort(range(n), t)] = 1
    sd = (q * (1 - q) / rounds) ** 0.5
    assert abs(took.mean() - q) < 3 * sd / n**0.5
    assert np.abs(took.mean(0) - q).max() < 4 * sd
    assert stats.kstest(took.sum(1) + stats.uniform.rvs(size=rounds, random_state=1) - 0.5, "norm",
                        args=(15, (n * q * (1 - q)) ** 0.5)).pvalue > 1e-3  # fmt: skip
    together = np.corrcoef(took.T) - np.eye(n)
    assert np.abs(together).max() < 5 / rounds**0.5
    after = [np.corrcoef(took[:-1, c], took[1:, c])[0, 1] for c in range(n)]
    assert np.abs(after).max() < 5 / rounds**0.5


def test_who_takes_part_is_secret() -> None:
    """Other keys, other cohorts; all clients at q = 1; nobody in some rounds of a small rate."""
    n = 40
    mine, other = (Independent(k, 1.0, 20, n).cohort(range(n), 0) for k in (KEY, KEY.of("another")))
    assert mine != other
    assert Independent(KEY, 1.0, n, n).cohort(range(n), 3) == list(range(n))
    sizes = [len(Independent(KEY, 1.0, 1, n).cohort(range(n), t)) for t in range(50)]
    assert 0 in sizes


def test_in_turn_everybody_takes_part_once_a_pass() -> None:
    n, m = 11, 3
    for kind in (TreeAggregation, Banded, LocalPrivacy):
        mechanism = kind(KEY, 1.0, m, n)
        passes = [[mechanism.cohort(range(n), 3 * p + t) for t in range(3)] for p in range(2)]
        for cohorts in passes:
            assert [len(c) for c in cohorts] == [m] * 3
            assert len({client for cohort in cohorts for client in cohort}) == 3 * m
        assert (passes[0] == passes[1]) == (kind is Banded)
        assert mechanism.spent(7) == {Gaussian(1.0): 3}
        assert [mechanism.cost(t) for t in range(4)] == [Gaussian(1.0), None, None, Gaussian(1.0)]


def test_a_schedule_does_not_choose_for_it() -> None:
    algorithm = with_privacy(sb.fedavg(by_hand().loss), Independent(KEY, 1.0, COHORT, len(SIZES)), clip=0.1)
    engine = sb.OneByOne(clients("batches"))
    start = algorithm.init(dict(by_hand().params))
    with pytest.raises(InputError, match="cohort=4 draws a fixed number of clients"):
        next(synchronous(algorithm, engine, start, cohort=4))
    round = next(synchronous(algorithm, engine, start))
    assert round.clients == Independent(KEY, 1.0, COHORT, len(SIZES)).cohort(range(6), 0)


# ---- local ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [sb.OneByOne, sb.Vectorised])
def test_local_noise_is_in_the_message(kind: Any) -> None:
    """What the server sees of a client is its clipped message and noise of 2zC of the client's own key."""
    local = LocalPrivacy(KEY, 1.5, 2, len(SIZES))
    algorithm = with_privacy(sb.fedavg(by_hand().loss), local, clip=0.01)
    start = algorithm.init(dict(by_hand().params))
    inside = kind(clients("batches"))
    asked = dict.fromkeys(local.cohort(range(6), 0), algorithm.send(start, 0))
    plain = {c: tree.index(g.messages, i) for g in inside.ask(algorithm, asked, 0) for i, c in enumerate(g.clients)}
    engine = LocallyNoised(kind(clients("batches")), local, clip=0.01)
    for group in engine.ask(algorithm, asked, 0):
        for i, c in enumerate(group.clients):
            sent = tree.index(group.messages.value.value, i)
            noise = tree.scale(0.01, local.own_noise(plain[c].value.value, c, 0))
            want = tree.add(plain[c].value.value, noise)
            assert all(
                torch.allclose(a, b, atol=1e-12) for a, b in zip(tree.leaves(sent), tree.leaves(want), strict=True)
            )
    first = next(synchronous(algorithm, engine, start))
    assert tree.is_finite(first.state)


def test_local_without_the_clients_noise_is_refused() -> None:
    local = LocalPrivacy(KEY, 1.5, 2, len(SIZES))
    algorithm = with_privacy(sb.fedavg(by_hand().loss), local, clip=0.01)
    start = algorithm.init(dict(by_hand().params))
    with pytest.raises(InputError, match="LocallyNoised"):
        next(synchronous(algorithm, sb.OneByOne(clients("batches")), start))


# ---- refusals -------------------------------------------------------------------------------------------------------


MEDIAN = replace(parrots(LIKE), reduce=SimpleNamespace(linear=False))


def fresh(z: float = 1.0) -> Independent:
    return Independent(KEY, z, 2, 8)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: with_privacy(MEDIAN, fresh(), clip=1.0), "one client's"),
        (lambda: with_privacy(with_privacy(parrots(LIKE), fresh(), clip=1.0), fresh(), clip=1.0), "private already"),
        (lambda: with_privacy(parrots(LIKE), fresh(), clip=math.inf), "clip=inf"),
        (lambda: with_privacy(parrots(LIKE), fresh(), clip=0.0), "clip=0.0"),
        (lambda: with_privacy(parrots(LIKE), fresh(-1.0), clip=1.0), "noise_multiplier=-1.0"),
        (lambda: with_privacy(parrots(LIKE), fresh(math.nan), clip=1.0), "noise_multiplier=nan"),
        (lambda: with_privacy(parrots(LIKE), TreeAggregation(KEY, 1.0, 2, 8), clip=Adaptive()), "give clip=NUMBER"),
        (lambda: with_privacy(parrots(LIKE), fresh(), clip=Adaptive(quantile=1.0)), "0 < quantile < 1"),
        (lambda: Independent(KEY, 1.0, 9, 8), "cohort=9 of 8"),
        (lambda: Banded(KEY, 1.0, 0, 8), "cohort=0 of 8"),
    ],
)  # fmt: skip
def test_refusals(make: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()
