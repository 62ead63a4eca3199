"""How sure a plan of SecAgg+ is: exact odds over the neighbours that clients draw, and the cheapest plan that holds.

Bell et al., CCS 2020 (see `protocol`), sections 3 and 4, with hypergeometric tails in the place of their bounds. Each
client draws its k holders itself, uniformly from the others of the roster: of c marked clients among n, it draws a
hypergeometric number, X(n, c) = HG(n − 1, c, k). The c that collude and the d that are lost are fixed beforehand.

    exposed, against a server that follows the protocol (h = n − c honest clients, s = h − d of them left)
        t of an honest client's holders collude               ≤ h · P[X(n, c) ≥ t]
        the honest ones that are left fall into parts         ≤ Σ_a≤s/2 C(s, a) · P[none of a draws one of the s − a]ᵃ
                                                                         · P[none of s − a draws one of the a]ˢ⁻ᵃ
    exposed, against one that deviates
        a set of fewer than A honest clients, each with       ≤ Σ_a<A C(h, a) · P[X(n, c + a − 1) ≥ 2t − k]ᵃ
        2t − k of its holders in the set or colluding
    given up
        fewer than t of a client's holders are left           ≤ n · P[X(n, d) > k − t]

Why 2t − k. Each honest holder gives one share of a client, whatever it is told. With c of a client's k holders, both
secrets take 2t ≤ (k − c) + 2c shares. And the sum over a set of honest clients is free of masks only if none of them
has masked with an honest client outside: but of its k holders t have been named as alive, and t have given their share,
so that 2t − k at least have done both; those that are honest have masked with it, and have seen t signatures of their
own holders that they survived, so that their masking keys are safe: they are in the set. (A = 2 is the first of these.)
"""

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seedbed.errors import InputError

SIGMA, ETA = 40, 20  # an update is exposed with 2⁻⁴⁰ at most, a round given up with 2⁻²⁰, within what is assumed
COMPLETE = 40  # so many clients, and fewer, all share with all: cheap, and nothing is left to chance
NEVER = -math.inf


class Assumed(NamedTuple):
    """What is assumed of a round's n clients: c that collude with the server, d that are lost, what the server does."""

    clients: int
    colluding: int
    lost: int
    malicious: bool = False

    @property
    def least_honest(self) -> int:
        """A: in each sum that the server may get, at least; of the colluding ones it can take off what they sent."""
        return max(2, self.clients // 5) if self.malicious else self.clients - self.colluding - self.lost


class Odds(NamedTuple):
    """A plan's odds in a round, as logarithms to base 2; −∞ where they are none."""

    exposed: float
    given_up: float

    @property
    def hold(self) -> bool:
        return self.exposed <= -SIGMA and self.given_up <= -ETA


def odds(assumed: Assumed, neighbours: int, threshold: int) -> Odds:
    """Of k neighbours and a threshold of t."""
    given_up = math.log2(assumed.clients) + _tail(assumed.clients, assumed.lost, neighbours, neighbours - threshold + 1)
    return Odds(min(0.0, _exposed(assumed, neighbours, threshold)), min(0.0, given_up))


@lru_cache(maxsize=256)
def cheapest(assumed: Assumed, neighbours: int | None = None, threshold: int | float | None = None) -> tuple[int, int]:
    """The fewest neighbours k with a threshold t that hold, of those that are asked for.

    Args:
        neighbours: k, or all others where they are fewer; None: the fewest.
        threshold: t; a part: more than that part of k. None: the largest that ends when all of d are lost.
    Raises:
        InputError: there are none.
    """
    others = assumed.clients - 1
    first = others if assumed.clients <= COMPLETE else 2
    choice = range(first, others + 1) if neighbours is None else [min(neighbours, others)]
    k = t = 0
    for k in choice:
        t = _largest_threshold(assumed, k) if threshold is None else _as_count(threshold, k)
        if 2 <= t <= k and _exposed(assumed, k, t, enough=-SIGMA) <= -SIGMA and odds(assumed, k, t).hold:
            return k, t
    raise InputError(_why_not(assumed, k, t or k // 2 + 1) if neighbours or threshold else _why_none(assumed))


def _as_count(threshold: int | float, neighbours: int) -> int:
    return threshold if isinstance(threshold, int) else max(2, math.floor(threshold * neighbours + 1e-9) + 1)


def _why_not(assumed: Assumed, k: int, t: int) -> str:
    what = f"threshold={t} of {k} neighbours does not protect {assumed.clients} clients"
    out = "leave secure.neighbours and secure.threshold out, or lower secure.lost or secure.colluding"
    if not 2 <= t <= k:
        return f"{what}: it must be from 2 to {k}; {out}"
    exposed, given_up = odds(assumed, k, t)
    return (
        f"{what}: with {assumed.colluding} colluding the odds that an update is exposed are {in_words(exposed)} a "
        f"round (at most {in_words(-SIGMA)}), and with {assumed.lost} lost, that it is given up, {in_words(given_up)} "
        f"(at most {in_words(-ETA)}); {out}"
    )


def _why_none(assumed: Assumed) -> str:
    does, twice = ("deviates", "twice ") if assumed.malicious else ("follows the protocol", "")
    return (
        f"no threshold protects {assumed.clients} clients from a server that {does} together with "
        f"{assumed.colluding} of them, and spares {assumed.lost} that are lost: the others must be more than {twice}"
        "those lost plus those colluding. Lower secure.lost or secure.colluding, or ask more clients"
    )


def in_words(exponent: float) -> str:
    """2ˣ for people.

    >>> in_words(-41.5), in_words(-3.0), in_words(-math.inf)
    ('1 in 3.1e+12', '1 in 8', 'none')
    """
    if exponent == NEVER:
        return "none"
    return f"1 in {2.0**-exponent:.2g}" if exponent > -1000 else "1 in 1e+300"


def _largest_threshold(assumed: Assumed, neighbours: int) -> int:
    """The largest t of which fewer than t holders are left with odds of 2^−ETA at most; 0: there is none."""
    most = -ETA - math.log2(assumed.clients)
    low, high = 0, neighbours + 1  # t = 0 holds, t = k + 1 does not, and in between the odds only grow
    while high - low > 1:
        middle = (low + high) // 2
        if _tail(assumed.clients, assumed.lost, neighbours, neighbours - middle + 1) <= most:
            low = middle
        else:
            high = middle
    return low


def _exposed(assumed: Assumed, k: int, t: int, enough: float = 0.0) -> float:
    """With the roster that is worst: without all that may be lost, unless fewer than k others would be left.

    Args:
        enough: no more is added up once the odds are above.
    """
    n, c, d, malicious = assumed
    honest, roster = n - c, max(n - d, k + 1)
    if malicious:
        return _sum(
            (
                _choose(honest, a) + a * _tail(roster, min(roster - 1, c + a - 1), k, 2 * t - k)
                for a in range(1, assumed.least_honest)
            ),
            enough,
        )
    colluding = math.log2(honest) + _tail(roster, c, k, t)
    return colluding if colluding > enough else _sum([colluding, _falls_apart(n, honest - d, k)], enough)


def _falls_apart(n: int, left: int, k: int) -> float:
    """log₂ of the odds that the honest clients that are left are in more than one part."""
    if k >= n - 1:
        return NEVER
    return _sum(
        _choose(left, a) + a * _tail(n, n - 1 - left + a, k, k) + (left - a) * _tail(n, n - 1 - a, k, k)
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
        return NEVER
    x = np.arange(low, high + 1)
    terms = _chosen(marked, x) + _chosen(others - marked, drawn - x)
    return min(0.0, float(np.logaddexp2.reduce(terms)) - _choose(others, drawn))


def _chosen(n: int, k: NDArray[np.int64]) -> NDArray[np.float64]:
    logs = _factorials(n)
    found: NDArray[np.float64] = logs[n] - logs[k] - logs[n - k]
    return found


def _choose(n: int, k: int) -> float:
    return float(_chosen(n, np.asarray(k)))


def _factorials(n: int) -> NDArray[np.float64]:
    """log₂ of 0! to n! and further."""
    return _table(max(1024, 1 << n.bit_length()))


@lru_cache(maxsize=8)
def _table(size: int) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(np.log2(np.arange(1, size + 1, dtype=float)))])


def _sum(terms: Iterable[float], enough: float = 0.0) -> float:
    total = NEVER
    for term in terms:
        total = float(np.logaddexp2(total, term))
        if total > enough:
            break
    return total
