"""A killed run, resumed, ends bit for bit as if nothing had happened. Twenty kills: scripts/prove kill_and_resume."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from killing import killed, whole


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return whole(tmp_path_factory.mktemp("run") / "whole")


EARLY, LATE = (pytest.param(lines, marks=pytest.mark.slow) for lines in (0, 9))


@pytest.mark.slow
@pytest.mark.parametrize("lines", [EARLY, 2, LATE])
def test_killed_and_resumed_is_never_stopped(undisturbed: dict[str, bytes], tmp_path: Path, lines: int) -> None:
    assert killed(tmp_path / "killed", lines) == undisturbed
