"""Noise on whole numbers: its distribution, shares that add up, rounding, and ε against one computed exactly."""

import math

import numpy as np
import pytest
from scipy import stats

from seedbed import InputError
from seedbed.privacy.differential.accountant import Skellam, epsilon, gaussian_epsilon
from seedbed.privacy.differential.discrete import NoiseGrid, round_randomly, share_of, skellam

from .parrots import KEY

COUNT = 200_000


@pytest.mark.parametrize("variance", [0.7, 30.0, 1e4])
def test_shares_add_up_to_the_noise(variance: float) -> None:
    """Of five clients each a fifth: mean 0, variance and (for few values) frequencies of Skellam's distribution."""
    total = sum(skellam(COUNT, share_of(variance, 5, 0), KEY, 0, client) for client in range(5))
    assert abs(total.mean()) < 5 * (variance / COUNT) ** 0.5
    assert total.var() == pytest.approx(variance, rel=5 * (3 / COUNT) ** 0.5 * (1 + 1 / variance) ** 0.5)
    if variance < 100:
        reach = int(2 * variance**0.5) + 1
        seen = np.array([(total == k).sum() for k in range(-reach, reach + 1)])
        want = COUNT * stats.skellam.pmf(range(-reach, reach + 1), variance / 2, variance / 2)
        assert ((seen - want) ** 2 / want).sum() < stats.chi2.isf(1e-3, 2 * reach + 1)


def test_who_drops_out_leaves_enough() -> None:
    assert 7 * share_of(20.0, 10, 3) == pytest.approx(20.0)
    with pytest.raises(InputError, match="10 of 10"):
        share_of(20.0, 10, 10)


def test_rounding_is_right_in_the_mean_and_within_its_length() -> None:
    grid = NoiseGrid(scale=10.0, clip=1.0, size=40)
    rng = np.random.default_rng(0)
    value = rng.normal(size=40)
    value /= np.linalg.norm(value)
    all_rounded = np.stack([round_randomly(value, grid, KEY, 0, client) for client in range(2000)])
    assert np.abs(all_rounded - 10 * value).max() < 1
    assert np.linalg.norm(all_rounded, axis=1).max() <= grid.longest < 10 + 40**0.5
    # Rounding again where it came out too long draws the mean a little towards zero.
    assert np.abs(all_rounded.mean(0) - 10 * value).max() < 5 * 0.5 / 2000**0.5 + 0.02


def test_a_value_beyond_the_clip_is_refused() -> None:
    with pytest.raises(InputError, match="clip it first"):
        round_randomly(np.full(4, 10.0), NoiseGrid(scale=10.0, clip=1.0, size=4), KEY)


@pytest.mark.parametrize("variance", [20.0, 100.0, 2000.0])
@pytest.mark.parametrize("shift", [1, 3, 10])
def test_the_bound_lies_above_the_exact_divergence(variance: float, shift: int) -> None:
    """One number, moved by Δ: ε from the bound ≥ the exact ε, from Σ_k max(0, p(k) − e^ε·p(k − Δ)) = δ."""
    reach = int(12 * variance**0.5) + 10 * shift + 50
    k = np.arange(-reach, reach + 1)
    p, moved = (stats.skellam.pmf(k - s, variance / 2, variance / 2) for s in (0, shift))
    low, high = 0.0, 200.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(0, p - math.exp(middle) * moved).sum() > 1e-5 else (low, middle)
    bound = epsilon({Skellam(variance, shift, 1): 1}, 1e-5)
    assert bound >= high
    assert bound <= 1.35 * high + 0.2


def test_with_a_fine_grid_it_is_the_gaussian() -> None:
    """s → ∞: Δ₂/√μ → 1/z, and the bound tends to a Rényi bound of the Gaussian, some 10 % above its exact ε."""
    z, size = 4.0, 1000
    grid = NoiseGrid(scale=1e6, clip=1.0, size=size)
    got = epsilon({Skellam((z * 1e6) ** 2, grid.longest, size): 10}, 1e-5)
    exact = gaussian_epsilon(10**0.5 / z, 1e-5)
    assert exact <= got <= 1.1 * exact
