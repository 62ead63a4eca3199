"""Noise that clients add in shares under secure aggregation: its distribution on the sum, sensitivity, ε, dropouts."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from seedbed import InputError, tree
from seedbed.federated import MessageBatch
from seedbed.privacy.differential import DistributedNoise, Noise, public_info, with_privacy
from seedbed.privacy.differential.accountant import LEAST, Skellam, epsilon, gaussian_epsilon, skellam_for
from seedbed.privacy.differential.ledger import Ledger
from seedbed.privacy.secure import MaskedSums, NoisedEncoding, PlainSums, SecureSumEngine, SharedSums
from seedbed.rounds import synchronous

from .saying import Saying, start, steps

KEY = Noise(bytes(range(32)))
CLIENTS, HONEST = 9, 6


def mechanism(size: int, z: float = 1.0, **settings: Any) -> DistributedNoise:
    given = {"expected": CLIENTS, "population": CLIENTS, "size": size, "honest": HONEST, "clip": 0.5}
    return DistributedNoise(KEY, z, **(given | settings))


class Clients(Saying):
    """Those of `Saying`, running the private algorithm's client around what they say."""

    def ask(self, algorithm: Any, sent: Any, round: int) -> Any:
        for client, what in sent.items():
            message, _ = algorithm.client(what, {}, self.message(client))
            yield MessageBatch([client], tree.stack([message]))


def told(sent: Any, kept: Any, task: Any) -> Any:
    return task, kept


def released(
    says: torch.Tensor, made: DistributedNoise, form: Any = MaskedSums(), number: int = 0, lost: Any = None
) -> Any:
    """A round of the private algorithm, from zero: minus the model is the mean that was released."""
    algorithm = with_privacy(replace(steps(), client=told), made, clip=made.clip)
    engine = SecureSumEngine(Clients(says), NoisedEncoding(made), form, **({} if lost is None else {"losing": lost}))
    state = algorithm.init(start(says.shape[1]).params)
    return next(synchronous(algorithm, engine, state, done=number))


def summed(round: Any, made: DistributedNoise) -> np.ndarray:
    """The sum that a round released, in steps of the grid: mean × m × s."""
    params = public_info(round.state).params
    numbers = torch.cat([params["b"], params["w"]]).numpy()
    return np.asarray(-numbers * made.expected * made.grid.scale)


def lose(count: int, stage: int) -> Any:
    return lambda clients, number: [list(clients)[:count] if s == stage else () for s in range(4)]


# ---- the noise --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lost", "stage"), [(0, 2), (3, 2), (2, 3)])
def test_the_released_sum_has_the_stated_noise(lost: int, stage: int) -> None:
    """Of zeros, through the whole protocol: whole numbers, deviation within 1 % of √(left/h)·z·C, Kolmogorov–Smirnov
    against Skellam's distribution, which is normal to far less than these 120,000 numbers could show; and never less
    than z·C, with as many lost as are allowed for."""
    made = mechanism(120_000)
    zeros = torch.zeros(CLIENTS, 120_000, dtype=torch.float64)
    round = released(zeros, made, MaskedSums(min_cohort=HONEST, threshold=3), lost=lose(lost, stage))
    left = CLIENTS - (lost if stage < 3 else 0)
    noise = summed(round, made)
    assert np.abs(noise - np.rint(noise)).max() < 1e-4
    deviation = math.sqrt(left / HONEST) * made.grid.scale * made.clip
    assert noise.std() == pytest.approx(deviation, rel=0.01)
    assert noise.std() > 0.99 * made.grid.scale * made.clip
    assert abs(noise.mean()) < 4 * deviation / math.sqrt(noise.size)
    assert stats.kstest(noise / deviation, "norm").pvalue > 1e-3


def test_frequencies_of_few_values() -> None:
    """Where the grid is coarse: χ² of the sum of nine shares against the probabilities of each whole number."""
    made = mechanism(40_000, z=1e-3, honest=CLIENTS)
    assert made.variance < 20
    noise = np.rint(summed(released(torch.zeros(CLIENTS, 40_000, dtype=torch.float64), made), made)).astype(int)
    reach = 2 * math.ceil(math.sqrt(made.variance))
    seen = np.array([(noise == k).sum() for k in range(-reach, reach + 1)])
    want = noise.size * stats.skellam.pmf(range(-reach, reach + 1), made.variance / 2, made.variance / 2)
    assert ((seen - want) ** 2 / want).sum() < stats.chi2.isf(1e-3, 2 * reach + 1)


def test_fewer_than_are_counted_on_release_nothing() -> None:
    """With five of six left, no sum is unmasked and the model is as it was, under masks and shares alike."""
    made = mechanism(50)
    for form in (MaskedSums(min_cohort=HONEST, threshold=3), SharedSums(2, HONEST)):
        for stage in (0, 1, 2):
            round = released(torch.ones(CLIENTS, 50, dtype=torch.float64), made, form, lost=lose(4, stage))
            assert round.info["abandoned"] == 1
            assert not public_info(round.state).params["w"].any()


def test_a_round_computed_again_is_the_same_release_and_another_is_not() -> None:
    """Bit for bit, though its masks are new; other rounds, clients and keys have noise of their own."""
    made, says = mechanism(2000), torch.full((CLIENTS, 2000), 0.001, dtype=torch.float64)
    first, again, later = (summed(released(says, made, number=n), made) for n in (0, 0, 3))
    assert (first == again).all()
    assert abs(np.corrcoef(first, later)[0, 1]) < 0.1
    zero = np.zeros(2000)
    a, b = made.whole(zero, 1, 0), made.whole(zero, 2, 0)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.1
    other = replace(made, key=Noise(bytes(32))).whole(zero, 1, 0)
    assert abs(np.corrcoef(a, other)[0, 1]) < 0.1


def test_another_message_of_the_same_round_has_other_noise() -> None:
    """A server that asks a client again with other settings does not get the difference of two messages exactly."""
    made = mechanism(2000)
    a, b = (made.whole(np.full(2000, x), 1, 0) for x in (0.0, 1e-3))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.1


def test_the_mean_is_right_beside_the_noise() -> None:
    """Without noise: the clipped mean over all, to the coins of rounding; weights and losses are not there."""
    rng, made = np.random.default_rng(0), mechanism(300, z=1e-9)
    says = torch.from_numpy(rng.normal(size=(CLIENTS, 300)))
    round = released(says, made)
    clipped = says * (made.clip / says.norm(dim=1, keepdim=True))
    got = summed(round, made) / made.grid.scale
    assert np.abs(got - clipped.sum(0).numpy()).max() < 4 * math.sqrt(CLIENTS) / made.grid.scale
    assert "loss" not in round.info


# ---- one client -------------------------------------------------------------------------------------------------


def test_one_client_changes_the_sum_by_no_more_than_is_accounted() -> None:
    """Of 400 generated messages at and below the clip, flat and spiky, in few and in many dimensions: the length of
    what is added to the sum is at most Δ₂ and its absolute sum Δ₁, and Δ₂ is within 0.3 % of the clip; Δ₂ is reached
    to within 1 %."""
    rng, longest = np.random.default_rng(1), 0.0
    for case in range(400):
        size = int(rng.choice([1, 2, 7, 60, 900]))
        made = mechanism(size, clip=float(rng.choice([1e-4, 0.5, 30.0])))
        value = rng.normal(size=size) ** (1 if case % 2 else 9)
        value *= made.clip * (1 if case % 3 else rng.uniform()) / np.linalg.norm(value)
        sent = replace(made, noise_multiplier=0.0).whole(value, case, 0)
        l2, l1 = float(np.linalg.norm(sent)), float(np.abs(sent).sum())
        steps = made.grid.scale * made.clip
        assert l2 <= made.grid.longest <= 1.003 * steps
        assert l1 <= min(math.sqrt(size) * made.grid.longest, made.grid.longest**2) + 1e-9
        longest = max(longest, l2 / made.grid.longest)
    assert longest > 0.99


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 1e30])
def test_nothing_that_a_client_says_counts_more_than_the_clip(wrong: float) -> None:
    made = mechanism(20, z=1e-9)
    says = torch.zeros(CLIENTS, 20, dtype=torch.float64)
    says[2] = wrong
    assert np.linalg.norm(summed(released(says, made), made)) <= made.grid.longest + CLIENTS


def test_no_number_wraps_around() -> None:
    """All at the clip in one number, for cohorts and noise small and large: words hold the largest sum there can be."""
    for m, z in ((3, 0.1), (100, 1.0), (1000, 30.0)):
        made = mechanism(1000, z, expected=m, population=m, honest=max(1, m // 2))
        grid = NoisedEncoding(made).grid
        assert grid.step == 1
        assert m * made.largest < 2 ** (31 if grid.dtype is np.uint32 else 63)
        assert grid.largest >= made.largest
    assert NoisedEncoding(mechanism(100_000)).grid.dtype is np.uint32  # four bytes a number


# ---- ε ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [0.1, 1.0, 4.0, 8.0])
@pytest.mark.parametrize("times", [1, 30])
def test_epsilon_is_above_the_gaussians_and_not_far(target: float, times: int) -> None:
    """The noise found keeps the budget, to 0.1 %. A Skellam sum on a fine grid is close to normal, so that its ε is
    no less than the exact one of the Gaussian (Balle and Wang), and no more than a fifth above (Rényi's bound; more
    for ε of 8, where the least order, 2, is not small)."""
    made = mechanism(10_000)
    size, steps = 10_000, made.grid.scale * made.clip
    z = skellam_for(target, 1e-5, longest=made.grid.longest, steps=steps, size=size, times=times)
    at_budget = replace(made, noise_multiplier=z)
    spent = epsilon({at_budget.cost(0): times}, 1e-5)  # type: ignore[dict-item]
    assert target * (1 - 1e-3) <= spent <= target
    exact = gaussian_epsilon(math.sqrt(times) / z, 1e-5)
    assert exact <= spent <= (1.2 if target < 8 else 1.3) * exact


def test_a_pass_is_charged_once_and_the_ledger_knows_skellam(tmp_path: Any) -> None:
    """Nine of 36 clients a round: each is in one of four, so that eight rounds are two releases. Read again, the
    ledger has the same ε; and it stops before the budget is overdrawn."""
    made = mechanism(100, 2.0, population=4 * CLIENTS)
    assert [made.cost(n) is not None for n in range(8)] == [True, False, False, False] * 2
    twice = epsilon(made.spent(8), 1e-5)
    assert twice == epsilon({Skellam(made.variance, made.grid.longest, 100): 2}, 1e-5)
    ledger = Ledger(tmp_path / "ledger.jsonl", epsilon=twice + 1e-6, delta=1e-5, rounds=8)
    for number in range(8):
        ledger.charge(number, made.cost(number))
    again = Ledger(tmp_path / "ledger.jsonl", epsilon=twice + 1e-6, delta=1e-5, rounds=8)
    assert again.epsilon == ledger.epsilon == twice
    with pytest.raises(InputError, match="would exceed the budget"):
        again.charge(8, made.cost(8))


def test_without_their_own_noise_nothing_is_stepped_on() -> None:
    """An engine that lets messages through as they are, and one that only sums them."""
    made = mechanism(20)
    algorithm = with_privacy(replace(steps(), client=told), made, clip=made.clip)
    plain = Clients(torch.zeros(CLIENTS, 20, dtype=torch.float64))
    for engine in (plain, SecureSumEngine(plain)):
        with pytest.raises(InputError, match="SecureSumEngine"):
            next(synchronous(algorithm, engine, algorithm.init(start(20).params)))


@pytest.mark.parametrize("honest", [0, 10])
def test_a_number_of_honest_clients_that_cannot_be(honest: int) -> None:
    with pytest.raises(InputError, match=f"honest={honest} of 9"):
        mechanism(20, honest=honest)


def test_too_small_and_too_large_budgets_are_refused() -> None:
    for target in (1e-9, 1e12):
        with pytest.raises(InputError, match=f"outside {LEAST:g}"):
            skellam_for(target, 1e-5, longest=1024, steps=1024, size=10)


def test_the_form_changes_nothing() -> None:
    made, says = mechanism(50), torch.full((CLIENTS, 50), 0.01, dtype=torch.float64)
    sums = [summed(released(says, made, form), made) for form in (MaskedSums(), SharedSums(), PlainSums())]
    assert (sums[0] == sums[1]).all()
    assert (sums[0] == sums[2]).all()
