"""Status of a federation, read from the server's journal and log, whether it runs or not; read-only."""

import fcntl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from seedbed.deployment.agreement import Agreement
from seedbed.deployment.federation.journal import scan
from seedbed.deployment.federation.state_machine import FederationState, replay_journal
from seedbed.deployment.log_lines import LOG, read_event
from seedbed.deployment.member_roster import MemberRoster
from seedbed.deployment.server_folder import RUN, SERVER
from seedbed.limits import from_json

MemberState = Literal["not there", "asked", "answered", "refused", "not asked", "has the model", "removed"]


@dataclass
class Member:
    """The status of one member.

    Attributes:
        heard: the time of its last letter; None: none since the log began.
        round: the last committed round that includes it; 0: none.
        refused: the total number of its refused letters.
        sent, got: total bytes sent to it and received from it.
    """

    name: str
    state: MemberState = "not there"
    heard: datetime | None = None
    round: int = 0
    refused: int = 0
    sent: int = 0
    got: int = 0


@dataclass(frozen=True)
class FederationStatus:
    """The status of a federation.

    Attributes:
        serving: whether a server has the journal open now.
        numbers: metrics of the last committed round, as in metrics.jsonl.
    """

    agreement: Agreement
    at: FederationState
    serving: bool
    members: tuple[Member, ...]
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        return self.agreement.settings.rounds or 0

    @property
    def done(self) -> bool:
        return self.at.round > self.rounds

    @property
    def title(self) -> str:
        """The status in one line."""
        where = "all rounds are done" if self.done else f"round {self.at.round} of {self.rounds}"
        again = f", attempt {self.at.attempt + 1}" if self.at.attempt and not self.done else ""
        return f"{self.agreement.name}: {where}{again}; the server is {'running' if self.serving else 'not running'}"

    @classmethod
    def of(cls, directory: Path) -> "FederationStatus":
        """Read the status.

        Raises:
            InputError: the folder is not a federation's, or its journal was altered.
        """
        folder = directory / SERVER
        agreement = Agreement.read(folder)
        at = replay_journal(scan(folder / RUN / "journal.log"))
        roster = MemberRoster.read(folder, agreement.members)
        members = tuple(Member(name) for name in roster.names)
        _follow(members, _events(folder / RUN / LOG), at)
        for number, member in enumerate(members):
            gone = member.name in roster.removed
            member.state = "removed" if gone else _state(number, member, at, agreement.settings.rounds or 0)
        return cls(agreement, at, _is_held(folder / RUN / "lock"), members, _numbers(folder / RUN / "metrics.jsonl"))


def _follow(members: tuple[Member, ...], events: Iterator[Mapping[str, Any]], at: FederationState) -> None:
    """Update the members by the log's events."""
    since: dict[tuple[int, str], int] = {}  # counters restart with the server, so increments are added up
    for event in events:
        when = datetime.fromisoformat(event["time"])
        number = event.get("client")
        spoke = event["event"] in ("hello", "ACCEPTED", "REFUSED", "held")
        if spoke and number is not None and number < len(members):
            members[number].heard = when
            members[number].refused += event["event"] == "REFUSED"
            if event["event"] == "held":
                members[number].state = "has the model"
        if event["event"] == "AGGREGATED" and not event["discarded"]:
            for client in event["clients"]:
                members[client].round = event["round"]
        if event["event"] == "open":
            since.clear()
        if event["event"] == "traffic":
            for way in ("sent", "got"):
                for client, count in event[way].items():
                    member = members[int(client)]
                    added = count - since.get((int(client), way), 0)
                    setattr(member, way, getattr(member, way) + added)
                    since[int(client), way] = count


def _state(number: int, member: Member, at: FederationState, rounds: int) -> MemberState:
    if at.round > rounds:
        return member.state
    if number in at.accepted:
        return "answered"
    if number in at.refused:
        return "refused"
    if at.cohort is not None and number not in at.cohort:
        return "not asked"
    return "not there" if member.heard is None else "asked"


def _events(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.exists():
        with open(path, "rb") as file:
            events = (read_event(line) for line in file if line.endswith(b"\n"))
            yield from (event for event in events if event is not None)


def _numbers(path: Path) -> dict[str, float]:
    lines = path.read_text("utf-8").split("\n")[:-1] if path.exists() else []  # drops an incomplete last line
    last = from_json(lines[-1]) if lines else {}
    return {name: value for name, value in last.items() if name not in ("round", "clients")}


def _is_held(path: Path) -> bool:
    """Whether a server has locked its folder."""
    if not path.exists():
        return False
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def format_age(when: datetime | None) -> str:
    """Format an age: '12 s ago', '3 min ago', '2 h ago', '5 days ago'; '–' for never."""
    if when is None:
        return "–"
    seconds = (datetime.now(UTC) - when).total_seconds()
    for size, word in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {word} ago"
    return f"{max(0, seconds):.0f} s ago"
