"""Flower's own programs as processes: only benchmarks and proofs run them, to compare with and to attack."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from seedbed.errors import InputError
from seedbed.serialization import explain_write_errors

QUIET_ENVIRONMENT = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
# A child that dies with its parent, even by SIGKILL; where the system cannot do that, when it is next stopped.
UNTIL_PARENT = """
import ctypes, os, signal, sys
try:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
except (AttributeError, OSError):
    pass
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""
GRACE = 10.0  # seconds to end by themselves


def command(name: str) -> str:
    """Where a program of Flower's is.

    Raises:
        InputError: Flower is not installed.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise InputError(f"{name} is not installed: pip install 'seedbed[flower]'")
    return found


def environment(home: Path) -> dict[str, str]:
    """What Flower's processes see: their files below `home`."""
    home.mkdir(parents=True, exist_ok=True)
    beside = str(Path(sys.executable).parent)
    path = os.pathsep.join([beside, os.environ.get("PATH", os.defpath)])
    return {"OMP_NUM_THREADS": "1", **os.environ, **QUIET_ENVIRONMENT, "FLWR_HOME": str(home), "PATH": path}


class Child:
    """A program of Flower's, with all that it starts."""

    def __init__(self, words: Sequence[str], env: Mapping[str, str], log: Path):
        self.log = log
        self._from = log.stat().st_size if log.exists() else 0
        with explain_write_errors(log), open(log, "ab") as file:
            whole = [sys.executable, "-c", UNTIL_PARENT, str(os.getpid()), *words]
            self._process = subprocess.Popen(
                whole, env=dict(env), stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )

    @property
    def process(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def said(self) -> str:
        """What it has logged."""
        with open(self.log, "rb") as file:
            file.seek(self._from)
            return file.read().decode(errors="replace")

    @property
    def last_words(self) -> str:
        """The last line of its log that says something, for errors."""
        return next((line.strip() for line in reversed(self.said.splitlines()) if line.strip()), "without a word")

    def stop(self) -> None:
        """Ask all of them to end, wait, and end them."""
        for wanted in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, wanted)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE)
                break
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
