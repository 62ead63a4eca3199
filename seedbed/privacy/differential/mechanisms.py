"""Privacy mechanisms: how noise is added in each round, and how cohorts are drawn. Both are in one place because the
accountant's cost holds only for the two together.

Shapes: N clients in all, m expected in a round (q = m/N), T rounds. The noise of each mechanism has the standard
deviation z in units of the clip. The cost of a round is a `Gaussian` or `Skellam` release, or None if an earlier charge
covers it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch

from seedbed import randomness, tree
from seedbed.errors import InputError
from seedbed.federated import ClientId
from seedbed.privacy.differential.accountant import Gaussian, Release
from seedbed.privacy.differential.binding import digest_of_tree
from seedbed.privacy.differential.noise import Noise
from seedbed.tree import Tree

SUM_PURPOSE = "sum"  # purpose of the noise on sums, in key derivation


class Mechanism(Protocol):
    """Noise on a sum of contributions of norm at most 1, and the cohorts for which its cost holds."""

    __dataclass_fields__: ClassVar[dict[str, Any]]  # a frozen dataclass

    @property
    def key(self) -> Noise: ...

    @property
    def noise_multiplier(self) -> float: ...

    @property
    def population(self) -> int: ...

    @property
    def expected(self) -> int: ...

    def cohort(self, population: Sequence[ClientId], round: int) -> list[ClientId]:
        """The participants of a round (from 0); may be empty."""
        ...

    def noise(self, like: Tree, round: int) -> Tree:
        """The noise to add to a round's sum, in double precision."""
        ...

    def cost(self, round: int) -> Release | None:
        """The release to charge before a round, or None if an earlier charge covers it."""
        ...

    def spent(self, rounds: int) -> dict[Release, int]:
        """The releases of the first `rounds` rounds."""
        ...


@dataclass(frozen=True)
class Independent:
    """Fresh noise in every round, and Poisson cohorts: each client takes part with probability q, independently.

    Cohorts are drawn from the secret key: ε holds only if the participants are unknown.

    Args:
        key: the secret key of noise and cohorts.
        noise_multiplier: z; 0 means no noise and no privacy.
        expected: m, the mean cohort size; N gives q = 1.
        population: N.
    """

    key: Noise
    noise_multiplier: float
    expected: int
    population: int

    def __post_init__(self) -> None:
        refuse_cohort(self.expected, self.population)

    @property
    def rate(self) -> float:
        """q = m/N."""
        return self.expected / self.population

    def cohort(self, population: Sequence[ClientId], round: int) -> list[ClientId]:
        coins = self.key.uniform(len(population), "cohort", round)
        return [c for c, coin in zip(population, coins, strict=True) if coin <= self.rate]

    def noise(self, like: Tree, round: int) -> Tree:
        return tree.scale(self.noise_multiplier, self.key.normal_like(like, SUM_PURPOSE, round))

    def cost(self, round: int) -> Release | None:
        return Gaussian(self.noise_multiplier, self.rate)

    def spent(self, rounds: int) -> dict[Release, int]:
        return {Gaussian(self.noise_multiplier, self.rate): rounds}


@dataclass(frozen=True)
class InTurn:
    """Cohorts without sampling: m clients a round, each once per pass over all clients.

    A pass has ⌊N/m⌋ rounds, in an order drawn from the seed; clients left over wait for the next pass. An absent client
    leaves its place empty, and its contribution counts as zero: this defines the neighbouring data sets. No
    amplification by sampling is claimed, so the order need not be secret. The cost of a pass is charged before its
    first round.
    """

    key: Noise
    noise_multiplier: float
    expected: int
    population: int
    seed: int = 0
    same_order: ClassVar[bool] = False  # whether every pass has the same order

    def __post_init__(self) -> None:
        refuse_cohort(self.expected, self.population)

    @property
    def rounds_of_a_pass(self) -> int:
        return self.population // self.expected

    def order(self, pass_: int) -> npt.NDArray[np.int64]:
        """[N] positions of clients, in the order of this pass."""
        return randomness.generator(self.seed, "in turn", 0 if self.same_order else pass_).permutation(self.population)

    def cohort(self, population: Sequence[ClientId], round: int) -> list[ClientId]:
        pass_, place = divmod(round, self.rounds_of_a_pass)
        chosen = self.order(pass_)[place * self.expected : (place + 1) * self.expected]
        return sorted(population[int(i)] for i in chosen)

    def cost(self, round: int) -> Release | None:
        return None if round % self.rounds_of_a_pass else Gaussian(self.noise_multiplier)

    def spent(self, rounds: int) -> dict[Release, int]:
        return {Gaussian(self.noise_multiplier): -(-rounds // self.rounds_of_a_pass)}


class TreeAggregation(InTurn):
    """DP-FTRL: noise on partial sums of rounds through a binary tree, restarted in every pass.

    Kairouz, McMahan, Song, Thakkar, Thakurta and Xu, ICML 2021, arXiv 2103.00039, Algorithm 1. The sum of rounds 0…t
    carries the noise of the tree nodes in the binary expansion of t + 1. Round t gets the difference between this noise
    and that of t − 1, so any server step may follow. A client is in at most L = ⌊log2(rounds of a pass)⌋ + 1 nodes,
    each with deviation z√L: a pass costs the same as one Gaussian release with multiplier z.
    """

    @property
    def levels(self) -> int:
        return self.rounds_of_a_pass.bit_length()

    def noise(self, like: Tree, round: int) -> Tree:
        pass_, place = divmod(round, self.rounds_of_a_pass)
        # From the nodes of t to those of t + 1: the trailing 1 bits of t merge into one node above them.
        level = (~place & (place + 1)).bit_length() - 1
        noise = self._node(like, pass_, level, place >> level)
        for below in range(level):
            noise = tree.sub(noise, self._node(like, pass_, below, (place >> below) - 1))
        return tree.scale(self.noise_multiplier * self.levels**0.5, noise)

    def _node(self, like: Tree, pass_: int, level: int, position: int) -> Tree:
        return self.key.normal_like(like, SUM_PURPOSE, pass_, level, position)


class Banded(InTurn):
    """Banded matrix factorisation: each round's noise cancels part of the noise of earlier rounds.

    Noise (C⁻¹Z)_t for a lower-triangular Toeplitz C with c_0 = 1, c_j = c_{j−1}·(2j − 1)/2j, the square root of the
    matrix of partial sums (Fichtenberger, Henzinger and Upadhyay, ICML 2023), with one band per round of a pass
    (Kalinin and Lampert, NeurIPS 2024, arXiv 2405.13763). A client's rounds are at least a pass apart, so its columns
    of C do not overlap: each pass costs the same as one Gaussian release whose deviation is z times a column's length.
    The order of clients is the same in all passes.
    """

    same_order: ClassVar[bool] = True

    @cached_property
    def column(self) -> list[float]:
        """c_0 … c_{b−1}."""
        column = [1.0]
        for j in range(1, self.rounds_of_a_pass):
            column.append(column[-1] * (2 * j - 1) / (2 * j))
        return column

    @cached_property
    def _past(self) -> dict[int, Tree]:
        """(C⁻¹Z)_t of the last rounds; only in memory, so that no checkpoint contains it."""
        return {}

    def noise(self, like: Tree, round: int) -> Tree:
        length = math.sqrt(math.fsum(c * c for c in self.column))
        return tree.scale(self.noise_multiplier * length, self._correlated(like, round))

    def _correlated(self, like: Tree, round: int) -> Tree:
        """(C⁻¹Z)_t = Z_t − Σ_{j=1}^{b−1} c_j·(C⁻¹Z)_{t−j}; recomputed from the key after a restart."""
        past = self._past
        if past and max(past) > round:
            past.clear()
        for t in range(max(past, default=-1) + 1, round + 1):
            solved = self.key.normal_like(like, SUM_PURPOSE, t)
            for j in range(1, min(t, len(self.column) - 1) + 1):
                solved = tree.axpy(-self.column[j], past[t - j], solved)
            past[t] = solved
            past.pop(t - len(self.column), None)
        return past[round]


class LocalPrivacy(InTurn):
    """Local privacy: every client adds its own noise (`LocallyNoised`) and takes part once per pass; the server adds
    none.

    Neighbours are any two data sets of one client. Their contributions differ by at most twice the clip, so a client's
    noise has the standard deviation 2z in units of the clip.
    """

    def noise(self, like: Tree, round: int) -> Tree:
        return tree.map(lambda x: torch.zeros_like(x, dtype=torch.float64), like)

    def own_noise(self, value: Tree, client: ClientId, round: int) -> Tree:
        """The noise that a client adds to its own contribution; in a real federation the key would be the client's.

        It is derived from the contribution: a server that asks again with other settings gets other noise.
        """
        drawn = self.key.of("client", client).bound(digest_of_tree(value)).normal_like(value, SUM_PURPOSE, round)
        return tree.scale(2 * self.noise_multiplier, drawn)


def refuse_cohort(expected: int, population: int) -> None:
    if not 1 <= expected <= population:
        raise InputError(f"cohort={expected} of {population} clients: choose 1 to {population}")
