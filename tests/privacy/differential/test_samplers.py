"""What is drawn, against big-number references, at the scales that planning yields: the smallest, the largest, and 30
between them."""

import math
from dataclasses import replace
from itertools import combinations
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

from seedbed import InputError
from seedbed.experiments.config import Settings
from seedbed.experiments.privacy_plan import PrivacyPromise
from seedbed.privacy.differential import Banded, DistributedNoise, Independent, LocalPrivacy, Noise, TreeAggregation
from seedbed.privacy.differential.accountant import LEAST, MOST, ROUNDING
from seedbed.privacy.differential.discrete import FINE, LARGEST_VARIANCE, log_ratio, skellam

from .parrots import KEY
from .reference import normal_below, skellam_below, skellam_log_ratio

VARIANCES = [1e-30, 1e-6, 0.06, 1.0, 50.0, FINE - 1, FINE, 1e6, 1.1e9, 3e10, 1e15, LARGEST_VARIANCE]
COUNT = 200_000
EDGES = np.array([-4.0, -3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0])  # deviations


def distributed(z: float, size: int, cohort: int = 10) -> DistributedNoise:
    return DistributedNoise(KEY, z, cohort, cohort, 0, size, max(3, math.ceil(2 / 3 * cohort)), 0.5)


# ---- whole numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", VARIANCES)
def test_every_probability_is_right(variance: float) -> None:
    """log p(k)/p(0) out to 14 deviations (e⁻⁹⁸) against 250 digits: within a tenth of `ROUNDING`, relative to its size;
    finite and falling throughout."""
    deviation = math.sqrt(variance)
    numbers = sorted({int(a * deviation) + b for a in (0, 1, 5, 14) for b in (0, 1)})
    got = log_ratio(np.array(numbers), variance)
    for k, found in zip(numbers, got, strict=True):
        exact = skellam_log_ratio(k, variance)
        assert abs(float(exact - mpmath.mpf(float(found)))) <= 0.1 * ROUNDING * (1 + abs(found))
    all_of_them = log_ratio(np.unique(np.geomspace(1, 1 + 20 * deviation, 500).astype(np.int64)), variance)
    assert np.isfinite(all_of_them).all()
    assert (np.diff(all_of_them) < 0).all()


@pytest.mark.parametrize("variance", VARIANCES[3:])
def test_variance_and_independence(variance: float) -> None:
    """Variance within 1 %; no correlation between two clients, rounds and keys."""
    drawn = {
        "here": skellam(COUNT, variance, KEY, 0, 0),
        "another client": skellam(COUNT, variance, KEY.of("client", 1), 0, 0),
        "another round": skellam(COUNT, variance, KEY, 1, 0),
        "another key": skellam(COUNT, variance, Noise(bytes(32)), 0, 0),
    }
    floats = {name: x.astype(float) for name, x in drawn.items()}
    for x in floats.values():
        assert x.var() == pytest.approx(variance, rel=0.01 + 5 * (2 + 1 / variance) ** 0.5 / COUNT**0.5 - 0.0158)
        assert abs(x.mean()) < 5 * math.sqrt(variance / COUNT)
    for a, b in combinations(floats.values(), 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(COUNT)


def test_parts_are_drawn_apart_and_put_in_order() -> None:
    """More numbers than one part holds: both parts of the right variance, and not the same."""
    from seedbed.privacy.differential import discrete

    drawn = skellam(discrete.DRAWN_AT_ONCE + 5000, 1e10, KEY)
    assert len(drawn) == discrete.DRAWN_AT_ONCE + 5000
    assert (drawn[: discrete.DRAWN_AT_ONCE] == skellam(discrete.DRAWN_AT_ONCE, 1e10, KEY)).all()
    assert (drawn[discrete.DRAWN_AT_ONCE :] != drawn[:5000]).all()


@pytest.mark.parametrize("variance", [-1.0, math.nan, math.inf, 1e21])
def test_what_the_sampler_cannot_draw_is_refused(variance: float) -> None:
    with pytest.raises(InputError, match=r"Skellam noise of variance .* is not supported"):
        skellam(10, variance, KEY)


@pytest.mark.parametrize("z", [LEAST, 1.0, MOST])
@pytest.mark.parametrize("size", [1, 2000, 10_000_000])
@pytest.mark.parametrize("cohort", [3, 10_000])
def test_planning_stays_within_what_is_drawn(z: float, size: int, cohort: int) -> None:
    """The least and the most noise, the smallest and the largest message and cohort: the share's variance, measured, is
    within 1 % of the plan's, and no word of a sum is wider than 64 bits."""
    made = distributed(z, size, cohort)
    drawn = skellam(100_000, made.share, KEY).astype(float)
    spread = 5 * (2 + 1 / made.share) ** 0.5 / 100_000**0.5
    assert drawn.var() == pytest.approx(made.share, rel=max(0.01, spread))
    assert made.honest * made.share == pytest.approx(made.variance)
    assert 1 <= math.sqrt(made.variance) / (z * made.grid.scale * made.clip) <= 1.15
    assert made.expected * made.largest < 2**63
    assert made.grid.longest <= 1.15 * made.grid.scale * made.clip


# ---- normal numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("z", [LEAST, 1.0, MOST])
@pytest.mark.parametrize("kind", [Independent, TreeAggregation, Banded, LocalPrivacy])
def test_normal_noise_at_the_least_and_the_most(kind: Any, z: float) -> None:
    """Of four rounds of one pass: finite, of the deviation that each mechanism states within 1 %, with the frequencies
    of the normal law, and unlike those of another key."""
    made, like = kind(KEY, z, 2, 8), torch.zeros(COUNT)
    other = replace(made, key=Noise(bytes(32)))
    if kind is LocalPrivacy:
        noise, foreign = (m.own_noise(like, 0, 0).numpy() / (2 * z) for m in (made, other))
    else:
        noise, foreign = (m.noise(like, 0).numpy() / z for m in (made, other))
    stated = {TreeAggregation: 3**0.5, Banded: math.sqrt(1 + 1 / 4 + 9 / 64 + 25 / 256)}.get(kind, 1.0)
    noise, foreign = noise / stated, foreign / stated
    assert np.isfinite(noise).all()
    assert noise.std() == pytest.approx(1.0, rel=0.01)
    refuse_frequencies(noise, [normal_below(edge) for edge in EDGES], EDGES)
    assert abs(np.corrcoef(noise, foreign)[0, 1]) < 5 / math.sqrt(COUNT)


def refuse_frequencies(drawn: np.ndarray, below: list[float], edges: np.ndarray) -> None:
    """χ² of counts between edges, at 1e-4."""
    seen = np.diff([0, *(int((drawn < edge).sum()) for edge in edges), len(drawn)])
    want = len(drawn) * np.diff([0.0, *below, 1.0])
    kept = want > 5
    assert ((seen - want)[kept] ** 2 / want[kept]).sum() < stats.chi2.isf(1e-4, kept.sum())


# ---- thirty plans: all of them by scripts/prove samplers --------------------------------------------------------

PLANS = [
    (epsilon, size, cohort)
    for size, cohort in [(10, 10), (650, 10), (23_408, 10), (100_000, 100), (1_000_000, 100), (10_000_000, 10)]
    for epsilon in (0.1, 0.5, 2.0, 8.0, 50.0)
]


def planned(epsilon: float, size: int, cohort: int) -> DistributedNoise:
    privacy = {"epsilon": epsilon, "clip": 0.5, "mechanism": "distributed"}
    settings = Settings.model_validate(
        {"algorithm": "fedavg", "rounds": 100, "cohort": cohort, "privacy": privacy, "secure": {"form": "masks"}}
    )
    plan = PrivacyPromise.of(settings, cohort, size=size, honest=max(3, math.ceil(2 / 3 * cohort)))
    assert plan is not None
    made = plan.mechanism(KEY)
    assert isinstance(made, DistributedNoise)
    return made


def check_plan(made: DistributedNoise, count: int) -> float:
    """One client's share, so many numbers: frequencies against the reference, single probabilities, and variance, whose
    relative error it gives."""
    drawn = skellam(count, made.share, KEY, 0)
    deviation = math.sqrt(made.share)
    edges = np.unique(np.floor(EDGES * deviation).astype(np.int64))
    refuse_frequencies(drawn, [skellam_below(int(edge), made.share) for edge in edges], edges)
    spread = 5 * (2 + 1 / made.share) ** 0.5 / count**0.5
    off = abs(float(drawn.var()) / made.share - 1)
    assert off < max(0.01, spread)
    for k in (1, int(deviation) + 1, int(8 * deviation) + 1):
        [found] = log_ratio(np.array([k]), made.share)
        exact = skellam_log_ratio(k, made.share)
        assert abs(float(exact - mpmath.mpf(float(found)))) <= 0.1 * ROUNDING * (1 + abs(found))
    return off


@pytest.mark.parametrize(("epsilon", "size", "cohort"), [PLANS[0], PLANS[10], PLANS[27]])
def test_a_plans_noise_is_that_of_the_reference(epsilon: float, size: int, cohort: int) -> None:
    check_plan(planned(epsilon, size, cohort), 100_000)
