"""The run directory: everything that a run leaves behind, written so that no crash can leave a half of anything.

manifest.json     settings, versions, seed, what the data is: enough to run it again
metrics.jsonl     one line a round
journal.jsonl     one line a checkpoint: its file, its sha256, and how far metrics.jsonl had come
checkpoints/      safetensors
choices.json      what validation clients have chosen so far
result.json       the final table, for programs
model.safetensors the trained start
report.html       for people
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seedbed.errors import InputError
from seedbed.learning.finetuning import FineTuning, Scored
from seedbed.limits import from_json, inside
from seedbed.stored import from_bytes, to_bytes, write_atomically, writing
from seedbed.temporary import clear
from seedbed.tree import Tree

CHECKPOINT = re.compile(r".+-\d{6,}\.safetensors")
KEPT_CHECKPOINTS, CHOICES = 2, "choices.json"
RECORD = {"stage", "round", "file", "sha256", "metrics_bytes"}  # what a journal line holds


class RunDirectory:
    """One run's files. `create` starts a new one, `open` goes on with an old one."""

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def create(cls, path: Path, manifest: Mapping[str, Any]) -> "RunDirectory":
        """
        Raises:
            InputError: the directory holds something already, or cannot be written.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            hint = f"`seedbed resume {path}` goes on with the run in it" if (path / "manifest.json").exists() else ""
            raise InputError(f"{path} exists and is not empty: choose another --out{'; ' if hint else ''}{hint}")
        run = cls(path)
        with writing(path):
            (path / "checkpoints").mkdir(parents=True)
        try:
            run.write_json("manifest.json", manifest)
        except InputError:
            for folder in (path / "checkpoints", path):
                with suppress(OSError):
                    folder.rmdir()
            raise
        return run

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        if not (path / "manifest.json").is_file():
            raise InputError(f"{path} holds no run (no manifest.json): name the directory given to --out")
        return cls(path)

    @property
    def manifest(self) -> dict[str, Any]:
        return self._read_json("manifest.json")

    @property
    def result(self) -> dict[str, Any] | None:
        """The final table, or None while the run is not finished."""
        return self._read_json("result.json") if (self.path / "result.json").exists() else None

    def finetuning(self) -> dict[int, FineTuning]:
        """How clients of the run's algorithm fine-tune, by number of shots; empty if it has a way of its own."""
        chosen = (self.result or {}).get("finetuning", {}).get("adapted", {})
        return {int(k): FineTuning(**{n: v for n, v in how.items() if n != "text"}) for k, how in chosen.items()}

    def options(self) -> dict[str, Any]:
        """The algorithm's settings that the trained start has: those asked for, with the rates that `tune` chose."""
        options: dict[str, Any] = (self.result or {}).get("options", self.manifest["settings"]["options"])
        return options

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all."""
        write_atomically(self.path / name, data)

    # ---- choices ------------------------------------------------------------------------------------------------

    def choice(self, key: str) -> Scored | None:
        """What was kept under this key, or None."""
        if not (self.path / CHOICES).exists() or (found := self._read_json(CHOICES).get(key)) is None:
            return None
        score, how = found["score"], found["how"]
        return Scored(math.nan if score is None else score, None if how is None else FineTuning(**how))

    def keep_choice(self, key: str, chosen: Scored) -> None:
        kept = self._read_json(CHOICES) if (self.path / CHOICES).exists() else {}
        score, how = chosen
        mine = {"score": score if math.isfinite(score) else None, "how": None if how is None else asdict(how)}
        self.write_json(CHOICES, kept | {key: mine})

    # ---- metrics and checkpoints --------------------------------------------------------------------------------

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        with writing(self.path / "metrics.jsonl"), open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        path = self.path / "metrics.jsonl"
        return [from_json(line) for line in path.read_text().splitlines()] if path.exists() else []

    def save(self, stage: str, round: int, trees: Mapping[str, Tree]) -> None:
        """Checkpoint: the file first, then the journal line that makes it count, then older files go."""
        data = to_bytes(trees)
        file = f"checkpoints/{stage}-{round:06d}.safetensors"
        self.write(file, data)
        record = {
            "stage": stage,
            "round": round,
            "file": file,
            "sha256": hashlib.sha256(data).hexdigest(),
            "metrics_bytes": self._settle_metrics(),
        }
        with writing(self.path / "journal.jsonl"), open(self.path / "journal.jsonl", "a") as journal:
            journal.write(json.dumps(record) + "\n")
            journal.flush()
            os.fsync(journal.fileno())
        mine = (self.path / "checkpoints").glob(f"{stage}-[0-9]*.safetensors")  # not those of stage fedavg-probe
        for old in sorted(mine, key=lambda file: int(file.stem.rpartition("-")[2]))[:-KEPT_CHECKPOINTS]:
            with writing(old):
                old.unlink()

    def recover(self) -> None:
        """Forget what came after the last checkpoint: a torn journal line, and metrics of rounds to be run again."""
        records = self._journal()
        journal = "".join(json.dumps(record) + "\n" for record in records)
        if (self.path / "journal.jsonl").exists():
            self.write("journal.jsonl", journal.encode())
        metrics = self.path / "metrics.jsonl"
        size, counted = (
            metrics.stat().st_size if metrics.exists() else 0,
            records[-1]["metrics_bytes"] if records else 0,
        )
        if size < counted:
            raise InputError(
                f"{metrics} has {size} bytes, but {counted} were written before the last checkpoint: restore it, or "
                "start the run again in another directory"
            )
        if metrics.exists():
            os.truncate(metrics, counted)
        counting = {self.path / record["file"] for record in records}
        for stray in set(self.path.glob("checkpoints/*")) - counting:
            if CHECKPOINT.fullmatch(stray.name):
                stray.unlink()
        for folder in (self.path, self.path / "checkpoints"):
            clear(folder)

    def latest(self, stage: str) -> tuple[int, dict[str, Tensor]] | None:
        """(round, named tensors) of the stage's last checkpoint, or None.

        Raises:
            InputError: the file is missing, cut short or altered.
        """
        mine = [(number, record) for number, record in enumerate(self._journal(), 1) if record["stage"] == stage]
        if not mine:
            return None
        number, record = mine[-1]
        path = inside(self.path, record["file"])
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data).hexdigest() != record["sha256"]:
            what = f"holds {len(data)} bytes that are not those written" if path.exists() else "is missing"
            before = mine[-2][1]["round"] if len(mine) > 1 else 0
            raise InputError(
                f"checkpoint {path} (round {record['round']}) {what}: put it back, or remove line {number} and what "
                f"follows it from {self.path / 'journal.jsonl'} to go on from round {before}"
            )
        return record["round"], from_bytes(data, str(path))

    def _settle_metrics(self) -> int:
        """Flush metrics.jsonl to disk, before a journal line counts it; its size."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return 0
        with writing(path), open(path, "ab") as metrics:
            os.fsync(metrics.fileno())
            return metrics.tell()

    def _journal(self) -> list[dict[str, Any]]:
        path = self.path / "journal.jsonl"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        records = []
        for number, line in enumerate(lines, 1):
            record = _record(line)
            if record is not None:
                records.append(record)
            elif number < len(lines):
                raise InputError(
                    f"{path} line {number} is no checkpoint's: the file was altered; restore it, or remove that line "
                    "and what follows it"
                )
        return records

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            value: dict[str, Any] = from_json((self.path / name).read_text())
        except ValueError as error:
            raise InputError(f"{self.path / name} is not JSON ({error}): restore it, or run again") from error
        return value


def _record(line: str) -> dict[str, Any] | None:
    """A journal line, or None if it is torn or altered."""
    try:
        record: Any = from_json(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and record.keys() >= RECORD else None


def versions() -> dict[str, str]:
    import platform

    import numpy

    from seedbed import __version__

    return {
        "seedbed": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
    }
