"""Peers as processes over real sockets, one really killed. Many kills: scripts/prove kill_a_peer."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    words = [sys.executable, str(Path(__file__).parent / "killing.py"), "undisturbed,killed,agreed"]
    said = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert said.returncode == 0, said.stderr
    return [json.loads(line) for line in said.stdout.splitlines()]


def test_four_processes_are_the_simulation(found: list[dict[str, Any]]) -> None:
    """Every peer's whole state in every round."""
    assert found[0]["ended"] == [0, 1, 2, 3]
    assert found[0]["error"] <= 1e-6


def test_one_of_four_is_killed(found: list[dict[str, Any]]) -> None:
    """The other three finish, as in simulation with that peer's links failing from then on, and come to agree by the
    second eigenvalue of the matrix between them: on a ring without one of four, 2/3."""
    assert len(found[1]["ended"]) == 3
    assert found[1]["error"] < 1e-12
    assert found[1]["lambda2"] == pytest.approx(2 / 3)
    assert found[1]["worst"] <= 2 / 3 + 1e-6
    assert found[1]["shrinks"] == pytest.approx(2 / 3, abs=1e-3)


def test_from_a_settings_file_and_tables(found: list[dict[str, Any]]) -> None:
    """What the commands do; peers that are done and started again are done at once."""
    assert found[2]["ended"] == [[0, 1, 2], [0, 1, 2]]
    assert found[2]["rounds"] == [[1, 2, 3, 4]] * 3
    assert found[2]["fits"]
    assert found[2]["order"] == "combine_then_adapt"
