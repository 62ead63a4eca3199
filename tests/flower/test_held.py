"""A second `serve` or `join` of a folder changes nothing; SIGTERM leaves nothing behind; addresses are checked."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seedbed.deployment.flower.addresses import join_address, parse_address, plain_host
from seedbed.deployment.flower.init import init_federation
from seedbed.deployment.flower.join import join_federation
from seedbed.deployment.flower.serve import serve_federation
from seedbed.deployment.server_folder import HELD_FILE, FederationFolder
from seedbed.errors import InputError
from seedbed.locks import hold_lock

from .hospitals import GIVEN, NAMES, federation


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


def test_a_second_server_is_refused_before_it_does_anything(tmp_path: Path) -> None:
    """No file is written."""
    directory, _, _ = federation(tmp_path)
    with hold_lock(directory / "server" / HELD_FILE, "server"):
        before = contents(directory)
        with pytest.raises(InputError, match="is held by another server"):
            serve_federation(directory, listen="127.0.0.1")
        assert contents(directory) == before


def test_a_second_node_is_refused_before_it_does_anything(tmp_path: Path) -> None:
    directory, files, _ = federation(tmp_path)
    folder = directory / "nodes" / "basel"
    with hold_lock(folder / HELD_FILE, "node"):
        before = contents(folder)
        with pytest.raises(InputError, match="is held by another node"):
            join_federation(folder, files["basel"])
        assert contents(folder) == before
        assert not (folder / "run").exists()


ENDING = """
import os, sys, tempfile, time
from pathlib import Path
from seedbed.deployment.flower.signals import ending_by_signal
from seedbed.deployment.flower.flower_processes import Child
with ending_by_signal(), tempfile.TemporaryDirectory(dir=sys.argv[1]) as folder:
    child = Child([sys.executable, "-c", "import time; time.sleep(60)"], os.environ, Path(sys.argv[1]) / "log")
    try:
        print(child._process.pid, flush=True)
        time.sleep(60)
    finally:
        child.stop()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_children_and_temporary_folders(number: signal.Signals, tmp_path: Path) -> None:
    words = [sys.executable, "-c", ENDING, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    end = time.monotonic() + 10
    while time.monotonic() < end and Path(f"/proc/{child}").exists():
        time.sleep(0.05)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


# ---- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "plain"),
    [("fed.example.org", None), ("10.0.0.7", None), ("::1", None), ("[2001:db8::7]", "2001:db8::7"), ("a_b-c", None)],
)
def test_hosts(host: str, plain: str | None) -> None:
    plain = plain or host
    assert plain_host(host) == plain
    place = join_address(plain, 8443)
    assert place == (f"[{plain}]:8443" if ":" in plain else f"{plain}:8443")
    assert parse_address(place) == (plain, 8443)


@pytest.mark.parametrize(
    "host",
    ["https://fed.example.org/", "fed.example.org:8443", "a b", "", "[fed]", "-x", "10.0.0.999", "::g", "[::1]:8443"],
)
def test_hosts_that_are_none(host: str, tmp_path: Path) -> None:
    """Refused by `init` before anything is made."""
    with pytest.raises(InputError, match="is not a host"):
        init_federation(tmp_path / "fed", NAMES, "missing.csv", GIVEN, host=host)
    assert not (tmp_path / "fed").exists()


def test_an_older_folder_with_an_ipv6_address(tmp_path: Path) -> None:
    """It was written without brackets, and is read with them."""
    (tmp_path / "node.json").write_text(json.dumps({"member": "basel", "server": "2001:db8::7:8443"}))
    assert FederationFolder.read(tmp_path).server == "[2001:db8::7]:8443"
