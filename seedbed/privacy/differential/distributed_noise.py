"""Distributed privacy: the noise of a sum is added in shares by the clients themselves, before secure aggregation masks
what they send. Nobody, the server included, ever holds a message or a sum without noise.

Agarwal, Kairouz and Liu, "The Skellam mechanism for differentially private federated learning", NeurIPS 2021, arXiv
2110.04995, with the rounding of Kairouz, Liu and Steinke, ICML 2021, arXiv 2102.06387 (`discrete`). Departures: no
random rotation, for the words are wide enough that no number wraps around; cohorts in turn instead of by chance, for
the server sees who takes part, so that nothing may be gained from chance.

Shapes: P numbers of a message, m clients of a round, h of them whose noise is counted on.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from seedbed import tree
from seedbed.errors import InputError
from seedbed.privacy.differential.accountant import Release, Skellam
from seedbed.privacy.differential.binding import digest_of
from seedbed.privacy.differential.discrete import FlatArray, NoiseGrid, Whole, reach, rounded, share_of, skellam
from seedbed.privacy.differential.mechanisms import InTurn
from seedbed.tree import Tree

LOUD = 2.0**29  # the variance of a client's noise, in steps, from which on the grid is made coarser


@dataclass(frozen=True)
class DistributedNoise(InTurn):
    """Skellam noise in shares on whole numbers, clients in turn: each takes part once in a pass.

    Neighbours are two data sets in one of which a client's contribution is taken for zero; it noises in both. The noise
    of h clients together has the deviation z·C. Who are more make it larger; over fewer no sum may be taken, which
    secure aggregation is to see to (`min_cohort`). A client that is in league with the server, or leaves its noise out,
    is none of the h.

    Args:
        size: P.
        honest: h.
        clip: C, of ‖message‖₂.
    """

    size: int = 1
    honest: int = 1
    clip: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.honest <= self.expected:
            raise InputError(f"honest={self.honest} of {self.expected} clients a round: choose between 1 and all")

    @cached_property
    def grid(self) -> NoiseGrid:
        """At 16√P steps a clip or more (a power of 2, at least 1024): rounding adds less than 0.3 % to a length.

        Where that makes a client's noise larger than √`LOUD` steps the grid is coarser, down to 2√P steps a clip (at
        least 64), so that words stay short; rounding then adds up to 3.5 %, by which the noise is larger too.
        """
        coarse = max(64.0, _power_of_two(2 * math.sqrt(self.size)))
        loudest = math.sqrt(LOUD * self.honest) / max(self.noise_multiplier, 1e-9)
        return self._grid(min(self._fine, max(coarse, 2.0 ** math.floor(math.log2(loudest)))))

    @property
    def _fine(self) -> float:
        """Steps a clip, where the noise does not call for fewer."""
        return max(1024.0, _power_of_two(16 * math.sqrt(self.size)))

    def _grid(self, steps: float) -> NoiseGrid:
        return NoiseGrid(scale=steps / self.clip, clip=self.clip, size=self.size)

    @property
    def variance(self) -> float:
        """μ of the noise of h clients together, in steps: z clips, and on a coarser grid as much more as messages may
        be longer there, so that ε does not depend on the grid."""
        longer = self.grid.longest / self._grid(self._fine).longest * self._fine / (self.grid.scale * self.clip)
        return (self.noise_multiplier * self.grid.scale * self.clip * longer) ** 2

    @property
    def share(self) -> float:
        """The variance of one client's noise."""
        return share_of(self.variance, self.expected, self.expected - self.honest)

    @property
    def largest(self) -> int:
        """The most that one number of a client can be, in steps."""
        return math.ceil(self.grid.longest) + reach(self.share)

    def whole(self, value: FlatArray, client: int, round: int) -> Whole:
        """[P] of ‖·‖₂ ≤ C → what a client sends: rounded, and with its share of the noise.

        Its coins and noise follow from a key and from the value, so that a round computed again is the same release,
        and another value has other noise. In a simulation the key is derived from the run's; in a federation it is the
        client's own.
        """
        own = self.key.of("client", client).bound(digest_of(value))
        return rounded(value, self.grid, own, round) + skellam(len(value), self.share, own, round)

    def noise(self, like: Tree, round: int) -> Tree:
        """The server adds none."""
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
