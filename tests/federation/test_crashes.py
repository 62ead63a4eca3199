"""The server's process ends, or its disk is full, at any operation on its disk: it goes on to the very same end.

Real processes that are killed: test_killed.py, and scripts/prove kill_the_server.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seedbed.deployment.federation.node import Node
from seedbed.deployment.federation.transport import InProcess
from seedbed.errors import InputError

from .bench import node, serve

WHO = (0, 3)
TERMS: dict[str, Any] = {"clients": WHO, "rounds": 2}


class Killed(BaseException):
    """The process is no more."""


class Disk:
    """Counts what the server does to its disk, and lets one operation fail."""

    def __init__(self, at: int, error: BaseException):
        self.at, self.error, self.done, self.on = at, error, 0, True

    def count(self) -> None:
        if self.on:
            self.done += 1
            if self.done == self.at:
                raise self.error


class Elsewhere:
    """A node on another machine: its disk is not the server's."""

    def __init__(self, inner: Node, disk: Disk):
        self._inner, self._disk, self.hello = inner, disk, inner.hello

    def answer(self, frame: bytes) -> list[bytes]:
        self._disk.on = False
        try:
            return self._inner.answer(frame)
        finally:
            self._disk.on = True


@contextmanager
def failing(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The calls by which anything gets to a disk: half of what is written may be there when one fails."""

    def wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*given: Any, **named: Any) -> Any:
            disk.count()
            return call(*given, **named)

        return counting

    def write(file: int, data: bytes, real: Callable[[int, bytes], int] = os.write) -> int:
        try:
            disk.count()
        except BaseException:
            real(file, data[: len(data) // 2])
            raise
        return real(file, data)

    with monkeypatch.context() as patch:
        for name in ("fsync", "replace", "ftruncate", "unlink"):
            patch.setattr(os, name, wrapped(getattr(os, name)))
        patch.setattr(os, "write", write)
        patch.setattr("seedbed.serialization.open", wrapped(open), raising=False)
        patch.setattr("seedbed.deployment.federation.event_log.open", wrapped(open), raising=False)
        patch.setattr("seedbed.deployment.federation.server.open", wrapped(open), raising=False)
        yield


def files(folder: Path) -> dict[str, bytes]:
    """Model, metrics, and all that nodes remember."""
    names = ["server/model.safetensors", "server/metrics.jsonl", *(f"node-{c}/memory.safetensors" for c in WHO)]
    return {name: (folder / name).read_bytes() for name in names}


def ended(folder: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> BaseException | None:
    """Serve until the disk fails, and then by the same command to the end; what was said."""
    inner = {c: node("scaffold", c, folder) for c in WHO}
    said = None
    with failing(disk, monkeypatch):
        server = None
        try:
            server = serve("scaffold", folder, InProcess({c: Elsewhere(n, disk) for c, n in inner.items()}), **TERMS)  # type: ignore[misc]
            list(server.rounds())
        except (InputError, Killed) as error:
            said = error
        finally:
            disk.on = False
            if server is not None:
                server.close()
    again = serve("scaffold", folder, InProcess(inner), **TERMS)
    list(again.rounds())
    again.close()
    return said


def operations(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    disk = Disk(0, Killed())
    assert ended(folder / "whole", disk, monkeypatch) is None
    return disk.done


@pytest.mark.parametrize("kind", ["killed", "full"])
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_at_every_operation(kind: str, step: int, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DW 3 and DW 7: model, metrics and what clients keep are those of a run that nothing happened to."""
    total = operations(disk, monkeypatch)
    want = files(disk / "whole")
    for k in range(1, total + 1, step):
        error = Killed() if kind == "killed" else OSError(errno.ENOSPC, "No space left on device")
        said = ended(disk / f"{k}", Disk(k, error), monkeypatch)
        assert files(disk / f"{k}") == want, k
        if kind == "full":
            assert isinstance(said, InputError), k
            assert "No space left on device" in str(said)
            assert "start it again with the same command" in str(said)
        else:
            assert isinstance(said, Killed)


def test_a_journal_cut_anywhere_ends_the_same_or_is_refused(disk: Path) -> None:
    """DW 7: as from a backup, with fresh nodes. Where the model that a cut journal names was removed, that is said."""
    fresh = iter(range(10_000))

    def finish() -> bytes:
        new = disk / f"nodes-{next(fresh)}"
        server = serve("fedavg", disk, InProcess({c: node("fedavg", c, new) for c in WHO}), **TERMS)
        try:
            list(server.rounds())
        finally:
            server.close()
        return (disk / "server" / "model.safetensors").read_bytes()

    want = finish()
    journal = disk / "server" / "journal.log"
    whole, folder = journal.read_bytes(), disk / "server" / "objects"
    objects = {path: path.read_bytes() for path in folder.iterdir()}
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    refused = 0
    for size in [*ends, *(end - 5 for end in ends)]:
        journal.write_bytes(whole[:size])
        for path, data in objects.items():
            path.write_bytes(data)
        try:
            assert finish() == want
        except InputError as error:
            assert "is missing" in str(error)  # noqa: PT017
            refused += 1
    assert 0 < refused < 2 * len(ends)


def test_a_model_on_disk_that_was_altered_is_never_used(disk: Path) -> None:
    """DW 7: every prefix (by 97 bytes) and 100 bit flips of the snapshot."""
    list((server := serve("fedavg", disk, InProcess({c: node("fedavg", c, disk) for c in WHO}), **TERMS)).rounds())
    server.close()
    path = disk / "server" / "objects" / server.at.snapshot
    good, rng = path.read_bytes(), np.random.default_rng(0)
    flipped = [bytearray(good) for _ in range(100)]
    for data in flipped:
        data[int(rng.integers(len(good)))] ^= 1 << int(rng.integers(8))
    for data in [*(good[:size] for size in range(0, len(good), 97)), *map(bytes, flipped)]:
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"was altered .*: restore it, or cut .*journal.log after line"):
            serve("fedavg", disk, InProcess({}), **TERMS)
