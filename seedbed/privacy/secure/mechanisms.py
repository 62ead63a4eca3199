"""The forms of secure aggregation that an engine's clients can take part in: masks, shares, and neither."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from seedbed.errors import InputError
from seedbed.privacy.secure.additive import AdditiveServer, combine_shares, split_shares
from seedbed.privacy.secure.fixed_point import FixedPointGrid, GridWords
from seedbed.privacy.secure.groups import Lost
from seedbed.privacy.secure.in_process import SecureSum, add_words, masked_sum
from seedbed.privacy.secure.odds import Assumed, cheapest
from seedbed.privacy.secure.secagg_protocol import ClientId, RoundAborted, SecAggPlan


class SumMechanism(Protocol):
    """How a sum of words is taken. What is seen of it beside the sum says each form."""

    @property
    def min_cohort(self) -> int: ...

    def sum(self, words: Mapping[ClientId, GridWords], grid: FixedPointGrid, round: int, lost: Lost) -> SecureSum:
        """The sum over those whose words arrive.

        Args:
            round: from 0.
            lost: who is lost at which of the four stages.
        Raises:
            Aborted: too few are left; nothing was revealed.
        """
        ...


@dataclass(frozen=True)
class MaskedSums:
    """SecAgg+, see `protocol`: one server, which learns the sum and nothing else.

    Attributes:
        neighbours: k of each client; None: the fewest that hold what is assumed, all others up to 40 clients.
        threshold: t; a part: more than that part of its neighbours, a whole number: so many. None: the largest that
            spares the lost.
        min_cohort: no sum is taken over fewer; the clients themselves see to it.
        malicious_server, run: see `Plan`.
        colluding: part of the clients that may collude with the server; one at least, unless 0.
        lost: part of the clients that a round spares; None: 0.3, or with `malicious_server` 0.05, of 5 or more clients
            one at least.
    """

    neighbours: int | None = None
    threshold: int | float | None = None
    min_cohort: int = 3
    malicious_server: bool = False
    run: str = "simulation"
    colluding: float = 0.2
    lost: float | None = None

    def assumed(self, clients: int) -> Assumed:
        """What a plan for so many clients must hold against."""
        colluding = max(1, _floor(self.colluding * clients)) if self.colluding else 0
        if self.lost is not None:
            lost = _floor(self.lost * clients)
        elif self.malicious_server:
            lost = max(int(clients >= 5), _floor(0.05 * clients))
        else:
            lost = _floor(0.3 * clients)
        return Assumed(clients, colluding, lost, self.malicious_server)

    def plan(self, clients: int, words: int, grid: FixedPointGrid, round: int) -> SecAggPlan:
        """For so many clients with so many words each.

        Raises:
            InputError: it would not hold what is assumed.
        """
        assumed = self.assumed(clients)
        k, t = cheapest(assumed, self.neighbours, self.threshold)
        return SecAggPlan(
            self.run,
            round + 1,  # people count rounds from 1
            0,
            words - 1,
            k,
            t,
            min_cohort=self.min_cohort,
            roster=3 if k == clients - 1 else clients - assumed.lost,
            grid=grid,
            malicious_server=self.malicious_server,
        )

    def sum(self, words: Mapping[ClientId, GridWords], grid: FixedPointGrid, round: int, lost: Lost) -> SecureSum:
        require_enough_clients(len(words), self.min_cohort, round)
        try:
            plan = self.plan(len(words), len(next(iter(words.values()))), grid, round)
        except InputError as error:
            raise RoundAborted(f"round {round + 1}: {error}") from error
        return masked_sum(plan, words, lost)


@dataclass(frozen=True)
class SharedSums:
    """Additive shares, see `additive`: several servers, of which one at least does not collude with the others.

    A client that is lost before its update is sent does not count; after that it has nothing more to do.
    """

    servers: int = 2
    min_cohort: int = 3

    def __post_init__(self) -> None:
        if self.servers < 2:
            raise InputError(f"servers={self.servers}: whoever holds the only share sees the update; take 2 or more")

    def sum(self, words: Mapping[ClientId, GridWords], grid: FixedPointGrid, round: int, lost: Lost) -> SecureSum:
        gone = {c for stage in lost[:3] for c in stage}
        there = sorted(c for c in words if c not in gone)
        require_enough_clients(len(there), self.min_cohort, round)
        first = words[there[0]]
        servers = [AdditiveServer(len(first), grid.dtype) for _ in range(self.servers)]
        for client in there:
            for server, share in zip(servers, split_shares(words[client], self.servers), strict=True):
                server.receive(client, share)
        return SecureSum(
            combine_shares(server.total(there, least=self.min_cohort) for server in servers), frozenset(there)
        )


@dataclass(frozen=True)
class PlainSums:
    """The arithmetic alone, without any protection: what the other forms must give, bit for bit."""

    min_cohort: int = 3

    def sum(self, words: Mapping[ClientId, GridWords], grid: FixedPointGrid, round: int, lost: Lost) -> SecureSum:
        gone = {c for stage in lost[:3] for c in stage}
        there = sorted(c for c in words if c not in gone)
        require_enough_clients(len(there), self.min_cohort, round)
        return SecureSum(add_words([words[c] for c in there]), frozenset(there))


def require_enough_clients(count: int, least: int, round: int) -> None:
    """A sum over fewer than it needs."""
    if count < least:
        raise RoundAborted(f"round {round + 1}: {count} clients are left, fewer than {least}: nothing was revealed")


def _floor(number: float) -> int:
    return math.floor(number + 1e-9)
