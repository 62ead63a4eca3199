"""How noise is laid on the rounds, and who takes part in them: the two are accounted together, so they stand together.

Shapes: N clients in all, m of them expected in a round (q = m/N), T rounds. Each mechanism's noise has the standard
deviation z in units of the clip; what a round costs is a `Gaussian` (or `Skellam`), or None where an earlier charge
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

SUM = "sum"  # the purpose of noise on sums


class Mechanism(Protocol):
    """Noise on sums of contributions of length at most 1, with the cohorts that its cost is accounted for."""

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
        """Who takes part in a round (from 0); may be nobody."""
        ...

    def noise(self, like: Tree, round: int) -> Tree:
        """What is added to a round's sum, in double precision."""
        ...

    def cost(self, round: int) -> Release | None:
        """What is charged before a round."""
        ...

    def spent(self, rounds: int) -> dict[Release, int]:
        """What so many rounds cost in all."""
        ...


@dataclass(frozen=True)
class Independent:
    """Fresh noise in every round, and Poisson cohorts: every client flips a coin of its own, of chance q.

    The coins come from the secret key: ε counts on nobody knowing who took part.

    Args:
        noise_multiplier: z; 0 gives none, and no privacy.
        expected: m, the mean size of a cohort; all clients for q = 1.
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
        return tree.scale(self.noise_multiplier, self.key.normal_like(like, SUM, round))

    def cost(self, round: int) -> Release | None:
        return Gaussian(self.noise_multiplier, self.rate)

    def spent(self, rounds: int) -> dict[Release, int]:
        return {Gaussian(self.noise_multiplier, self.rate): rounds}


@dataclass(frozen=True)
class InTurn:
    """Cohorts for when chance cannot choose who takes part: m clients a round, each once in a pass over all.

    A pass has ⌊N/m⌋ rounds, in an order drawn by the seed; those left over wait for the next. A client that is not
    there leaves its place empty (its contribution is taken for zero): that is what neighbours are here. No
    amplification by sampling is claimed, so that the order need not be secret. What a pass costs is charged before its
    first round.
    """

    key: Noise
    noise_multiplier: float
    expected: int
    population: int
    seed: int = 0
    same_order: ClassVar[bool] = False  # in every pass

    def __post_init__(self) -> None:
        refuse_cohort(self.expected, self.population)

    @property
    def rounds_of_a_pass(self) -> int:
        return self.population // self.expected

    def order(self, pass_: int) -> npt.NDArray[np.int64]:
        """[N] positions of clients, in the order of a pass."""
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
    """DP-FTRL: noise on partial sums of the rounds, by a binary tree of them, begun afresh in every pass.

    Kairouz, McMahan, Song, Thakkar, Thakurta and Xu, ICML 2021, arXiv 2103.00039, Algorithm 1. The sum of rounds 0…t
    carries the noise of the nodes that t + 1 is made of in binary; what is added to round t is the difference to that
    of t − 1, so that any server's step may follow. A client is in at most ⌊log2 of the pass⌋ + 1 nodes, each of the
    deviation z√(that): a pass costs what one Gaussian of z does.
    """

    @property
    def levels(self) -> int:
        return self.rounds_of_a_pass.bit_length()

    def noise(self, like: Tree, round: int) -> Tree:
        pass_, place = divmod(round, self.rounds_of_a_pass)
        # From the nodes of t to those of t + 1: the trailing ones of t are merged into one node above them.
        level = (~place & (place + 1)).bit_length() - 1
        made = self._node(like, pass_, level, place >> level)
        for below in range(level):
            made = tree.sub(made, self._node(like, pass_, below, (place >> below) - 1))
        return tree.scale(self.noise_multiplier * self.levels**0.5, made)

    def _node(self, like: Tree, pass_: int, level: int, position: int) -> Tree:
        return self.key.normal_like(like, SUM, pass_, level, position)


class Banded(InTurn):
    """Banded matrix factorisation: each round's noise takes back some of that of the rounds before it.

    Noise (C⁻¹Z)_t for lower-triangular Toeplitz C with c_0 = 1, c_j = c_{j−1}·(2j − 1)/2j, the square root of the
    matrix of partial sums (Fichtenberger, Henzinger and Upadhyay, ICML 2023), cut to as many bands as a pass has rounds
    (Kalinin and Lampert, NeurIPS 2024, arXiv 2405.13763). A client's rounds lie at least a pass apart, so that its
    columns of C do not meet: each pass costs what one Gaussian does whose deviation is z times a column's length.
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
        """(C⁻¹Z)_t of the last rounds: in memory alone, never where a checkpoint could hold it."""
        return {}

    def noise(self, like: Tree, round: int) -> Tree:
        length = math.sqrt(math.fsum(c * c for c in self.column))
        return tree.scale(self.noise_multiplier * length, self._solved(like, round))

    def _solved(self, like: Tree, round: int) -> Tree:
        """(C⁻¹Z)_t = Z_t − Σ_{j=1}^{b−1} c_j·(C⁻¹Z)_{t−j}; after a restart computed again from the key."""
        past = self._past
        if past and max(past) > round:
            past.clear()
        for t in range(max(past, default=-1) + 1, round + 1):
            solved = self.key.normal_like(like, SUM, t)
            for j in range(1, min(t, len(self.column) - 1) + 1):
                solved = tree.axpy(-self.column[j], past[t - j], solved)
            past[t] = solved
            past.pop(t - len(self.column), None)
        return past[round]


class LocalPrivacy(InTurn):
    """Local privacy: the server adds nothing, for every client has (`LocallyNoised`), and each takes part once a pass.

    Neighbours are any two data sets of the client: two contributions differ by at most twice the clip, so that a
    client's noise has the deviation 2z in units of the clip.
    """

    def noise(self, like: Tree, round: int) -> Tree:
        return tree.map(lambda x: torch.zeros_like(x, dtype=torch.float64), like)

    def own_noise(self, value: Tree, client: ClientId, round: int) -> Tree:
        """What a client adds to its own contribution; its key would be its own in a real federation.

        It is bound to the contribution, so that a server that asks again with other settings gets other noise.
        """
        drawn = self.key.of("client", client).bound(digest_of_tree(value)).normal_like(value, SUM, round)
        return tree.scale(2 * self.noise_multiplier, drawn)


def refuse_cohort(expected: int, population: int) -> None:
    if not 1 <= expected <= population:
        raise InputError(f"cohort={expected} of {population} clients: choose between 1 and {population}")
