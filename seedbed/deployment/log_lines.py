"""Log events of a server or a node, formatted as lines for people."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from seedbed.deployment.agreement import Agreement
from seedbed.deployment.federation.node import REFUSED
from seedbed.deployment.member_roster import MemberRoster
from seedbed.deployment.server_folder import RUN, SERVER
from seedbed.limits import from_json

LOG = "log.jsonl"


class FileTail:
    """The lines added to a log from now on."""

    def __init__(self, path: Path):
        self._path = path
        self._at = path.stat().st_size if path.exists() else 0

    def records(self) -> Iterator[dict[str, Any]]:
        """The events since the last call; an incomplete line is returned by a later call."""
        if not self._path.exists():
            return
        with open(self._path, "rb") as file:
            file.seek(self._at)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._at += len(line)
                if (record := read_event(line)) is not None:
                    yield record


def read_event(line: bytes) -> dict[str, Any] | None:
    """Parse a log event; None for a line damaged by a full disk or a kill."""
    try:
        event = from_json(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


class LogReader:
    """Reports a server's progress from its log.

    Attributes:
        round: the last round committed since this object exists; 0: none.
    """

    def __init__(self, directory: Path):
        folder = directory / SERVER
        self._folder, self._founders = folder, Agreement.read(folder).members
        self._tail = FileTail(folder / RUN / LOG)
        self.round = 0
        self._numbers: Mapping[str, float] = {}

    def tell(self, said: Callable[[str], object]) -> None:
        """Call `said` with a line for each event since the last call."""
        for record in self._tail.records():
            if record["event"] == "AGGREGATED":
                self._numbers = record["info"]
            if record["event"] == "COMMITTED":
                self.round = record["round"]
            names = MemberRoster.read(self._folder, self._founders).names
            line = server_log_line(record, names, self._numbers)
            if line:
                said(line)


def server_log_line(record: Mapping[str, Any], members: Sequence[str], numbers: Mapping[str, float] = {}) -> str | None:
    """Format an event of a server's log; None if it is not meant for people.

    Args:
        record: the event.
        members: names, by number.
        numbers: metrics of the committed round.
    """
    event, member = record["event"], _name(record.get("client"), members)
    begin = f"round {record['round']}: " if "round" in record else ""
    if event == "hello":
        return f"{member} is connected"
    if event in ("waiting", "telling", "handing out"):
        names = ", ".join(_name(c, members) for c in record["clients"])
        if event == "handing out":
            return f"handing out the model to {names}"
        return (
            f"{begin}waiting for {names} ({record['accepted']} of {record['wanted']} have answered; in "
            f"{record['seconds_left']:.0f} s {record['enough']} are enough)"
        )
    if event == "ACCEPTED":
        return f"{begin}{member} has answered"
    if event == "frame refused":
        return f"a frame was not read: {record['why']}"
    if event == "not handed out":
        names = ", ".join(_name(c, members) for c in record["clients"])
        return f"{names} left before getting the model: start the server again to hand it out"
    if event in ("REFUSED", "letter refused"):
        return f"{begin}refused a message of {member}: {record['why']}"
    if event == "AGGREGATED" and record["discarded"]:
        return f"{begin}discarded: {record['discarded']}"
    if event == "COMMITTED":
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        return f"{begin}done{f' ({metrics})' if metrics else ''}"
    if event == "MEMBERS":
        return f"{begin}the members are {', '.join(_name(c, members) for c in record['clients'])}"
    if event == "MISSED":
        return f"{begin}too few answered in time: asking again"
    if event == "finished":
        return "all rounds are done"
    return None


def node_log_line(record: Mapping[str, Any]) -> str | None:
    """Format an event of a node's log; None if it is not meant for people."""
    event = record["event"]
    if event == "worked":
        return f"round {record['round']}: done"
    if event == "finished":
        return "all rounds are done, and this node has the model"
    if event in ("work failed", "letter refused", REFUSED, "frame refused"):
        return f"{event}: {record['why']}"
    return None


def _name(client: int | None, members: Sequence[str]) -> str:
    return members[client] if client is not None and client < len(members) else f"client {client}"
