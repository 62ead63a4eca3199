"""Distributed privacy: each client adds a share of the sum's noise before secure aggregation masks its message. No
machine, the server included, ever holds a message or a sum without noise.

Agarwal, Kairouz and Liu, "The Skellam mechanism for differentially private federated learning", NeurIPS 2021, arXiv
2110.04995, with the rounding of Kairouz, Liu and Steinke, ICML 2021, arXiv 2102.06387 (`discrete`). Departures: no
random rotation, because the words are wide enough that no number wraps around; cohorts in turn instead of Poisson
cohorts, because the server sees the participants, so sampling would not amplify privacy.

Shapes: P numbers of a message, m clients in a round, h of them assumed honest.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from seedbed import tree
from seedbed.errors import InputError
from seedbed.privacy.differential.accountant import Release, Skellam
from seedbed.privacy.differential.binding import digest_of
from seedbed.privacy.differential.discrete import FlatArray, NoiseGrid, Whole, reach, round_randomly, share_of, skellam
from seedbed.privacy.differential.mechanisms import InTurn
from seedbed.tree import Tree

LOUD = 2.0**29  # from this variance of one client's noise, in squared steps, the grid becomes coarser


@dataclass(frozen=True)
class DistributedNoise(InTurn):
    """Skellam noise in shares on integers. Clients take turns: each takes part once per pass.

    Neighbouring data sets differ in one client, whose contribution is zero in one of them; it adds noise in both. The
    noise of h clients together has the standard deviation z·C. More clients make it larger. No sum may be taken over
    fewer, which secure aggregation enforces (`min_cohort`). A client that colludes with the server, or omits its noise,
    does not count towards h.

    Args:
        size: P, the numbers of a message.
        honest: h, from 1 to the cohort size.
        clip: C, the bound on ‖message‖₂.
    """

    size: int = 1
    honest: int = 1
    clip: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.honest <= self.expected:
            raise InputError(f"honest={self.honest} of {self.expected} clients a round: choose 1 to {self.expected}")

    @cached_property
    def grid(self) -> NoiseGrid:
        """The rounding grid. Normally 16√P steps per clip (a power of 2, at least 1024): rounding lengthens a message
        by less than 0.3 %.

        Where one client's noise would exceed √`LOUD` steps, the grid is coarser, down to 2√P steps per clip (at least
        64), so that words stay short. Rounding then adds up to 3.5 %, and the noise grows by the same factor.
        """
        coarse = max(64.0, _power_of_two(2 * math.sqrt(self.size)))
        loudest = math.sqrt(LOUD * self.honest) / max(self.noise_multiplier, 1e-9)
        return self._grid(min(self._fine, max(coarse, 2.0 ** math.floor(math.log2(loudest)))))

    @property
    def _fine(self) -> float:
        """Steps per clip of the normal grid."""
        return max(1024.0, _power_of_two(16 * math.sqrt(self.size)))

    def _grid(self, steps: float) -> NoiseGrid:
        return NoiseGrid(scale=steps / self.clip, clip=self.clip, size=self.size)

    @property
    def variance(self) -> float:
        """μ, the variance of the noise of h clients together, in squared steps. The deviation is z clips; on a coarser
        grid it grows with the longest rounded message, so that ε does not depend on the grid."""
        longer = self.grid.longest / self._grid(self._fine).longest * self._fine / (self.grid.scale * self.clip)
        return (self.noise_multiplier * self.grid.scale * self.clip * longer) ** 2

    @property
    def share(self) -> float:
        """The variance of one client's noise."""
        return share_of(self.variance, self.expected, self.expected - self.honest)

    @property
    def largest(self) -> int:
        """The largest absolute number in a client's message, in steps."""
        return math.ceil(self.grid.longest) + reach(self.share)

    def whole(self, value: FlatArray, client: int, round: int) -> Whole:
        """The integers [P] that a client sends: its value, rounded, plus its share of the noise.

        Args:
            value: [P], ‖value‖₂ ≤ C.

        Rounding and noise are derived from a key and from the value. A recomputed round is therefore the same release,
        and another value gets other noise. In a simulation the key is derived from the run's key; in a federation it is
        the client's own.
        """
        own = self.key.of("client", client).bound(digest_of(value))
        return round_randomly(value, self.grid, own, round) + skellam(len(value), self.share, own, round)

    def noise(self, like: Tree, round: int) -> Tree:
        """Zeros: the clients add the noise, not the server."""
        return tree.map(lambda x: torch.zeros_like(x, dtype=torch.float64), like)

    def cost(self, round: int) -> Release | None:
        return None if round % self.rounds_of_a_pass else self._release

    def spent(self, rounds: int) -> dict[Release, int]:
        return {self._release: -(-rounds // self.rounds_of_a_pass)}

    @property
    def _release(self) -> Skellam:
        return Skellam(self.variance, self.grid.longest, self.size)


def _power_of_two(least: float) -> float:
    return float(2.0 ** math.ceil(math.log2(least)))
