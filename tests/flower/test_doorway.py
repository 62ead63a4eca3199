"""What Flower starts on a node, and the node half: letters go in whole, answers come out whole."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from seedbed.federation.transport import InProcess
from seedbed.flower import executor
from seedbed.flower.doorway import Doorway
from seedbed.flower.executor import ask
from seedbed.runs.federating import open_node, open_server

from .hospitals import NAMES, federation


def test_letters_through_the_doorway_are_letters_to_the_node(tmp_path: Path) -> None:
    """A federation whose transport hands each letter in by a process of its own's way: the same model."""
    directory, files, _ = federation(tmp_path)
    nodes = {i: open_node(directory / "nodes" / name, files[name]) for i, name in enumerate(NAMES)}
    doors = {i: Doorway(node) for i, node in nodes.items()}

    class ThroughDoors:
        """A node as the transport sees it."""

        def __init__(self, door: Doorway):
            self._door = door

        def hello(self) -> list[bytes]:
            return ask(self._door.path, [])

        def answer(self, frame: bytes) -> list[bytes]:
            return ask(self._door.path, [frame])

    try:
        assert stat.S_IMODE(os.stat(doors[0].path.parent).st_mode) == 0o700
        server = open_server(directory, InProcess({i: ThroughDoors(door) for i, door in doors.items()}))  # type: ignore[misc]
        rounds = list(server.rounds())
        server.close()
        assert [list(r.clients) for r in rounds] == [[0, 1, 2]] * 3
        assert all((directory / "nodes" / name / "run" / "last.safetensors").exists() for name in NAMES)
    finally:
        for door in doors.values():
            door.close()
    assert not doors[0].path.parent.exists()


def test_a_node_that_cannot_go_on_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, files, _ = federation(tmp_path)
    door = Doorway(open_node(directory / "nodes" / "basel", files["basel"]))

    def fail() -> list[bytes]:
        raise OSError("no space left")

    monkeypatch.setattr(door._node, "hello", fail)
    with pytest.raises(OSError, match=r"gone|reset"):
        ask(door.path, [])
    door._thread.join(10)
    assert "no space left" in str(door.failed)
    door.close()


def test_what_flower_starts_for_a_letter_is_light(tmp_path: Path) -> None:
    """It imports neither torch nor Seedbed, which take seconds: that is why it is run as a file."""
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); print(*sorted({m.split('.')[0] for m in sys.modules}))"
    said = subprocess.run([sys.executable, "-c", code, executor.__file__], capture_output=True, text=True, check=True)
    assert not {"torch", "seedbed"} & set(said.stdout.split())
    assert "flwr" in said.stdout.split()


def test_flowers_own_way_to_run_what_is_shipped_is_there_to_be_put_off() -> None:
    """If a version of Flower names it otherwise, nothing is run at all: see `executor.main`."""
    from importlib import import_module

    from seedbed.flower import server_app

    client = import_module("flwr.supernode.runtime.run_clientapp")
    server = import_module("flwr.superlink.runtime.run_serverapp")
    assert all(callable(getattr(client, name)) for name in executor.INSTEAD)
    assert all(callable(getattr(server, name)) for name in server_app.INSTEAD)
