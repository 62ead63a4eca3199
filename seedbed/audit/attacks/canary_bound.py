"""A lower bound on ε from one run: Steinke, Nasr and Jagielski, "Privacy auditing with one (1) training run", NeurIPS
2023, arXiv 2305.08846; canary clients with random directions from Andrew et al., "One-shot empirical privacy estimation
for federated learning", ICLR 2024, arXiv 2302.03098.

m canary clients each send C times their own random direction; each takes part with probability 1/2. An attacker guesses
the participants from ⟨canary, release⟩. Under (ε, δ) the number of right guesses is bounded.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]


class CanaryGuesses(NamedTuple):
    """Guesses about m canaries: r were made, and v of them were right."""

    canaries: int
    guessed: int
    right: int


def directions(count: int, length: int, rng: np.random.Generator) -> Floats:
    """Random unit vectors, [count, length]."""
    drawn = rng.standard_normal((count, length))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def guess_canaries(
    scores: Floats, included: NDArray[np.bool_], *, part: float = 1.0, absent: bool = True
) -> CanaryGuesses:
    """Guess that canaries with high scores took part, and that those with low scores did not.

    Args:
        scores: [m] ⟨canary, release⟩.
        included: [m] actual participation.
        part: fraction of the canaries to guess, those with the highest and lowest scores in equal numbers. It must be
            chosen before the scores are seen.
        absent: also guess at low scores. Otherwise only half of the part is guessed, all at high scores; this is better
            if sampling leaves some participants out of every round.
    """
    m = len(scores)
    half = max(1, round(part * m / 2))
    order = np.argsort(scores)
    right = int(included[order[m - half :]].sum())
    if not absent:
        return CanaryGuesses(m, half, right)
    return CanaryGuesses(m, 2 * half, right + int((~included[order[:half]]).sum()))


def p_value(guesses: CanaryGuesses, epsilon: float, delta: float) -> float:
    """An upper bound on the probability of this many right guesses if (ε, δ) holds: Theorem 5.2.

    P[Binomial(r, eᵉ/(1+eᵉ)) ≥ v] + 2mδ·max_i P[v − i ≤ Binomial < v]/i.
    """
    m, r, v = guesses
    q = 1 / (1 + np.exp(-epsilon))
    below = np.cumsum(stats.binom.pmf(np.arange(v - 1, -1, -1), r, q))
    alpha = float(np.max(below / np.arange(1, v + 1), initial=0.0))
    return min(1.0, float(stats.binom.sf(v - 1, r, q)) + 2 * m * delta * alpha)


def lower_bound(guesses: CanaryGuesses, delta: float, *, confidence: float = 0.95) -> float:
    """The largest ε that the guesses refute with this confidence; 0 if none.

    >>> round(lower_bound(CanaryGuesses(1000, 1000, 1000), 0.0), 2)
    5.81
    """
    low, high = 0.0, 50.0
    if p_value(guesses, low, delta) > 1 - confidence:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(guesses, middle, delta) <= 1 - confidence else (low, middle)
    return low
