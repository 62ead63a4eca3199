"""Kills at operations in turn; at every one of them: scripts/prove kill_at_every_operation."""

import os
import subprocess
import sys
from pathlib import Path

EVERYWHERE = Path(__file__).parent / "everywhere.py"


def test_a_run_killed_at_an_operation_on_the_disk_and_resumed_is_never_stopped() -> None:
    """At six operations, spread over the run: of the beginning, of checkpoints, of the end."""
    said = subprocess.run(
        [sys.executable, str(EVERYWHERE), "7", "15"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert said.returncode == 0, said.stdout + said.stderr
    assert said.stdout.startswith("6 of 6 kills at each of 85 operations")
