"""Failure probabilities of a SecAgg+ plan, computed exactly over the random neighbours, and the cheapest safe plan.

Bell et al., CCS 2020 (see `secagg_protocol`), sections 3 and 4, with hypergeometric tails in place of their bounds.
Each client draws its k holders itself, uniformly from the others of the roster. Of c marked clients among n it draws a
hypergeometric number, X(n, c) = HG(n − 1, c, k). The c colluding and d lost clients are fixed beforehand.

    exposed, against a server that follows the protocol (h = n − c honest clients, s = h − d of them left)
        t of an honest client's holders collude               ≤ h · P[X(n, c) ≥ t]
        the remaining honest clients form separate parts      ≤ Σ_a≤s/2 C(s, a) · P[none of a draws one of the s − a]ᵃ
                                                                         · P[none of s − a draws one of the a]ˢ⁻ᵃ
    exposed, against a server that deviates
        a set of fewer than A honest clients, each with       ≤ Σ_a<A C(h, a) · P[X(n, c + a − 1) ≥ 2t − k]ᵃ
        2t − k of its holders in the set or colluding
    given up
        fewer than t of a client's holders are left           ≤ n · P[X(n, d) > k − t]

Why 2t − k. Each honest holder gives one share per client, whatever the server claims. If c of a client's k holders
collude, both secrets need 2t ≤ (k − c) + 2c shares. A sum over a set of honest clients contains no masks only if none
of them has masked with an honest client outside the set. Of each one's k holders, t were reported alive and t gave
their share, so at least 2t − k did both. The honest ones among these have masked with it. They have also seen t
signatures of their own holders on their survival, so their masking keys are safe: they are in the set. (A = 2 is the
first case.)
"""

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seedbed.errors import InputError

SIGMA, ETA = 40, 20  # under the assumptions an update is exposed with at most 2⁻⁴⁰, a round given up with at most 2⁻²⁰
COMPLETE = 40  # up to this number of clients all share with all: cheap, and without random neighbours
IMPOSSIBLE = -math.inf


class Assumed(NamedTuple):
    """Assumptions about a round's n clients: c collude with the server, d are lost, and whether the server deviates."""

    clients: int
    colluding: int
    lost: int
    malicious: bool = False

    @property
    def least_honest(self) -> int:
        """A: the minimum number of honest clients in each sum that the server may get. It can subtract colluders'."""
        return max(2, self.clients // 5) if self.malicious else self.clients - self.colluding - self.lost


class Odds(NamedTuple):
    """A plan's failure probabilities in a round, as logarithms to base 2; −∞ for probability 0."""

    exposed: float
    given_up: float

    @property
    def hold(self) -> bool:
        return self.exposed <= -SIGMA and self.given_up <= -ETA


def odds(assumed: Assumed, neighbours: int, threshold: int) -> Odds:
    """Failure probabilities for k neighbours and threshold t."""
    given_up = math.log2(assumed.clients) + _tail(assumed.clients, assumed.lost, neighbours, neighbours - threshold + 1)
    return Odds(min(0.0, _log_exposure(assumed, neighbours, threshold)), min(0.0, given_up))


@lru_cache(maxsize=256)
def cheapest(assumed: Assumed, neighbours: int | None = None, threshold: int | float | None = None) -> tuple[int, int]:
    """The fewest neighbours k, with a threshold t, that satisfy the assumptions.

    Args:
        neighbours: k, or all others if there are fewer; None: the fewest.
        threshold: t; a fraction of k, which t exceeds; None: the largest that completes when all of d are lost.
    Returns:
        (k, t).
    Raises:
        InputError: no such plan exists.
    """
    others = assumed.clients - 1
    first = others if assumed.clients <= COMPLETE else 2
    choice = range(first, others + 1) if neighbours is None else [min(neighbours, others)]
    k = t = 0
    for k in choice:
        t = _largest_threshold(assumed, k) if threshold is None else _as_count(threshold, k)
        if 2 <= t <= k and _log_exposure(assumed, k, t, enough=-SIGMA) <= -SIGMA and odds(assumed, k, t).hold:
            return k, t
    raise InputError(_why_not(assumed, k, t or k // 2 + 1) if neighbours or threshold else _why_none(assumed))


def _as_count(threshold: int | float, neighbours: int) -> int:
    return threshold if isinstance(threshold, int) else max(2, math.floor(threshold * neighbours + 1e-9) + 1)


def _why_not(assumed: Assumed, k: int, t: int) -> str:
    what = f"threshold={t} of {k} neighbours does not protect {assumed.clients} clients"
    out = "leave out secure.neighbours and secure.threshold, or lower secure.lost or secure.colluding"
    if not 2 <= t <= k:
        return f"{what}: it must be from 2 to {k}; {out}"
    exposed, given_up = odds(assumed, k, t)
    return (
        f"{what}: with {assumed.colluding} colluding, an update is exposed with odds of {in_words(exposed)} per "
        f"round (at most {in_words(-SIGMA)}); with {assumed.lost} lost, the round is given up with odds of "
        f"{in_words(given_up)} (at most {in_words(-ETA)}); {out}"
    )


def _why_none(assumed: Assumed) -> str:
    does, twice = ("deviates", "twice ") if assumed.malicious else ("follows the protocol", "")
    return (
        f"no threshold protects {assumed.clients} clients from a server that {does} and colludes with "
        f"{assumed.colluding} of them, while tolerating {assumed.lost} lost clients: the others must be more than "
        f"{twice}the lost plus the colluding. Lower secure.lost or secure.colluding, or ask more clients"
    )


def in_words(exponent: float) -> str:
    """Format the probability 2ˣ.

    >>> in_words(-41.5), in_words(-3.0), in_words(-math.inf)
    ('1 in 3.1e+12', '1 in 8', 'none')
    """
    if exponent == IMPOSSIBLE:
        return "none"
    return f"1 in {2.0**-exponent:.2g}" if exponent > -1000 else "1 in 1e+300"


def _largest_threshold(assumed: Assumed, neighbours: int) -> int:
    """The largest t for which fewer than t holders are left with probability at most 2^−ETA; 0 if none exists."""
    most = -ETA - math.log2(assumed.clients)
    low, high = 0, neighbours + 1  # t = 0 holds, t = k + 1 does not; the probability grows with t
    while high - low > 1:
        middle = (low + high) // 2
        if _tail(assumed.clients, assumed.lost, neighbours, neighbours - middle + 1) <= most:
            low = middle
        else:
            high = middle
    return low


def _log_exposure(assumed: Assumed, k: int, t: int, enough: float = 0.0) -> float:
    """log₂ of the exposure probability for the worst roster: without the d clients that may be lost, but with at least
    k + 1.

    Args:
        enough: stop adding once the probability is above this.
    """
    n, c, d, malicious = assumed
    honest, roster = n - c, max(n - d, k + 1)
    if malicious:
        return _sum(
            (
                _log_binomial(honest, a) + a * _tail(roster, min(roster - 1, c + a - 1), k, 2 * t - k)
                for a in range(1, assumed.least_honest)
            ),
            enough,
        )
    colluding = math.log2(honest) + _tail(roster, c, k, t)
    return colluding if colluding > enough else _sum([colluding, _falls_apart(n, honest - d, k)], enough)


def _falls_apart(n: int, left: int, k: int) -> float:
    """log₂ of the probability that the remaining honest clients form more than one connected part."""
    if k >= n - 1:
        return IMPOSSIBLE
    return _sum(
        _log_binomial(left, a) + a * _tail(n, n - 1 - left + a, k, k) + (left - a) * _tail(n, n - 1 - a, k, k)
        for a in range(1, left // 2 + 1)
    )


def _tail(clients: int, marked: int, drawn: int, least: int) -> float:
    """log₂ P[HG(clients − 1, marked, drawn) ≥ least]."""
    others = clients - 1
    drawn = min(drawn, others)
    low, high = max(least, 0, drawn - (others - marked)), min(drawn, marked)
    if least <= max(0, drawn - (others - marked)):
        return 0.0
    if low > high:
        return IMPOSSIBLE
    x = np.arange(low, high + 1)
    terms = _log_binomials(marked, x) + _log_binomials(others - marked, drawn - x)
    return min(0.0, float(np.logaddexp2.reduce(terms)) - _log_binomial(others, drawn))


def _log_binomials(n: int, k: NDArray[np.int64]) -> NDArray[np.float64]:
    """log₂ of the binomial coefficients C(n, k)."""
    logs = _factorials(n)
    coefficients: NDArray[np.float64] = logs[n] - logs[k] - logs[n - k]
    return coefficients


def _log_binomial(n: int, k: int) -> float:
    return float(_log_binomials(n, np.asarray(k)))


def _factorials(n: int) -> NDArray[np.float64]:
    """log₂ of 0!, 1!, … up to at least n!."""
    return _table(max(1024, 1 << n.bit_length()))


@lru_cache(maxsize=8)
def _table(size: int) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(np.log2(np.arange(1, size + 1, dtype=float)))])


def _sum(terms: Iterable[float], enough: float = 0.0) -> float:
    total = IMPOSSIBLE
    for term in terms:
        total = float(np.logaddexp2(total, term))
        if total > enough:
            break
    return total
