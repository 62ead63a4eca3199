"""Distributed privacy: every client adds a share of the noise to whole numbers, so that under secure aggregation the
server sees their noisy sum alone. Skellam noise: Agarwal, Kairouz and Liu, "The Skellam mechanism for differentially
private federated learning", NeurIPS 2021, arXiv 2110.04995.

A client's value is clipped to C, spread over its coordinates by a random rotation if it is to be modular (not here),
scaled by s, rounded at random to whole numbers, and noised: Skellam of variance μ/n for n clients. Sums of Skellam
noise are Skellam noise, exactly, and there is no floating-point number in what is released.

Shapes: P numbers of a message, n clients that noise.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from seedbed.errors import InputError
from seedbed.privacy.differential.noise import Noise

Whole = npt.NDArray[np.int64]
Flat = npt.NDArray[np.float64]


class Grid(NamedTuple):
    """How values become whole numbers.

    Attributes:
        scale: s, steps of the grid a unit.
        clip: C, of ‖value‖₂.
        size: P.
        beta: the chance to try a rounding again, that bounds how long rounded values are.
    """

    scale: float
    clip: float
    size: int
    beta: float = math.exp(-0.5)

    @property
    def longest(self) -> float:
        """Δ₂, the most that a rounded value may measure, in steps (Kairouz, Liu and Steinke, ICML 2021, eq. 1):
        min(sC + √P, √(s²C² + P/4 + √(2 ln 1/β)·(sC + √P/2)))."""
        length, root = self.scale * self.clip, math.sqrt(self.size)
        likely = length**2 + self.size / 4 + math.sqrt(2 * math.log(1 / self.beta)) * (length + root / 2)
        return min(length + root, math.sqrt(likely))


def rounded(value: Flat, grid: Grid, noise: Noise, *numbers: int) -> Whole:
    """[P] → whole numbers, up or down at random so that they are right in the mean, tried again until within `longest`.

    Args:
        value: of ‖·‖₂ ≤ C.
        numbers: round, client: what the coins are for.
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
    """[count] whole numbers of Skellam's distribution of this variance, the difference of two Poissons of half of it.

    By the inverse of its distribution function, to the 2⁻⁵³ of uniform numbers.
    """
    support, below = _distribution(variance)
    places = np.searchsorted(below, noise.uniform(count, "skellam", *numbers), side="left")
    found: Whole = support[np.minimum(places, len(support) - 1)]
    return found


def reach(variance: float) -> int:
    """The most that one draw of `skellam` can be; beyond it lies less than 2⁻⁵³ of the distribution."""
    return math.ceil(10 * math.sqrt(variance) + 40)


@lru_cache(maxsize=8)
def _distribution(variance: float) -> tuple[Whole, Flat]:
    """The whole numbers within reach, and P(X ≤ each) by P(X = k) = e^(−μ)·I_k(μ)."""
    from scipy.special import ive

    support = np.arange(-reach(variance), reach(variance) + 1)
    probabilities = ive(np.abs(support), variance)
    return support, np.cumsum(probabilities / probabilities.sum())


def share_of(variance: float, clients: int, may_drop: int) -> float:
    """The variance that each client adds so that those who stay reach `variance` even if so many drop out."""
    if not 0 <= may_drop < clients:
        raise InputError(f"{may_drop} of {clients} clients may drop out: some must be left to add the noise")
    return variance / (clients - may_drop)
