"""`seedbed join`: a member's node half, and Flower's SuperNode, which brings it letters."""

import socket
import time
from collections.abc import Callable
from pathlib import Path

from seedbed.errors import InputError
from seedbed.federation.node import REFUSED
from seedbed.federation.server import OTHER_RUN, OTHERWISE
from seedbed.flower.doorway import Doorway
from seedbed.flower.ending import ending_by_signal
from seedbed.flower.executor import SOCKET
from seedbed.flower.keys import CA, NODE_KEY
from seedbed.flower.processes import FLOWER, Child, clientapp, command, environment
from seedbed.locks import held
from seedbed.runs.federating import HELD, RUN, Place, open_node
from seedbed.runs.news import LOG, Tail, spoken_by_node

WAIT = 0.5  # seconds between looks
AGAIN = 5.0  # seconds before Flower's node is started again
KNOCKS = 12  # times, some ten seconds each, after which one that is not let in gives up
LINGER = 30.0  # seconds that the last answer may take to leave
SENT = "Sent successfully"  # what the SuperNode says of an answer
CLOSED = "[code: 2004]"  # a key that is not known, or of a node that, as the server believes for a while, is there
UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
TRYING = "not let in yet: the server may still believe in a process that was killed"


def join(folder: Path, data: Path, *, client: str | None = None, said: Callable[[str], object] = print) -> None:
    """Take part in a federation until all rounds are done. Started again, it goes on where it was.

    Args:
        folder: the member's, as the coordinator gave it.
        data: a file or folder of the form agreed on.
        client: whose rows, where it holds several clients'.
        said: called with a line for people now and then.
    Raises:
        InputError: the data are not of that form, a key is missing or not known to the server, the server is another
            than the one that is trusted, another process runs this node, the disk is full.
    """
    folder = folder.resolve()
    place = Place.read(folder)
    with held(folder / HELD, "node"), ending_by_signal():
        _join(folder, place, data, client, said)


def _join(folder: Path, place: Place, data: Path, client: str | None, said: Callable[[str], object]) -> None:
    tail = Tail(folder / RUN / LOG)
    door = Doorway(open_node(folder, data, client=client))
    said(f"{place.member}: {data} is ready; waiting for the server at {place.server}")
    knocked, before = 0, ""
    try:
        while (why := _linked(folder, place, door, tail, said)) is not None:
            if UNTRUSTED in why:
                raise InputError(f"the server at {place.server} is not the one that this node trusts: {why}")
            knocked = knocked + 1 if CLOSED in why else 0
            if knocked == KNOCKS:
                raise InputError(
                    f"{place.server} does not let this node in: its key is not registered there, or another process "
                    f"has it; copy the folder from the coordinator again, or stop the other"
                )
            if why != before:
                said(f"{TRYING if CLOSED in why else why}; knocking again")
            before = why
            time.sleep(AGAIN)
    finally:
        door.close()


def _linked(folder: Path, place: Place, door: Doorway, tail: Tail, said: Callable[[str], object]) -> str | None:
    """Keep Flower's SuperNode going until all rounds are done (None), or it ends: why."""
    home = folder / FLOWER
    env = environment(home, {"flwr-clientapp": clientapp()})
    flower = Child(_words(folder, place, door), env, home / "supernode.log")
    try:
        return _wait(flower, door, tail, said)
    finally:
        flower.stop()


def _words(folder: Path, place: Place, door: Doorway) -> list[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        command("flower-supernode"),
        *("--root-certificates", str(folder / CA), "--auth-supernode-private-key", str(folder / NODE_KEY)),
        *("--superlink", place.server, "--host", "127.0.0.1", "--port", str(port)),
        *("--node-config", f'{SOCKET}="{door.path}"'),
    ]


def _wait(flower: Child, door: Doorway, tail: Tail, said: Callable[[str], object]) -> str | None:
    earlier, end = door.answered, float("inf")
    while time.monotonic() < end:
        if door.failed is not None:
            raise InputError(f"the node stopped: {door.failed}") from door.failed
        if flower.ended:
            return _reason(flower.said)
        for record in tail.records():
            if record["event"] == REFUSED and record["why"].startswith((OTHER_RUN, OTHERWISE)):
                raise InputError(f"the server turns this node away: {record['why']}")
            if line := spoken_by_node(record):
                said(line)
            if record["event"] == "finished":
                end = time.monotonic() + LINGER
        if end < float("inf") and flower.said.count(SENT) >= door.answered - earlier:
            break  # the last answer has left
        time.sleep(WAIT)
    return None


def _reason(log: str) -> str:
    """What Flower says of its end: the lines that follow its exit code, or the last one."""
    before, coded, after = log.rpartition("Exit Code:")
    lines = [line.strip() for line in (after if coded else before).splitlines() if line.strip()]
    return " ".join(lines[1:3] if coded else lines[-1:])
