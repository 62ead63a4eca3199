"""Privacy accountant: ε from privacy loss distributions (Koskela et al., AISTATS 2020; Google's dp-accounting), and the
noise multiplier for a target ε.

Neighbouring data sets differ by one client (add or remove). A client takes part in a round with probability q,
independently of all others (a Poisson cohort), or in every round (q = 1). Not supported: replace-one neighbours,
cohorts of fixed size, and the central-limit (Gaussian-DP) estimate, which is no upper bound.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from seedbed.errors import InputError

LARGE, WEAK = 20.0, 100.0  # above ε = LARGE the discretisation is coarser; above ε = WEAK Rényi's bound suffices
MAX_RELEASE_KINDS = 8  # with more kinds of sampled releases Rényi's bound is used: each kind takes about 1 s
COARSE, FINE = 1e-3, 1e-4  # discretisation of the privacy loss; the result is an upper bound with either
LEAST, MOST = 0.02, 1e5  # range of the noise multipliers searched
ROUNDING = 1e-13  # relative error of the probability of each number that `discrete.skellam` draws


class Gaussian(NamedTuple):
    """One release of a sum of clients' contributions with Gaussian noise.

    Attributes:
        noise_multiplier: z > 0, the noise's standard deviation divided by the clip.
        rate: q in (0, 1], the probability that a client is in the sum.
    """

    noise_multiplier: float
    rate: float = 1.0

    @property
    def noisy(self) -> bool:
        return self.noise_multiplier > 0

    def divergence(self, order: int) -> float:
        """Rényi divergence of order α: α/2z² if q = 1, else
        log Σ_k C(α, k)(1 − q)^(α−k)·q^k·e^((k²−k)/2z²) / (α − 1) (Mironov, Talwar and Zhang, arXiv 1908.10530,
        section 3.3)."""
        from scipy.special import gammaln, logsumexp

        z, q = self.noise_multiplier, self.rate
        if q == 1:
            return order / (2 * z * z)
        k = np.arange(order + 1)
        ways = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
        terms = ways + k * math.log(q) + (order - k) * math.log1p(-q) + k * (k - 1) / (2 * z * z)
        return float(logsumexp(terms)) / (order - 1)


class Skellam(NamedTuple):
    """One release of a sum of clients' integer vectors with Skellam noise. Every client is in the sum (q = 1).

    Attributes:
        variance: μ > 0, the guaranteed variance of the noise in the sum, in squared steps of the grid.
        longest: Δ₂, the largest L2 norm of one client's vector, in steps.
        size: P, the length of the vector.
    """

    variance: float
    longest: float
    size: int

    @property
    def noisy(self) -> bool:
        return self.variance > 0

    def divergence(self, order: int) -> float:
        """Rényi divergence of order α: αΔ₂²/2μ + min(((2α − 1)Δ₂² + 6Δ₁)/4μ², 3Δ₁/2μ) (Agarwal, Kairouz and Liu,
        NeurIPS 2021, arXiv 2110.04995, Theorem 3.5), with Δ₁ ≤ min(√P·Δ₂, Δ₂²) for integers.

        The sampler's double precision adds (2α − 1)/(α − 1)·P·η ≤ 3Pη: the probabilities of both distributions are
        within a factor 1 ± Pη of Skellam's.
        """
        mu, square = self.variance, self.longest**2
        l1 = min(math.sqrt(self.size) * self.longest, square)
        extra = min(((2 * order - 1) * square + 6 * l1) / (4 * mu**2), 3 * l1 / (2 * mu))
        return order * square / (2 * mu) + extra + 3 * self.size * ROUNDING


Release = Gaussian | Skellam
RENYI_ORDERS = (*range(2, 257), 384, 512, 1024, 2048)  # α
FEWER_ORDERS = (*range(2, 33), *range(36, 65, 4), 80, 96, 128, 192, 256, 512, 1024)  # α where each order needs a sum


def release_event(table: Mapping[str, Any]) -> Release:
    """Rebuild a release from the fields that `_asdict` returned."""
    return Skellam(**table) if "variance" in table else Gaussian(**table)


def epsilon(spent: Mapping[Release, int], delta: float) -> float:
    """ε at δ of adaptively composed releases.

    Args:
        spent: how often each kind of release was made.
        delta: δ in (0, 1).

    Gaussian releases: an upper bound, within a relative 1e-4 of the exact value; exact if every rate is 1. Skellam
    releases, mixtures of both, and more than `MAX_RELEASE_KINDS` kinds of sampled releases: Rényi's bound (Canonne,
    Kamath and Steinke, NeurIPS 2020, Proposition 12), about 10 % higher.

    >>> round(epsilon({Gaussian(4.0): 10}, 1e-5), 4)
    3.3414
    """
    refuse_delta(delta)
    releases = [(r, n) for r, n in spent.items() if n]
    normal = [(r, n) for r, n in releases if isinstance(r, Gaussian)]
    if len(normal) < len(releases) or sum(r.rate < 1 for r, _ in normal) > MAX_RELEASE_KINDS:
        return _renyi_epsilon(releases, delta)
    if any(not r.noisy for r, _ in normal):
        return math.inf
    about = _renyi_epsilon(normal, delta) if any(r.rate < 1 for r, _ in normal) else 0.0
    return _epsilon(tuple(sorted(normal)), delta, FINE if about < LARGE else COARSE if about < WEAK else 10 * COARSE)


def _renyi_epsilon(spent: Sequence[tuple[Release, int]], delta: float) -> float:
    def at(order: int) -> float:
        divergence = math.fsum(n * r.divergence(order) for r, n in spent)
        return divergence + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)

    sums = any(isinstance(r, Gaussian) and r.rate < 1 for r, _ in spent)
    return max(0.0, min(at(order) for order in (FEWER_ORDERS if sums else RENYI_ORDERS)))


def refuse_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise InputError(f"delta={delta} must be between 0 and 1: choose a value far below 1/clients, such as 1e-5")


@lru_cache(maxsize=4096)
def _epsilon(spent: tuple[tuple[Gaussian, int], ...], delta: float, step: float) -> float:
    always = math.fsum(n / g.noise_multiplier**2 for g, n in spent if g.rate == 1)
    sampled = [(g, n) for g, n in spent if g.rate < 1]
    if not sampled:
        return gaussian_epsilon(math.sqrt(always), delta)
    dp, pld = _library()
    accountant = pld.PLDAccountant(dp.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=step)
    if always:  # Gaussians compose to one
        accountant.compose(dp.GaussianDpEvent(1 / math.sqrt(always)))
    for gaussian, count in sampled:
        event = dp.PoissonSampledDpEvent(gaussian.rate, dp.GaussianDpEvent(gaussian.noise_multiplier))
        accountant.compose(event, count)
    return float(accountant.get_epsilon(delta))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The exact ε of one Gaussian release with μ = sensitivity / σ: Φ(μ/2 − ε/μ) − e^ε·Φ(−μ/2 − ε/μ) = δ.

    Balle and Wang, ICML 2018, Theorem 8.

    >>> round(gaussian_epsilon(1.0, 1e-5), 6)
    4.377178
    """
    from scipy.optimize import brentq
    from scipy.special import log_ndtr

    def excess(e: float) -> float:
        above, below = log_ndtr(mu / 2 - e / mu), e + log_ndtr(-mu / 2 - e / mu)
        gap = below - above
        return float(above + math.log(-math.expm1(gap)) - math.log(delta)) if gap < 0 else -math.inf

    if mu == 0 or excess(0.0) <= 0:
        return 0.0
    # δ ≤ P(loss > ε). The loss is normal with mean μ²/2 and deviation μ, so ε < mean + √(2 ln 1/δ) deviations.
    return float(brentq(excess, 0.0, mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1e-9, xtol=1e-12))


def noise_for(target: float, delta: float, *, rate: float = 1.0, times: int = 1) -> float:
    """The smallest noise multiplier z with ε ≤ `target` after `times` releases, to a relative 1e-4.

    Args:
        target: ε > 0.
        delta: δ in (0, 1).
        rate: q in (0, 1], the probability that a client takes part in a release.
        times: the number of releases.
    Raises:
        InputError: no multiplier in LEAST…MOST reaches the target.

    >>> round(noise_for(2.0, 1e-5, rate=0.01, times=1000), 3)
    0.959
    """
    refuse_delta(delta)
    if not 0 < target < math.inf:
        raise InputError(f"epsilon={target} must be a finite number above 0, such as 2")
    if target > times * (1 + 12 / LEAST) / LEAST**2:  # above the cost of these releases at z = LEAST, for δ > 1e-300
        _within(0.0, target, times)
    high = math.sqrt(times) / _gaussian_mu(target, delta)  # for q = 1; sampling never needs more noise
    if rate == 1:
        return _within(high, target, times)
    high = _renyi_noise_for(target, delta, rate, times, high)
    if target > WEAK:  # such a target gives hardly any privacy: Rényi's bound is accurate enough
        return _within(high, target, times)
    return _sampled_noise_for(target, delta, rate, times, _within(min(high, MOST), target, times))


def _gaussian_mu(target: float, delta: float) -> float:
    """The largest μ = sensitivity / σ of one Gaussian release with ε ≤ target."""
    low, high = 0.0, 2 * math.sqrt(2 * target) + 10  # ε > μ²/2 − 5μ there
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_epsilon(middle, delta) <= target else (low, middle)
    return low


def _renyi_noise_for(target: float, delta: float, rate: float, times: int, high: float) -> float:
    def over(z: float) -> bool:
        return _renyi_epsilon([(Gaussian(z, rate), times)], delta) > target

    low = LEAST / 2
    if over(high):
        return high
    while high > low * 1.01:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if over(middle) else (low, middle)
    return high


def _sampled_noise_for(target: float, delta: float, rate: float, times: int, most: float) -> float:
    """z in LEAST…`most`, by root finding; a larger ε uses a coarser discretisation."""
    from scipy.optimize import brentq

    coarse, fine = (COARSE, FINE) if target <= LARGE else (10 * COARSE, COARSE)

    def excess(log_z: float, step: float = coarse) -> float:
        return _epsilon(((Gaussian(math.exp(log_z), rate), times),), delta, step) - target

    low = high = math.log(most)
    if excess(high, fine) > 0:  # `most` is MOST, or only the discretisation error exceeds the target
        _within(math.inf if most == MOST else most, target, times)
        return most
    while excess(low) <= 0:
        high, low = low, math.log(_within(math.exp(low - 0.15), target, times))
    log_z_found = float(brentq(excess, low, high, xtol=1e-4))
    for _ in range(8):  # the coarse bound is slightly high: correct by the fine one
        gap = excess(log_z_found, fine)
        if -1e-4 * target <= gap <= 0:
            break
        slope = (excess(log_z_found + 1e-2) - excess(log_z_found - 1e-2)) / 2e-2
        log_z_found -= (gap + 3e-5 * target) / slope
    else:
        log_z_found += 1e-3  # not converged: add slightly more noise than needed
    return math.exp(log_z_found)


def skellam_for(target: float, delta: float, *, longest: float, steps: float, size: int, times: int = 1) -> float:
    """The smallest noise multiplier z with ε ≤ `target` after `times` Skellam releases of variance (z·steps)², to a
    relative 1e-4.

    Args:
        target, delta, times: as for `noise_for`.
        longest, size: as for `Skellam`.
        steps: steps of the grid per clip.
    Raises:
        InputError: no multiplier in LEAST…MOST reaches the target.
    """
    refuse_delta(delta)
    if not 0 < target < math.inf:
        raise InputError(f"epsilon={target} must be a finite number above 0, such as 2")

    def over(z: float) -> bool:
        return epsilon({Skellam((z * steps) ** 2, longest, size): times}, delta) > target

    low, high = LEAST, MOST
    if over(high) or not over(low):
        raise InputError(
            f"epsilon={target:g} over {times} releases needs a noise multiplier outside {LEAST:g}…{MOST:g}: choose "
            "another epsilon, fewer rounds, or a smaller cohort"
        )
    while high > low * (1 + 1e-4):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if over(middle) else (low, middle)
    return high


def _within(z: float, target: float, times: int) -> float:
    if not LEAST <= z <= MOST:
        raise InputError(
            f"epsilon={target:g} over {times} rounds needs a noise multiplier outside {LEAST:g}…{MOST:g}: choose "
            "another epsilon, fewer rounds, or a smaller cohort"
        )
    return z


def _library() -> tuple[Any, Any]:
    try:
        import dp_accounting
        from dp_accounting.pld import pld_privacy_accountant
    except ImportError as error:
        raise InputError(
            "privacy accounting needs the package dp-accounting: pip install 'seedbed[privacy]'"
        ) from error
    return dp_accounting, pld_privacy_accountant
