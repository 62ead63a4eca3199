"""Flower's own programs as processes: used only by benchmarks and proofs, to compare with and to attack."""

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
# A child that ends with its parent, even after SIGKILL; where the system does not support that, at its next stop.
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
GRACE = 10.0  # seconds for a clean exit


def command(name: str) -> str:
    """The path of one of Flower's programs.

    Raises:
        InputError: Flower is not installed.
    """
    local = Path(sys.executable).parent / name
    path = str(local) if local.exists() else shutil.which(name)
    if path is None:
        raise InputError(f"{name} is not installed: pip install 'seedbed[flower]'")
    return path


def environment(home: Path) -> dict[str, str]:
    """Environment for Flower's processes, with their files below `home`."""
    home.mkdir(parents=True, exist_ok=True)
    local = str(Path(sys.executable).parent)
    path = os.pathsep.join([local, os.environ.get("PATH", os.defpath)])
    return {"OMP_NUM_THREADS": "1", **os.environ, **QUIET_ENVIRONMENT, "FLWR_HOME": str(home), "PATH": path}


class Child:
    """One of Flower's programs, with all processes that it starts."""

    def __init__(self, words: Sequence[str], env: Mapping[str, str], log: Path):
        self.log = log
        self._from = log.stat().st_size if log.exists() else 0
        with explain_write_errors(log), open(log, "ab") as file:
            command_line = [sys.executable, "-c", UNTIL_PARENT, str(os.getpid()), *words]
            self._process = subprocess.Popen(
                command_line,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    @property
    def process(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def said(self) -> str:
        """Its log since the start."""
        with open(self.log, "rb") as file:
            file.seek(self._from)
            return file.read().decode(errors="replace")

    @property
    def last_words(self) -> str:
        """The last non-empty line of its log, for error messages."""
        return next((line.strip() for line in reversed(self.said.splitlines()) if line.strip()), "no output")

    def stop(self) -> None:
        """Terminate the processes, and kill those that remain after a grace period."""
        for wanted in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, wanted)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE)
                break
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
