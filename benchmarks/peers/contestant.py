"""An entrant at work: a process of its own, told over its standard input when its rounds may begin (see turns.py)."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import environments
import numpy as np
from entrants import Entrant
from memory import Watched

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
BLOCK = 0.5  # seconds that a turn should last, so that its ends weigh little
PATIENCE = 300  # seconds for an answer
QUIET = {"RAY_DEDUP_LOGS": "0", "RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0", "JAX_PLATFORMS": "cpu"}


class Left(Exception):
    """A contestant is out, and why."""


class Contestant:
    """A running entrant.

    Args:
        work: the file with what is to be computed.
        log: where to put what it prints.

    Attributes:
        rounds: of a turn.
    """

    def __init__(self, entrant: Entrant, work: Path, log: Path):
        python = sys.executable if entrant.peer is None else str(environments.python(entrant.peer))
        one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        path = {"PYTHONPATH": str(ROOT if entrant.peer is None else HERE)}
        home = {} if entrant.peer is None else {"HOME": str(work.parent)}  # FedML leaves files there
        self.log, self.began = log, time.perf_counter()
        script, *rest = entrant.script
        with log.open("w") as said:
            self.process = subprocess.Popen(
                [python, str(HERE / script), str(work), *rest],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                cwd=work.parent,
                env=os.environ | one | path | home | QUIET,
                start_new_session=True,
            )
        self.rounds, self._late = 1, False
        self._one = 0.0  # seconds of the first round

    def first(self) -> float:
        """Seconds from the start of its process to the end of its first round."""
        self._answer()
        self._one = self.go(1)
        return time.perf_counter() - self.began

    def settle(self) -> None:
        """Choose how many rounds are a turn, from one that is not the first; where rounds are long, from the first."""
        quick = self._one if self._one > 4 * BLOCK else self.go(1)
        self.rounds = max(1, min(100, round(BLOCK / quick)))

    def turn(self) -> float:
        """Seconds a round."""
        return self.go(self.rounds)

    def memory(self) -> float | None:
        """MB that all its processes together take at most in a turn; None: the system does not tell."""
        with Watched(self.process.pid) as watched:
            self.turn()
        return watched.most

    def params(self, file: Path) -> dict[str, Any]:
        self._tell({"save": str(file)})
        self._answer()
        with np.load(file, allow_pickle=False) as found:
            return dict(found)

    def go(self, rounds: int) -> float:
        """Seconds a round."""
        self._tell({"go": rounds})
        return float(self._answer()["seconds"]) / rounds

    def stop(self) -> None:
        """Ask it to end, and end it if it does not."""
        try:
            self._tell({"stop": True})
            self.process.wait(20)
        except (OSError, Left, subprocess.TimeoutExpired):
            self._end()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what it did not hear
                    pipe.close()

    def _end(self) -> None:
        """With the processes that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _end_late(self) -> None:
        self._late = True
        self._end()

    def _tell(self, what: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(what) + "\n")
            self.process.stdin.flush()
        except OSError:
            raise Left(self._last_words()) from None

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        late = threading.Timer(PATIENCE, self._end_late)
        late.start()
        try:
            line = self.process.stdout.readline()
        finally:
            late.cancel()
        if not line:
            raise Left(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        """Its last error, or that it was too late."""
        said = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in said if re.match(r"\S*(Error|Exception)\b", line)]
        if not errors and self._late:
            return f"no answer within {PATIENCE} s"
        return (errors or said or ["it ended without a word"])[-1]
