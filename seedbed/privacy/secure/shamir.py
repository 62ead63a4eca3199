"""Shamir's secret sharing: any t of n shares give the secret; fewer reveal nothing about it.

Shamir, "How to share a secret", Communications of the ACM 22(11), 1979.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

PRIME = 2**521 - 1  # a Mersenne prime, larger than any secret of 32 bytes
SHARE_BYTES = 66  # bytes of a share
SECRET = 32  # bytes of a secret


def share_secret(secret: bytes, threshold: int, points: Iterable[int]) -> dict[int, bytes]:
    """Shares of a 32-byte secret, by the point (from 1) at which the polynomial is evaluated."""
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    shares = {}
    for x in points:
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * x + coefficient) % PRIME
        shares[x] = value.to_bytes(SHARE_BYTES, "big")
    return shares


def reconstruct_secret(shares: Mapping[int, bytes]) -> bytes:
    """The secret from at least `threshold` shares, by point.

    Raises:
        ValueError: the shares belong to no 32-byte secret: at least one is wrong.
    """
    points = tuple(sorted(shares))
    total = sum(c * int.from_bytes(shares[x], "big") for c, x in zip(_at_zero(points), points, strict=True)) % PRIME
    if total.bit_length() > 8 * SECRET:
        raise ValueError("the shares do not fit together")
    return total.to_bytes(SECRET, "big")


def search_shares(shares: Mapping[int, bytes], threshold: int, accept: Callable[[bytes], bool]) -> bytes | None:
    """The secret from some `threshold` shares, if `accept` returns True for it; None if no attempt succeeds.

    A dishonest dealer may have mixed in shares of another polynomial. Each attempt takes `threshold` consecutive
    shares, starting at each share in turn. So there are at most as many attempts as shares, and any run of adjacent
    false shares is avoided if enough others are left.
    """
    points = sorted(shares)
    for start in range(len(points) if len(points) > threshold else 1):
        row = (points + points)[start : start + threshold]
        try:
            secret = reconstruct_secret({x: shares[x] for x in row})
        except ValueError:
            continue
        if accept(secret):
            return secret
    return None


@lru_cache(maxsize=4096)
def _at_zero(points: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange coefficients at 0, cached for secrets shared among the same clients."""
    coefficients = []
    for x in points:
        above, below = 1, 1
        for other in points:
            if other != x:
                above = above * other % PRIME
                below = below * (other - x) % PRIME
        coefficients.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(coefficients)
