"""Predictions for new rows: classes with probabilities, or numbers in their own units with intervals.

A row goes to its client's own model; where there is none, to the start. Shapes: M rows, N classes.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seedbed.data.readers.extras import require
from seedbed.data.readers.new_rows import NewRows, read_new_rows
from seedbed.data.readers.sheet import PARQUET
from seedbed.errors import InputError, as_written
from seedbed.experiments.adapt import START_FILE, SUFFIX, start_model
from seedbed.experiments.personal_model import AGAIN, PersonalModel, load_personal
from seedbed.serialization import write_atomically

TABLES = (".csv", *PARQUET)
OWN, START = "own", "start"  # which model a row was predicted by
PIECE = 65536  # rows at once
Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Models:
    """Models of clients, and the start for all others.

    Attributes:
        path: where they lie.
        start: None: there is none here.
        only: the file holds one client's model, which predicts every row.
    """

    path: Path
    own: Mapping[str, PersonalModel]
    start: PersonalModel | None
    only: PersonalModel | None = None

    @property
    def any(self) -> PersonalModel:
        """One of them: all read rows alike, but for what they standardise by a client's own numbers."""
        found = self.only or self.start or next(iter(self.own.values()), None)
        if found is None:
            raise InputError(f"{self.path} holds no model by `seedbed adapt`: give a run's directory, or such a model")
        return found


@dataclass(frozen=True)
class PredictResult:
    """What `seedbed predict` did.

    Attributes:
        own: rows predicted by their client's own model.
    """

    out: Path
    rows: int
    own: int
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        rest = self.rows - self.own
        by = [f"{self.own} by their client's own model"] * bool(self.own) + [f"{rest} by the start"] * bool(rest)
        return [f"{self.out}: predictions of {self.rows} rows, {', '.join(by)}", *self.notes]


def predict_file(models: Path, rows: Path, out: Path) -> PredictResult:
    """Predict the rows of a file and write the predictions, a line for each row in the same order.

    Args:
        models: a personal model; a folder of them, of which each row gets its client's; or a run's directory, whose
            start predicts.
        out: .csv or .parquet.
    Raises:
        InputError: a model cannot be read, a column of training is missing, or `out` exists.
    """
    if out.exists():
        raise InputError(f"{out} exists: choose another --out")
    if out.suffix.lower() not in TABLES:
        raise InputError(f"--out {out} is neither .csv nor .parquet: choose one of these")
    found = load_models(models)
    with as_written(models, AGAIN):
        new = read_new_rows(rows, found.any.encoding)
        columns, notes = predict_rows(found, new, rows)
    write_atomically(out, table_bytes(columns, out))
    own = columns.get("model", []).count(OWN)
    return PredictResult(out, len(new.x), own, (*new.notes, *notes))


def load_models(path: Path) -> Models:
    """The models in a file, a folder or a run's directory."""
    if path.is_file():
        one = load_personal(path)
        return Models(path, {}, None, one)
    if not path.is_dir():
        raise InputError(f"no model {path}: give one by `seedbed adapt`, a folder of them, or a run's directory")
    if (path / "manifest.json").exists():
        return Models(path, {}, start_model(path))
    own: dict[str, PersonalModel] = {}
    for file in sorted(path.glob(f"*{SUFFIX}")):
        model = load_personal(file)
        if file.name != START_FILE and model.client in own:
            raise InputError(f"{path} holds two models of client {model.client!r}: remove {file.name} or the other")
        if file.name != START_FILE:
            own[model.client] = model
    start = load_personal(path / START_FILE) if (path / START_FILE).exists() else None
    return Models(path, own, start)


def predict_rows(models: Models, new: NewRows, rows: Path) -> tuple[Columns, list[str]]:
    """The columns of the predictions, and what is to be said of them."""
    columns: Columns = {new.word: list(new.places)}
    if new.clients is not None:
        columns[new.column] = new.clients.tolist()
    notes: list[str] = []
    parts: list[tuple[Any, Columns]] = []
    for model, chosen, word in _shares(models, new, rows, notes):
        parts.append(
            (chosen, {**predicted_columns(model, new.x[torch.as_tensor(chosen)]), "model": [word] * len(chosen)})
        )
    order = np.argsort(np.concatenate([chosen for chosen, _ in parts]), kind="stable")
    for name in parts[0][1]:
        together = [value for _, part in parts for value in part[name]]
        columns[name] = [together[place] for place in order]
    return columns, notes


def _shares(models: Models, new: NewRows, rows: Path, notes: list[str]) -> Iterator[tuple[PersonalModel, Any, str]]:
    """Which rows each model predicts."""
    everything = np.arange(len(new.x))
    if models.only is not None:
        mine = models.only.client
        others = 0 if new.clients is None or not mine else int((new.clients != mine).sum())
        if others:
            notes.append(f"{others} rows are of other clients than {mine!r}, whose model predicts them all the same")
        yield models.only, everything, OWN
        return
    if new.clients is None and models.own:
        raise InputError(
            f"{rows} has no column {new.column!r} that says whose each row is: give the model of one client, or a "
            "run's directory"
        )
    whose = new.clients if models.own and new.clients is not None else np.full(len(everything), "")
    names, number = np.unique(whose, return_inverse=True)
    known = [place for place, name in enumerate(names.tolist()) if name in models.own]
    for place in known:
        yield models.own[names[place]], np.flatnonzero(number == place), OWN
    rest = np.flatnonzero(~np.isin(number, known))
    if len(rest) and models.start is None:
        name = str(names[number[rest[0]]])
        raise InputError(
            f"{models.path} has no model of client {name!r} and no {START_FILE} to predict its rows with: make one "
            "with `seedbed adapt`, or adapt to all clients of a file with --all"
        )
    if len(rest) and models.own:
        notes.append(f"{len(rest)} rows of {len(names) - len(known)} clients without a model: predicted by the start")
    if len(rest):
        assert models.start is not None
        yield models.start, rest, START


def predicted_columns(model: PersonalModel, x: torch.Tensor) -> Columns:
    """The predicted columns of some rows."""
    found: Columns = {}
    for piece in torch.split(x, PIECE):
        for name, values in _predicted(model, _as_inputs(piece)).items():
            found[name] = [*found.get(name, ()), *values]
    return found


def _as_inputs(x: torch.Tensor) -> torch.Tensor:
    """As models take them: images 0…1, numbers in single precision."""
    if x.dtype == torch.uint8:
        return x.float() / 255
    return x.float() if x.is_floating_point() else x


def _predicted(model: PersonalModel, x: torch.Tensor) -> Columns:
    if model.classes:
        shares = model.probabilities(x)
        best = [model.classes[place] for place in shares.argmax(1)]
        each = {f"probability_{name}": shares[:, place].tolist() for place, name in enumerate(model.classes)}
        return {"prediction": best, **each}
    numbers = model.numbers(x)
    if numbers.shape[1] > 1:
        return {f"prediction_{place}": numbers[:, place].tolist() for place in range(numbers.shape[1])}
    middle, half = numbers[:, 0], model.half_widths(x)
    if half is None:
        return {"prediction": middle.tolist()}
    return {"prediction": middle.tolist(), "low": (middle - half).tolist(), "high": (middle + half).tolist()}


def table_bytes(columns: Mapping[str, Sequence[Any]], out: Path) -> bytes:
    """A table as the bytes of a CSV or Parquet file."""
    if out.suffix.lower() in PARQUET:
        arrow, parquet = require("pyarrow", f"writing {out.name}"), require("pyarrow.parquet", f"writing {out.name}")
        stream = arrow.BufferOutputStream()
        parquet.write_table(arrow.table(dict(columns)), stream)
        return bytes(stream.getvalue().to_pybytes())
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue().encode()
