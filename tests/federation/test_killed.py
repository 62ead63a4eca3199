"""Processes really killed, over real sockets. Fifty kills: scripts/prove kill_the_server."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("what", ["server", "node"])
def test_killed_is_undisturbed(what: str) -> None:
    """DW 3 and 4: model, metrics and every node's memory bit for bit, no letter lost or counted twice."""
    words = [sys.executable, str(Path(__file__).parent / "killing.py"), what, "4", "0", "4"]
    said = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["same"] == 4
