"""Round policy of a federation: cohorts, waiting times, message validation, and when to stop."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from seedbed.deployment.federation.fixed_point_mean import FixedPointMean
from seedbed.errors import InputError
from seedbed.federated import Algorithm, ClientId, Reducer
from seedbed.privacy.secure.fixed_point import FixedPointGrid
from seedbed.rounds.message_validation import MessageValidator
from seedbed.rounds.round import choose_cohort, refuse_other_than

LEAST_QUORUM = 2  # a round with one message would publish that client's update


@dataclass(frozen=True, kw_only=True)
class RoundPolicy:
    """The server's settings beside the protocol.

    Args:
        rounds: how many.
        clients: the numbers of all clients; each has a key.
        cohort: messages per round; None: one from each client.
        over: oversampling factor, at least 1: cohort·over clients are asked, and the first answers form the cohort.
        quorum: fewest messages for a valid round. None: two thirds of the cohort, at least 2; "all": the whole cohort.
            A client whose message was refused counts as answered: two thirds refer to the others.
        deadline: seconds to wait for the cohort. After them the quorum is enough; with fewer the round is asked again.
        again: seconds before pending clients are asked again.
        seed: for drawing cohorts.
        gate: validation of messages.
        grid: fixed-point format for sums. A message with a number outside ±clip is refused.
        explosion: discard an aggregate longer than this multiple of the median of the last ten; None: never.
        patience: stop after this number of discarded rounds and missed attempts in a row, at least 1.
    """

    rounds: int
    clients: Sequence[ClientId]
    cohort: int | None = None
    over: float = 1.0
    quorum: int | Literal["all"] | None = None
    deadline: float = 600.0
    again: float = 10.0
    seed: int = 0
    gate: MessageValidator = field(default_factory=MessageValidator)
    grid: FixedPointGrid = field(default_factory=lambda: FixedPointGrid(clip=64.0, bits=44))
    explosion: float | None = 100.0
    patience: int = 3

    def __post_init__(self) -> None:
        refuse_other_than(1, self.cohort, min(len(self.clients), self.grid.clients), "cohort")
        if self.quorum != "all":
            refuse_other_than(1, self.quorum, self.wanted, "quorum")
        if not (self.over >= 1 and self.deadline > 0 and self.again > 0 and self.patience >= 1):
            raise InputError(
                f"over={self.over} must be at least 1, deadline={self.deadline} and again={self.again} above 0, "
                f"patience={self.patience} at least 1"
            )

    @property
    def wanted(self) -> int:
        """Messages that complete a round."""
        return self.cohort or len(self.clients)

    def enough(self, refused: int = 0) -> int:
        """Messages needed for a valid round after the deadline.

        Args:
            refused: the number of clients whose message was refused.
        """
        if self.quorum is not None:
            return self.wanted if self.quorum == "all" else self.quorum
        return min(self.wanted, max(LEAST_QUORUM, math.ceil(2 * (self.wanted - refused) / 3)))

    def choose(self, round: int) -> list[ClientId]:
        """The clients to ask, a function of (seed, round); as in simulation if `over` is 1."""
        asked = min(len(self.clients), math.ceil(self.wanted * self.over))
        return choose_cohort(sorted(self.clients), asked, self.seed, round - 1)

    def reduce(self, algorithm: Algorithm) -> Reducer:
        """Fixed-point mean for linear reducers; others unchanged."""
        return FixedPointMean(self.grid) if algorithm.reduce.linear else algorithm.reduce

    @property
    def binding(self) -> dict[str, Any]:
        """Settings that must not change once a run has started, as stored in the journal."""
        return {
            "clients": sorted(self.clients),
            "seed": self.seed,
            "quorum": repr(None if self.quorum == "all" else self.quorum),  # as in old journals
            **{name: agreed_text(getattr(self, name)) for name in ("cohort", "over", "gate", "grid", "explosion")},
        }


def agreed_text(value: object) -> str:
    """A setting as text, with the first names of renamed classes: journals compare this text."""
    return repr(value).replace("MessageValidator(", "Gate(").replace("FixedPointGrid(", "Grid(")
