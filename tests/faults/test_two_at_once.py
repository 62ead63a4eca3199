"""A run directory belongs to one process. Twenty times with two, and with four: scripts/prove two_at_once."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from killing import COMMAND, SETTINGS, files, whole
from many_at_once import at_once, stopped, wrong


@pytest.mark.slow
def test_of_two_resumes_at_once_one_goes_on_and_a_killed_one_frees_the_run(tmp_path: Path) -> None:
    """And a third that comes while the second works, after the first was killed."""
    want, run = whole(tmp_path / "whole"), stopped(tmp_path / "run")
    first = subprocess.Popen([*COMMAND, "resume", str(run)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (run / "lock").read_text().startswith(f"process {first.pid} "):
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # it holds the lock, and does not end before the others come
    said = subprocess.run([*COMMAND, "run", *SETTINGS, "--out", str(run)], capture_output=True, text=True)
    assert said.returncode == 2
    assert said.stderr.startswith(f"seedbed: {run} is held by another process (process {first.pid} on ")
    assert said.stderr.count("\n") == 1
    first.send_signal(signal.SIGKILL)
    first.wait()
    ended = at_once(["resume", str(run)], ["resume", str(run)])
    assert not wrong(run, ended, want)
    assert files(run) == want
