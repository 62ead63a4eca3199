"""What a peer writes for people: a line a round, and its model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seedbed.deployment.peers.peer_state import AGAIN
from seedbed.limits import from_json
from seedbed.serialization import to_bytes, write_atomically, writing
from seedbed.tree import Tree

METRICS, MODEL = "metrics.jsonl", "model.safetensors"


class Diary:
    """A peer's metrics and model in its folder."""

    def __init__(self, folder: Path):
        self._metrics, self._model = folder / METRICS, folder / MODEL

    def note(self, numbers: Mapping[str, Any]) -> None:
        """A round's line. It counts once the round is in the peer's memory: see `forget_after`."""
        with writing(self._metrics, go_on=AGAIN), open(self._metrics, "a") as file:
            file.write(json.dumps(numbers) + "\n")

    def forget_after(self, round: int) -> None:
        """Drop lines of rounds that were not closed when the process died, and what it did not write to the end."""
        if self._metrics.exists():
            lines = self._metrics.read_text().split("\n")[:-1]
            kept = [line + "\n" for line in lines if from_json(line)["round"] <= round]
            write_atomically(self._metrics, "".join(kept).encode(), go_on=AGAIN)

    def write_model(self, params: Tree) -> None:
        write_atomically(self._model, to_bytes({"params": params}), go_on=AGAIN)
