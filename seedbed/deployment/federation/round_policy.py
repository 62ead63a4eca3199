"""How a federation's rounds are held: who is asked, who is waited for, what is let through, when to stop."""

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

LEAST_QUORUM = 2  # one message is no federation's


@dataclass(frozen=True, kw_only=True)
class RoundPolicy:
    """The server's settings beside the plan.

    Args:
        rounds: how many.
        clients: the federation's, by number: those that have a key.
        cohort: messages a round; None: everybody's.
        over: so many times the cohort is asked, at least 1; the first answers make up the cohort.
        quorum: fewest messages that make a round; None: two thirds of the cohort, at least 2; "all": the whole
            cohort's. A client whose message is refused has answered: two thirds are counted without it.
        deadline: seconds that a round waits for its cohort; after them the quorum is enough, and with fewer the round
            is asked again.
        again: seconds after which those that are silent are asked again.
        seed: of who is asked.
        gate: what a message must be.
        grid: the whole numbers that messages are added up in. A message with a number beyond ±clip is refused.
        explosion: an aggregate longer than so many times the median of the ten before it is discarded; None: none is.
        patience: rounds discarded and attempts missed in a row, after which the server stops.
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
        """Messages that close a round."""
        return self.cohort or len(self.clients)

    def enough(self, refused: int = 0) -> int:
        """Messages that make a round once the deadline is over.

        Args:
            refused: clients of the cohort whose message was refused.
        """
        if self.quorum is not None:
            return self.wanted if self.quorum == "all" else self.quorum
        return min(self.wanted, max(LEAST_QUORUM, math.ceil(2 * (self.wanted - refused) / 3)))

    def chosen(self, round: int) -> list[ClientId]:
        """Who is asked: as in simulation where `over` is 1. A function of (seed, round)."""
        asked = min(len(self.clients), math.ceil(self.wanted * self.over))
        return choose_cohort(sorted(self.clients), asked, self.seed, round - 1)

    def reduce(self, algorithm: Algorithm) -> Reducer:
        """In whole numbers what may be summed; other rules as they are."""
        return FixedPointMean(self.grid) if algorithm.reduce.linear else algorithm.reduce

    @property
    def binding(self) -> dict[str, Any]:
        """What cannot change once a run has begun, for its journal."""
        return {
            "clients": sorted(self.clients),
            "seed": self.seed,
            "quorum": repr(None if self.quorum == "all" else self.quorum),  # as before there was a default
            **{name: agreed_text(getattr(self, name)) for name in ("cohort", "over", "gate", "grid", "explosion")},
        }


def agreed_text(value: object) -> str:
    """A setting as text, with classes by the names that they had when journals began to hold it."""
    return repr(value).replace("MessageValidator(", "Gate(").replace("FixedPointGrid(", "Grid(")
