"""A peer's output files: metrics with one line per round, and its model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seedbed.deployment.peers.peer_state import RESTART_PEER
from seedbed.limits import from_json
from seedbed.serialization import explain_write_errors, trees_to_bytes, write_atomically
from seedbed.tree import Tree

METRICS, MODEL = "metrics.jsonl", "model.safetensors"


class PeerOutput:
    """A peer's metrics and model in its folder."""

    def __init__(self, folder: Path):
        self._metrics, self._model = folder / METRICS, folder / MODEL

    def note(self, numbers: Mapping[str, Any]) -> None:
        """Append a round's metrics. They count once the round is in the peer's state: see `forget_after`."""
        with explain_write_errors(self._metrics, go_on=RESTART_PEER), open(self._metrics, "a") as file:
            file.write(json.dumps(numbers) + "\n")

    def forget_after(self, round: int) -> None:
        """Drop metrics of rounds that were not closed when the process died, and an incomplete last line."""
        if self._metrics.exists():
            lines = self._metrics.read_text("utf-8").split("\n")[:-1]
            kept = [line + "\n" for line in lines if from_json(line)["round"] <= round]
            write_atomically(self._metrics, "".join(kept).encode(), go_on=RESTART_PEER)

    def write_model(self, params: Tree) -> None:
        write_atomically(self._model, trees_to_bytes({"params": params}), go_on=RESTART_PEER)
