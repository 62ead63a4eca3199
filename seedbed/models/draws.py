"""What a model draws at random, as a function of a key and of how many draws came before: no generator, no state.

Works under vmap, where each client has a key of its own, and gives the same numbers there as for one client.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

DRAW, PLACE = 0x2545F4914F6CDD1D, -0x61C8864680B583EB  # odd steps of the key: from draw to draw, from place to place
MIX_1, MIX_2 = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # splitmix64's constants, as int64 holds them
FINE, COARSE = 53, 24  # random bits of a number in double and in single precision


class Draws:
    """The draws of one pass.

    Args:
        key: [] int64.
    """

    def __init__(self, key: Tensor):
        self._key, self.count = key, 0

    def uniform(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Numbers in [0, 1): [...]."""
        bits = FINE if dtype == torch.float64 else COARSE
        found = (self._bits(shape) >> (64 - bits)) & ((1 << bits) - 1)
        exact = found.to(torch.float64 if bits == FINE else torch.float32)
        return (exact * 2.0**-bits).to(dtype)

    def normal(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Standard normal numbers, by the inverse of their distribution function: [...]."""
        u = ((self._bits(shape) >> (64 - FINE)) & ((1 << FINE) - 1)).to(torch.float64)
        return (torch.erfinv((2 * u + 1) * 2.0**-FINE - 1) * math.sqrt(2)).to(dtype)

    def keeps(self, shape: Sequence[int], p: float, dtype: torch.dtype) -> Tensor:
        """1 with probability 1 − p, else 0: [...]."""
        return (self.uniform(shape, torch.float32) >= p).to(dtype)

    def gumbel(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """−log(−log u): [...]."""
        return -self.exponential(shape, torch.float64).log().to(dtype)

    def exponential(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """−log u of u in (0, 1): [...]."""
        u = ((self._bits(shape) >> (64 - FINE)) & ((1 << FINE) - 1)).to(torch.float64)
        return -((u + 0.5) * 2.0**-FINE).log().to(dtype)

    def whole(self, low: int, high: int, shape: Sequence[int]) -> Tensor:
        """Whole numbers from low to high − 1: [...]."""
        return low + (self.uniform(shape, torch.float64) * (high - low)).to(torch.int64)

    def _bits(self, shape: Sequence[int]) -> Tensor:
        """64 random bits each, by splitmix64's finaliser: [...]."""
        self.count += 1
        place = torch.arange(math.prod(shape), device=self._key.device) * PLACE
        z = place + (self._key + _wrapped(self.count * DRAW))
        z = (z ^ ((z >> 30) & (1 << 34) - 1)) * MIX_1
        z = (z ^ ((z >> 27) & (1 << 37) - 1)) * MIX_2
        return (z ^ ((z >> 31) & (1 << 33) - 1)).reshape(tuple(shape))


def _wrapped(number: int) -> int:
    """A whole number modulo 2⁶⁴, as int64 holds it."""
    return (number + 2**63) % 2**64 - 2**63
