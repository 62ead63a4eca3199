"""Distributed privacy: every client adds a share of the noise to its integers, so that under secure aggregation the
server sees only the noisy sum. Skellam noise: Agarwal, Kairouz and Liu, "The Skellam mechanism for differentially
private federated learning", NeurIPS 2021, arXiv 2110.04995.

A client's value is clipped to C, scaled by s, rounded at random to integers, and gets Skellam noise of variance μ/n for
n clients. The paper's random rotation, needed for modular arithmetic, is left out. A sum of Skellam noise is exactly
Skellam noise, and the release contains no floating-point number.

Shapes: P numbers of a message, n clients that add noise.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from seedbed.errors import InputError
from seedbed.privacy.differential.noise import Noise, NoiseWords

Whole = npt.NDArray[np.int64]
FlatArray = npt.NDArray[np.float64]
Bits = npt.NDArray[np.bool_]
SMALLEST_VARIANCE, LARGEST_VARIANCE = 1e-30, 1e20  # variances that `skellam` accepts
FINE = 4096.0  # from this variance three terms of Debye's expansion are exact to double precision
DRAWN_AT_ONCE = 2**20  # numbers in one chunk
TOP, TOP_BIT = 2**64, np.uint64(2**63)


class NoiseGrid(NamedTuple):
    """The grid on which values are rounded to integers.

    Attributes:
        scale: s, steps of the grid per unit of the value.
        clip: C, the bound on ‖value‖₂.
        size: P, the number of values.
        beta: the probability of rejecting a rounding; it bounds the length of rounded values.
    """

    scale: float
    clip: float
    size: int
    beta: float = math.exp(-0.5)

    @property
    def longest(self) -> float:
        """Δ₂, the largest L2 norm of a rounded value, in steps (Kairouz, Liu and Steinke, ICML 2021, eq. 1):
        min(sC + √P, √(s²C² + P/4 + √(2 ln 1/β)·(sC + √P/2)))."""
        length, root = self.scale * self.clip, math.sqrt(self.size)
        likely = length**2 + self.size / 4 + math.sqrt(2 * math.log(1 / self.beta)) * (length + root / 2)
        return min(length + root, math.sqrt(likely))


def round_randomly(value: FlatArray, grid: NoiseGrid, noise: Noise, *numbers: int) -> Whole:
    """Round [P] values at random to integers without bias, and redraw until the norm is within `grid.longest`.

    Args:
        value: ‖value‖₂ ≤ C.
        numbers: round and client, which select the random draws.
    Raises:
        InputError: the value is longer than the clip.
    """
    scaled = grid.scale * value
    low = np.floor(scaled)
    for attempt in range(1000):
        whole: Whole = (low + (noise.uniform(len(value), "rounding", *numbers, attempt) <= scaled - low)).astype(
            np.int64
        )
        if math.sqrt(float(np.square(whole).sum())) <= grid.longest:
            return whole
    raise InputError(
        f"a value of length {np.linalg.norm(value):.4g} is not within the clip of {grid.clip:g}: clip it first"
    )


def skellam(count: int, variance: float, noise: Noise, *numbers: int) -> Whole:
    """[count] integers from Skellam's distribution: the difference of two Poisson variables of variance μ/2 each.

    Rejection sampling with a staircase (after Devroye, "A simple generator for discrete log-concave distributions",
    Computing 1987): |k| = U + t·V with U uniform on 0 … t − 1 and V = v with probability 2^−(v+1), both from random
    words, is accepted with probability p(k)·2^V / p(0). `log_ratio` gives p(k)/p(0) to a relative 1e-13
    (`accountant.ROUNDING`), far into the tails, at every variance from `SMALLEST_VARIANCE` to `LARGEST_VARIANCE`:
    nothing over- or underflows, and no tail is cut. Departure from inverting a table of probabilities: such a table is
    accurate to 2^−53 only, and scipy's Bessel functions return NaN above a variance of about 1.05e9.

    Args:
        variance: 0, or within SMALLEST_VARIANCE … LARGEST_VARIANCE.
        numbers: round and client, which select the random draws.
    Raises:
        InputError: the variance is outside this range.
    """
    if variance == 0:
        return np.zeros(count, np.int64)
    if not SMALLEST_VARIANCE <= variance <= LARGEST_VARIANCE:
        raise InputError(
            f"Skellam noise of variance {variance:g} is not supported: choose a variance within "
            f"{SMALLEST_VARIANCE:g}…{LARGEST_VARIANCE:g}"
        )
    parts = range(0, count, DRAWN_AT_ONCE)
    drawn = [_chunk(min(DRAWN_AT_ONCE, count - at), variance, noise, *numbers, at) for at in parts]
    return np.concatenate(drawn) if drawn else np.zeros(0, np.int64)


def _chunk(count: int, variance: float, noise: Noise, *numbers: int) -> Whole:
    drawn, waiting, attempt = np.zeros(count, np.int64), np.arange(count), 0
    while len(waiting):
        words = noise.words(4 * len(waiting), "skellam", *numbers, attempt).reshape(4, -1)
        proposed, accepted = _proposals(words, variance)
        drawn[waiting[accepted]] = proposed[accepted]
        waiting, attempt = waiting[~accepted], attempt + 1
    return drawn


def _proposals(words: NoiseWords, variance: float) -> tuple[Whole, Bits]:
    """Uniform words [4, n] → proposed integers [n], and a mask of those accepted."""
    stair = _stair(variance)
    level = _halvings(words[1] | TOP_BIT)
    size = (words[0] % stair).astype(np.int64) + int(stair) * level
    negative = words[1] >= TOP_BIT
    # A uniform number with 53 significant digits at every magnitude, so that small probabilities are exact too.
    uniform = np.ldexp(1 + (words[3] >> np.uint64(11)) * 2.0**-53, -1 - _halvings(words[2]))
    accepted = uniform < np.exp(log_ratio(size, variance) + level * math.log(2) - _height(variance))
    accepted &= words[0] < TOP - TOP % int(stair)  # otherwise the remainder would favour small numbers
    accepted &= ~(negative & (size == 0))  # zero has one sign
    return np.where(negative, -size, size), accepted


def _halvings(words: NoiseWords) -> Whole:
    """Number of trailing zero bits: v with probability 2^−(v+1); 64 for a zero word."""
    lowest = words & (~words + np.uint64(1))
    return np.where(words == 0, 64, np.frexp(lowest.astype(np.float64))[1] - 1).astype(np.int64)


@lru_cache(maxsize=64)
def _stair(variance: float) -> np.uint64:
    """t: roughly where p has fallen to half of p(0)."""
    return np.uint64(math.ceil(math.sqrt(2 * math.log(2) * variance)) + 1)


@lru_cache(maxsize=64)
def _height(variance: float) -> float:
    """The largest log(p(k)·2^V/p(0)), at the first number of a stair; log p is concave, so it is among the first."""
    level = np.arange(8)
    return float(np.max(log_ratio(level * int(_stair(variance)), variance) + level * math.log(2)))


def log_ratio(k: Whole, variance: float) -> FlatArray:
    """log P(X = k)/P(X = 0) = log I_k(μ)/I_0(μ) of Skellam's distribution, k ≥ 0.

    From μ = FINE on by Debye's expansion, uniform in k (Abramowitz and Stegun 9.7.7): with r = √(k² + μ²),
    I_k(μ) = exp(r − k·asinh(k/μ))·(1 + u_1 + u_2 + u_3 + O(r⁻⁴)) / √(2πr).
    Below FINE from a table of cumulated log I_{k+1}/I_k.
    """
    if variance < FINE:
        table = _table(variance)
        return np.where(k < len(table), table[np.minimum(k, len(table) - 1)], -math.inf)
    x = k.astype(np.float64)
    r = np.hypot(x, variance)
    main = x * x / (r + variance) - x * np.arcsinh(x / variance) - np.log1p((x / variance) ** 2) / 4
    return np.asarray(main + np.log1p(_debye(r, variance)) - np.log1p(_debye(variance, variance)))


def _debye(r: Any, variance: float) -> Any:
    """u_1 + u_2 + u_3 of Debye's expansion."""
    s = (variance / r) ** 2  # of A&S's t = k/r: t² = 1 − s
    t = 1 - s
    first = (3 - 5 * t) / (24 * r)
    second = (81 - 462 * t + 385 * t**2) / (1152 * r**2)
    third = (30375 - 369603 * t + 765765 * t**2 - 425425 * t**3) / (414720 * r**3)
    return first + second + third


@lru_cache(maxsize=64)
def _table(variance: float) -> FlatArray:
    """log I_k(μ)/I_0(μ) for k = 0 … K; beyond K it is below −800. Downward recursion I_{k−1} = I_{k+1} + 2k/μ·I_k,
    whose result does not depend on its start."""
    last = math.ceil(45 * math.sqrt(variance)) + 400
    ratio, logs = 0.0, np.zeros(last + 1)
    for k in range(last + 60, 0, -1):
        ratio = 1 / (2 * k / variance + ratio)  # I_k/I_{k−1}
        if k <= last:
            logs[k] = math.log(ratio)
    return np.asarray(np.cumsum(logs))


def reach(variance: float) -> int:
    """A bound that one draw of `skellam` exceeds with probability below 2⁻⁵³."""
    return math.ceil(10 * math.sqrt(variance) + 40)


def share_of(variance: float, clients: int, may_drop: int) -> float:
    """The variance of each client's noise, such that the sum reaches `variance` even if `may_drop` clients drop out."""
    if not 0 <= may_drop < clients:
        raise InputError(f"may_drop={may_drop} of {clients} clients: choose 0 to {clients - 1}, so that some add noise")
    return variance / (clients - may_drop)
