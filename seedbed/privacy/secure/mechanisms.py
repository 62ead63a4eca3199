"""Ways to sum words: secure aggregation by masks or by shares, and plain sums."""

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
    """How a sum of words is computed. Each implementation states what it reveals besides the sum."""

    @property
    def min_cohort(self) -> int: ...

    def sum(self, words: Mapping[ClientId, GridWords], grid: FixedPointGrid, round: int, lost: Lost) -> SecureSum:
        """The sum over the clients whose words arrive.

        Args:
            round: from 0.
            lost: the clients lost at each of the four stages.
        Raises:
            RoundAborted: too few clients are left; nothing was revealed.
        """
        ...


@dataclass(frozen=True)
class MaskedSums:
    """SecAgg+ (see `secagg_protocol`): one server, which learns only the sum.

    Attributes:
        neighbours: k per client; None: the fewest that satisfy the assumptions, or all others up to 40 clients.
        threshold: t; an integer, or a fraction of the neighbours, which t exceeds. None: the largest that tolerates the
            assumed losses.
        min_cohort: the smallest number of clients in a sum; the clients themselves enforce it.
        malicious_server, run: see `SecAggPlan`.
        colluding: assumed fraction of clients that collude with the server; at least one client, unless 0.
        lost: fraction of clients that a round tolerates losing. None: 0.3; with `malicious_server` 0.05, and at least
            one client of 5 or more.
    """

    neighbours: int | None = None
    threshold: int | float | None = None
    min_cohort: int = 3
    malicious_server: bool = False
    run: str = "simulation"
    colluding: float = 0.2
    lost: float | None = None

    def assumed(self, clients: int) -> Assumed:
        """The assumptions that a plan for this number of clients must satisfy."""
        colluding = max(1, _floor(self.colluding * clients)) if self.colluding else 0
        if self.lost is not None:
            lost = _floor(self.lost * clients)
        elif self.malicious_server:
            lost = max(int(clients >= 5), _floor(0.05 * clients))
        else:
            lost = _floor(0.3 * clients)
        return Assumed(clients, colluding, lost, self.malicious_server)

    def plan(self, clients: int, words: int, grid: FixedPointGrid, round: int) -> SecAggPlan:
        """The plan for this number of clients and words.

        Raises:
            InputError: no plan satisfies the assumptions.
        """
        assumed = self.assumed(clients)
        k, t = cheapest(assumed, self.neighbours, self.threshold)
        return SecAggPlan(
            self.run,
            round + 1,  # plans and messages count rounds from 1
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
    """Additive shares (see `additive`): several servers, of which at least one does not collude.

    A client lost before it sends its update does not count; afterwards it has nothing more to do.
    """

    servers: int = 2
    min_cohort: int = 3

    def __post_init__(self) -> None:
        if self.servers < 2:
            raise InputError(f"servers={self.servers}: a server with the only share sees the update; use 2 or more")

    def sum(self, words: Mapping[ClientId, GridWords], grid: FixedPointGrid, round: int, lost: Lost) -> SecureSum:
        absent = {c for stage in lost[:3] for c in stage}
        present = sorted(c for c in words if c not in absent)
        require_enough_clients(len(present), self.min_cohort, round)
        first = words[present[0]]
        servers = [AdditiveServer(len(first), grid.dtype) for _ in range(self.servers)]
        for client in present:
            for server, share in zip(servers, split_shares(words[client], self.servers), strict=True):
                server.receive(client, share)
        return SecureSum(
            combine_shares(server.total(present, least=self.min_cohort) for server in servers), frozenset(present)
        )


@dataclass(frozen=True)
class PlainSums:
    """The arithmetic only, without protection: the reference that the others must match bit for bit."""

    min_cohort: int = 3

    def sum(self, words: Mapping[ClientId, GridWords], grid: FixedPointGrid, round: int, lost: Lost) -> SecureSum:
        absent = {c for stage in lost[:3] for c in stage}
        present = sorted(c for c in words if c not in absent)
        require_enough_clients(len(present), self.min_cohort, round)
        return SecureSum(add_words([words[c] for c in present]), frozenset(present))


def require_enough_clients(count: int, least: int, round: int) -> None:
    """Abort a round with too few clients.

    Raises:
        RoundAborted: `count` is below `least`.
    """
    if count < least:
        raise RoundAborted(f"round {round + 1}: {count} clients are left, fewer than {least}: nothing was revealed")


def _floor(number: float) -> int:
    return math.floor(number + 1e-9)
