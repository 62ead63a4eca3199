"""What `seedbed serve` and the server half, in a process that Flower starts, know of each other: two files."""

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from seedbed.stored import write_atomically

START = 60.0  # seconds that Flower may take to start it
MODULE = "seedbed.flower.server_app"  # what its process runs
State = Literal["running", "finished", "failed"]


class Half:
    """The server half of a federation, seen from both sides.

    Args:
        folder: Flower's files in the federation's.
    """

    def __init__(self, folder: Path):
        self._state, self._wanted = folder / "half.json", folder / "wanted.json"
        self._since = time.monotonic()

    def want(self, run: int | None) -> None:
        """Say which of Flower's runs is to be the half; None: the one that is asked for next.

        There may be others: one that a server was at when it was killed, or that somebody else has asked for.
        """
        _write(self._wanted, {"run": run})
        self._since = time.monotonic()

    def is_wanted(self, run: int) -> bool:
        """Whether this run is the half: known soon after it was started."""
        end = time.monotonic() + START
        while (wanted := _read(self._wanted).get("run")) is None and time.monotonic() < end:
            time.sleep(0.1)
        return bool(wanted == run)

    def write(self, run: int, state: State, why: str = "") -> None:
        """Say how this process fares."""
        _write(self._state, {"run": run, "process": os.getpid(), "state": state, "why": why})

    def state(self, run: int) -> tuple[State | Literal["gone"], str]:
        """What has become of this run, and why; `gone`: its process ended without a word."""
        found = _read(self._state)
        if found.get("run") != run:  # it has not begun yet
            return ("running", "") if time.monotonic() < self._since + START else ("gone", "")
        if found["state"] == "running" and not _alive(int(found["process"])):
            return "gone", ""
        return found["state"], str(found["why"])

    def end_leftover(self) -> None:
        """End a half whose server was killed, so that it holds the journal no more."""
        process = int(_read(self._state).get("process", 0))
        while process and _is_half(process) and _alive(process):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            time.sleep(0.05)


def _write(path: Path, table: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(table).encode())


def _read(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    return {}


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        with open(f"/proc/{process}/stat") as file:  # a process that ended but was not waited for is dead, too
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:  # another's, or there is no /proc
        return True


def _is_half(process: int) -> bool:
    """Whether it is one of ours, and not another that has got the number of one since."""
    with suppress(OSError):
        return MODULE.encode() in Path(f"/proc/{process}/cmdline").read_bytes()
    return False
