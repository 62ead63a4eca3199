"""Numbers as integers on a grid, added modulo a power of two: the sum is the same in any order, masked or not.

Shapes: D numbers of a vector, W = D + 1 words; the last word is the weight.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seedbed.errors import InputError

GridWords = NDArray[np.unsignedinteger]
Numbers = NDArray[np.float64]


class NotEncodable(InputError):
    """An update that must not enter a sum, because it could not be removed again.

    `rounds.round` recognises a diverging model by reasons that begin with "not finite".
    """


@dataclass(frozen=True)
class FixedPointGrid:
    """The fixed-point format of a federation.

    Attributes:
        clip: C > 0: numbers outside [−C, C] are clipped to it. Choose C well above the size of an update's numbers.
        bits: b per number, 2 to 52: the step is 2C/2ᵇ, so a mean with equal weights is exact to C/2ᵇ.
        clients: the largest number of summands; b + log₂(clients) bits must fit into a word of 32 or 64 bits.
        cap: the example count with weight 1; w = min(n, cap)/cap. None: weights are in [0, 1] already.
    """

    clip: float = 8.0
    bits: int = 20
    clients: int = 4096
    cap: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.clip) and self.clip > 0):
            raise InputError(f"clip={self.clip} must be a finite number above 0")
        if self.clients < 1 or not 2 <= self.bits <= 52 or self._needed > 64:
            raise InputError(
                f"bits={self.bits} for {self.clients} clients does not fit into 64 bits: choose bits from 2 to 52"
            )
        if self.cap is not None and not self.cap > 0:
            raise InputError(f"cap={self.cap} must be above 0")

    @property
    def _needed(self) -> int:
        return self.bits + math.ceil(math.log2(self.clients))

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """Word type: 32 bits if the sum of all clients fits, else 64."""
        return np.uint32 if self._needed <= 32 else np.uint64

    @property
    def largest(self) -> int:
        """The largest integer of one client, 2ᵇ⁻¹ − 1."""
        return int(2 ** (self.bits - 1) - 1)

    @property
    def step(self) -> float:
        return self.clip / self.largest

    def encode(self, numbers: Numbers, weight: float = 1.0) -> GridWords:
        """round(w·x/step) for every number, then the weight: [D] → [W].

        The weight is clipped to [0, 1] first: a client gains nothing from a false weight.

        Raises:
            NotEncodable: a number or the weight is NaN or infinite; in a sum its source could not be identified.
        """
        if not np.isfinite(numbers).all() or not math.isfinite(weight):
            raise NotEncodable("not finite: the update contains NaN or infinite numbers and is not sent")
        w = self.share(weight)
        scaled = np.clip(numbers, -self.clip, self.clip) * (w / self.step)
        whole = np.rint(np.append(scaled, w * self.largest)).astype(np.int64)
        words: GridWords = whole.astype(self.dtype)  # modulo 2³² or 2⁶⁴
        return words

    def share(self, weight: float) -> float:
        """w in [0, 1]: the weight divided by the cap, clipped."""
        return min(max(weight / self.cap if self.cap else weight, 0.0), 1.0)

    def signed(self, total: GridWords) -> NDArray[np.int64]:
        """Words of a sum as signed integers."""
        whole: NDArray[np.int64] = total.astype(np.int32 if self.dtype is np.uint32 else np.int64).astype(np.int64)
        return whole

    def decode(self, total: GridWords) -> tuple[Numbers, float]:
        """Decode a sum: the weighted mean [D] and the total weight."""
        signed = self.signed(total).astype(np.float64)
        weight = float(signed[-1]) / self.largest
        return signed[:-1] * (self.step / weight) if weight else np.zeros(len(total) - 1), weight


def add_modular(words: GridWords, more: GridWords) -> None:
    """words ← words + more, modulo 2³² or 2⁶⁴."""
    np.add(words, more, out=words)
