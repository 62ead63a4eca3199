"""What the processes of a contestant take together, where the system tells (Linux)."""

import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

EVERY = 0.02  # seconds between two looks


class Watched:
    """While inside, look every 20 ms at a process and all that descend from it, or are of its session.

    Attributes:
        most: the largest sum of their memory, in MB; a page that several of them share is counted once (the
            proportional set size). None: the system does not tell.
    """

    def __init__(self, process: int):
        self.most: float | None = None
        self._process, self._done = process, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watched":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while True:
            found = sum(_kilobytes(one) for one in tree_of(self._process)) / 1024
            self.most = max(found, self.most or 0.0) or None
            if self._done.wait(EVERY):
                return


def tree_of(process: int) -> set[int]:
    """The process, those that it started, those that they started, and those of its session."""
    parents, found = {}, {process}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            _, parent, _, session = file.read_text().rpartition(")")[2].split()[:4]
            parents[int(file.parent.name)] = int(parent)
            if int(session) == process:
                found.add(int(file.parent.name))
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _kilobytes(process: int) -> int:
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return 0
