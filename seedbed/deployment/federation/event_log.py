"""Event log for people and programs: one JSON line per event. It is never read back; only the journal counts."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from seedbed.deployment.federation.journal import RESTART_SERVER
from seedbed.serialization import explain_write_errors


class EventLog:
    """Appends events to a file.

    Args:
        path: the file; None: no file.
        said: also called with each line, for example `print`.
    """

    def __init__(self, path: Path | None, said: Callable[[str], object] | None = None):
        self._path, self._said = path, said

    def __call__(self, event: str, **about: Any) -> None:
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **about})
        if self._path is not None:
            with explain_write_errors(self._path, go_on=RESTART_SERVER), open(self._path, "a") as file:
                file.write(line + "\n")
        if self._said is not None:
            self._said(line)
