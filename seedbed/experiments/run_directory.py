"""The run directory: everything that a run leaves behind, written so that no crash can leave a half of anything.

manifest.json     settings, versions, seed, what the data is: enough to run it again
metrics.jsonl     one line a round
journal.jsonl     what makes the run (settings, clients, data, versions) and its digest; then one line a checkpoint: its
                  file, its sha256, how far metrics.jsonl had come, that digest, and one of the line
lock              held while a process works here
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
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seedbed.errors import InputError, as_written
from seedbed.experiments.config import Row
from seedbed.experiments.identity import (
    Identity,
    as_far_as,
    has_rounds_to_add,
    identity,
    identity_digest,
    refuse_changed,
)
from seedbed.experiments.setting_names import flat_with_new_names
from seedbed.learning.finetuning import FineTuning, Scored
from seedbed.limits import from_json, inside
from seedbed.serialization import explain_write_errors, tensors_from_bytes, trees_to_bytes, write_atomically
from seedbed.temporary import clear
from seedbed.tree import Tree

CHECKPOINT = re.compile(r".+-\d{6,}\.safetensors")
KEPT_CHECKPOINTS, CHOICES = 2, "choices.json"
LOCK, JOURNAL = "lock", "journal.jsonl"
RECORD = {"stage": str, "round": int, "file": str, "sha256": str, "metrics_bytes": int}  # a checkpoint's journal line
CHECK = "check"  # the digest of the rest of such a line
MADE_BY = "made_by"  # the journal line of a run's identity
UNFINISHED = ("report.html", "result.json", CHOICES)  # what goes when a finished run gets more rounds
UNCHECKED = (
    "this run was begun before checkpoints were bound to settings, clients, data and versions: it was not checked that "
    "these are as they were; from now on they are"
)


class RunDirectory:
    """One run's files. `create` starts a new one, `open` goes on with an old one."""

    def __init__(self, path: Path):
        self.path = path
        self._bound: str | None = None  # the digest of what checkpoints are bound to, once it was read

    @classmethod
    def create(cls, path: Path, manifest: Mapping[str, Any]) -> "RunDirectory":
        """
        Raises:
            InputError: the directory holds something already, or cannot be written.
        """
        cls.refuse_used(path)
        run, made_by = cls(path), identity(manifest)
        with explain_write_errors(path):
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        try:
            run.write(JOURNAL, _line({MADE_BY: made_by, "digest": identity_digest(made_by)}).encode())
            run.write_json("manifest.json", {**manifest, "digest": identity_digest(made_by)})
        except InputError:
            with suppress(OSError):
                for name in (JOURNAL, LOCK):
                    (path / name).unlink(missing_ok=True)
                (path / "checkpoints").rmdir()
                path.rmdir()
            raise
        return run

    @classmethod
    def refuse_used(cls, path: Path) -> None:
        """A new run's directory must hold nothing but what a crash can leave of `create`.

        Raises:
            InputError: it holds something.
        """
        if not path.exists():
            return
        left = {"checkpoints", JOURNAL, LOCK}
        strange = not path.is_dir() or any(p.name not in left and p.suffix != ".part" for p in path.iterdir())
        if not strange and not any((path / "checkpoints").glob("*")):
            return
        hint = f"`seedbed resume {path}` goes on with the run in it" if (path / "manifest.json").exists() else ""
        raise InputError(f"{path} exists and is not empty: choose another --out{'; ' if hint else ''}{hint}")

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """
        Raises:
            InputError: it holds no run, or one whose manifest was changed since it began.
        """
        if not (path / "manifest.json").is_file():
            raise InputError(f"{path} holds no run (no manifest.json): name the directory given to --out")
        run = cls(path)
        began = run.began()
        if began is not None:
            stated = run._stated()
            refuse_changed(str(path), as_far_as(stated, began), stated)
        elif "digest" in run.manifest:
            raise InputError(f"{path / JOURNAL} does not say what made the run's checkpoints: restore it")
        return run

    @property
    def manifest(self) -> dict[str, Any]:
        return self._read_json("manifest.json")

    @property
    def result(self) -> dict[str, Any] | None:
        """The final table, or None while the run is not finished."""
        return self._read_json("result.json") if (self.path / "result.json").exists() else None

    def finetuning(self) -> dict[Row, FineTuning]:
        """How clients of the run's algorithm fine-tune, by number of shots; empty if it has a way of its own."""
        with as_written(self.path / "result.json"):
            chosen = (self.result or {}).get("finetuning", {}).get("adapted", {})
            return {
                "half" if k == "half" else int(k): FineTuning(**{n: v for n, v in how.items() if n != "text"})
                for k, how in chosen.items()
            }

    def options(self) -> dict[str, Any]:
        """The algorithm's settings that the trained start has: those asked for, with the rates that `tune` chose."""
        with as_written(self.path / "manifest.json"):
            options: dict[str, Any] = (self.result or {}).get("options", self.manifest["settings"]["options"])
            return options

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all."""
        write_atomically(self.path / name, data)

    # ---- what made it -------------------------------------------------------------------------------------------

    def began(self) -> Identity | None:
        """The identity that the run's next checkpoints belong to; None: the run is older than identities."""
        line = self._began_line()
        return None if line is None else flat_with_new_names(line[MADE_BY])

    def _began_line(self) -> dict[str, Any] | None:
        lines = [line for line in self._journal() if MADE_BY in line]
        return lines[-1] if lines else None

    def is_done(self) -> bool:
        """Whether nothing is left to compute or write."""
        return self.result is not None and (self.path / "report.html").exists() and not self.has_rounds_to_add()

    def has_rounds_to_add(self) -> bool:
        """Whether its manifest asks for more rounds than it was begun or gone on with."""
        began = self.began()
        return began is not None and has_rounds_to_add(began, self._stated())

    def _stated(self) -> Identity:
        """What made it, as its manifest says."""
        with as_written(self.path / "manifest.json"):
            return identity(self.manifest)

    def bind(self, manifest: Mapping[str, Any]) -> list[str]:
        """Bind the checkpoints that follow to what this process computes with; what is worth a line of it.

        Args:
            manifest: as it would be, were the run begun now.
        Raises:
            InputError: a change that a resume may not bring.
        """
        began, now = self.began(), identity(manifest)
        if began is not None and identity_digest(began) == identity_digest(now):
            return []
        if began is None:
            stated = self._stated()
            notes = [UNCHECKED, *refuse_changed(str(self.path), stated, as_far_as(stated, now))]
        else:
            notes = refuse_changed(str(self.path), began, now)
            self._remove(UNFINISHED if has_rounds_to_add(began, now) else ())
        self._append({MADE_BY: now, "digest": identity_digest(now)})
        if began is None:
            self.write_json("manifest.json", {**self.manifest, "digest": identity_digest(now)})
        return notes

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            with explain_write_errors(self.path / name):
                (self.path / name).unlink(missing_ok=True)

    # ---- choices ------------------------------------------------------------------------------------------------

    def choice(self, key: str) -> Scored | None:
        """What was kept under this key, or None."""
        if not (self.path / CHOICES).exists() or (found := self._read_json(CHOICES).get(key)) is None:
            return None
        with as_written(self.path / CHOICES):
            score, how = found["score"], found["how"]
            return Scored(math.nan if score is None else float(score), None if how is None else FineTuning(**how))

    def keep_choice(self, key: str, chosen: Scored) -> None:
        kept = self._read_json(CHOICES) if (self.path / CHOICES).exists() else {}
        score, how = chosen
        mine = {"score": score if math.isfinite(score) else None, "how": None if how is None else asdict(how)}
        self.write_json(CHOICES, kept | {key: mine})

    # ---- metrics and checkpoints --------------------------------------------------------------------------------

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        with explain_write_errors(self.path / "metrics.jsonl"), open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        path = self.path / "metrics.jsonl"
        return [from_json(line) for line in path.read_text().splitlines()] if path.exists() else []

    def save(self, stage: str, round: int, trees: Mapping[str, Tree]) -> None:
        """Checkpoint: the file first, then the journal line that makes it count, then older files go."""
        data = trees_to_bytes(trees)
        file = f"checkpoints/{stage}-{round:06d}.safetensors"
        self.write(file, data)
        record = {
            "stage": stage,
            "round": round,
            "file": file,
            "sha256": hashlib.sha256(data).hexdigest(),
            "metrics_bytes": self._settle_metrics(),
            "digest": self._digest(),
        }
        self._append({**record, CHECK: identity_digest(record)})
        mine = (self.path / "checkpoints").glob(f"{stage}-[0-9]*.safetensors")  # not those of stage fedavg-probe
        for old in sorted(mine, key=lambda file: int(file.stem.rpartition("-")[2]))[:-KEPT_CHECKPOINTS]:
            with explain_write_errors(old):
                old.unlink()

    def recover(self) -> None:
        """Forget what came after the last checkpoint: a torn journal line, and metrics of rounds to be run again."""
        lines = self._journal()
        records = [line for line in lines if MADE_BY not in line]
        if (self.path / JOURNAL).exists():
            self.write(JOURNAL, "".join(_line(line) for line in lines).encode())
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
        mine = [(number, line) for number, line in enumerate(self._journal(), 1) if line.get("stage") == stage]
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
        return record["round"], tensors_from_bytes(data, str(path))

    def _settle_metrics(self) -> int:
        """Flush metrics.jsonl to disk, before a journal line counts it; its size."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return 0
        with explain_write_errors(path), open(path, "ab") as metrics:
            os.fsync(metrics.fileno())
            return metrics.tell()

    def _digest(self) -> str | None:
        """Of what the next checkpoint is bound to."""
        if self._bound is None and (began := self._began_line()) is not None:
            self._bound = began["digest"]
        return self._bound

    def _append(self, line: Mapping[str, Any]) -> None:
        """Add a line to the journal, on disk when this returns."""
        path = self.path / JOURNAL
        with explain_write_errors(path), open(path, "a") as journal:
            journal.write(_line(line))
            journal.flush()
            os.fsync(journal.fileno())
        self._bound = line["digest"]

    def _journal(self) -> list[dict[str, Any]]:
        """The lines that count.

        Raises:
            InputError: one was altered, or is of a checkpoint that is not bound to what the lines before say.
        """
        path = self.path / JOURNAL
        texts = path.read_text(errors="replace").splitlines() if path.exists() else []
        lines: list[dict[str, Any]] = []
        bound = None
        for number, text in enumerate(texts, 1):
            line = _parsed(text)
            if line is None and number == len(texts):
                break
            if line is None:
                raise InputError(
                    f"{path} line {number} is no checkpoint's: the file was altered; restore it, or remove that line "
                    "and what follows it"
                )
            bound = line["digest"] if MADE_BY in line else bound
            if line.get("digest") != bound:
                raise InputError(
                    f"{path} line {number} is of a checkpoint that other settings, clients, data or versions made: "
                    "restore the file, or remove that line and what follows it"
                )
            lines.append(line)
        return lines

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            value = from_json((self.path / name).read_text())
            if not isinstance(value, dict):
                raise ValueError("it is no table")
        except ValueError as error:
            raise InputError(f"{self.path / name} is not JSON ({error}): restore it, or run again") from error
        return value


def _line(line: Mapping[str, Any]) -> str:
    return json.dumps(line) + "\n"


def _parsed(text: str) -> dict[str, Any] | None:
    """A journal line, or None if it is torn or altered."""
    try:
        line: Any = from_json(text)
    except ValueError:
        return None
    if isinstance(line, dict) and isinstance(line.get(MADE_BY), dict):
        return line if line.get("digest") == identity_digest(line[MADE_BY]) else None
    if not isinstance(line, dict) or not all(type(line.get(name)) is kind for name, kind in RECORD.items()):
        return None
    rest = {name: value for name, value in line.items() if name != CHECK}
    as_it_was = line.get(CHECK) in (None, identity_digest(rest))  # older lines have none
    return line if as_it_was and min(line["round"], line["metrics_bytes"]) >= 0 else None


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
