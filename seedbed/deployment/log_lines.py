"""A federation's log as lines for people: of the server's, and of a node's."""

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
    """The lines that a log gets from now on."""

    def __init__(self, path: Path):
        self._path = path
        self._at = path.stat().st_size if path.exists() else 0

    def records(self) -> Iterator[dict[str, Any]]:
        """What was added since the last call; a line that is still being written comes next time."""
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
    """An event of a log; None where a full disk or a kill left half a line, and the next was added to it."""
    try:
        event = from_json(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


class LogReader:
    """What the server half does.

    Attributes:
        round: the last that was committed while this looked on; 0: none.
    """

    def __init__(self, directory: Path):
        folder = directory / SERVER
        self._folder, self._founders = folder, Agreement.read(folder).members
        self._tail = FileTail(folder / RUN / LOG)
        self.round = 0
        self._numbers: Mapping[str, float] = {}

    def tell(self, said: Callable[[str], object]) -> None:
        """Call `said` with a line for each thing that happened since the last time."""
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
    """A line about an event of the server's log; None: it is not for people.

    Args:
        numbers: of the round that is committed.
    """
    event, who = record["event"], _name(record.get("client"), members)
    begin = f"round {record['round']}: " if "round" in record else ""
    if event == "hello":
        return f"{who} is here"
    if event in ("waiting", "telling", "handing out"):
        names = ", ".join(_name(c, members) for c in record["clients"])
        if event == "handing out":
            return f"handing out the model to {names}"
        return (
            f"{begin}waiting for {names} ({record['accepted']} of {record['wanted']} are in; in "
            f"{record['seconds_left']:.0f} s {record['enough']} are enough)"
        )
    if event == "ACCEPTED":
        return f"{begin}{who} has answered"
    if event == "frame refused":
        return f"a frame is not read: {record['why']}"
    if event == "not handed out":
        names = ", ".join(_name(c, members) for c in record["clients"])
        return f"{names} left before the model was there: start the server again to hand it out"
    if event in ("REFUSED", "letter refused"):
        return f"{begin}refused what {who} sent: {record['why']}"
    if event == "AGGREGATED" and record["discarded"]:
        return f"{begin}discarded: {record['discarded']}"
    if event == "COMMITTED":
        said = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        return f"{begin}done{f' ({said})' if said else ''}"
    if event == "MEMBERS":
        return f"{begin}the members are {', '.join(_name(c, members) for c in record['clients'])}"
    if event == "MISSED":
        return f"{begin}too few answered in time: asked again"
    if event == "finished":
        return "all rounds are done"
    return None


def node_log_line(record: Mapping[str, Any]) -> str | None:
    """A line about an event of a node's log."""
    event = record["event"]
    if event == "worked":
        return f"round {record['round']}: worked"
    if event == "finished":
        return "all rounds are done, and the model is here"
    if event in ("work failed", "letter refused", REFUSED, "frame refused"):
        return f"{event}: {record['why']}"
    return None


def _name(client: int | None, members: Sequence[str]) -> str:
    return members[client] if client is not None and client < len(members) else f"client {client}"
