"""Rows for models that are already trained: unlabelled ones to predict, and labelled ones of many clients to adapt to.

Shapes: M rows, D encoded features.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seedbed.data.encoding.booleans import as_truth
from seedbed.data.encoding.levels import count_levels
from seedbed.data.population import Population
from seedbed.data.readers import arrays, images, paths, table
from seedbed.data.readers import columns as features
from seedbed.data.readers.alike import TAKES, find_formats, other_format
from seedbed.data.readers.column_values import Column, is_gap, is_missing
from seedbed.data.readers.sheet import RawColumns, load_like
from seedbed.data.readers.targets import as_text
from seedbed.errors import InputError, closest_name

NAMED = 5  # columns or levels that a message names
Spec = Mapping[str, Any]


@dataclass(frozen=True)
class NewRows:
    """Rows to predict.

    Attributes:
        x: [M, ...] inputs, as the model takes them.
        places: [M] where each row stands in its file.
        word: what a place is: line, row or file.
        clients: [M] whose each row is, "" where that is missing; None: the file has no client column.
        column: the name of the client column.
        notes: what reading them met, in words.
    """

    x: Tensor
    places: Sequence[int | str]
    word: str
    clients: npt.NDArray[np.str_] | None
    column: str
    notes: tuple[str, ...]


def read_new_rows(path: Path, encoding: Mapping[str, Any]) -> NewRows:
    """Rows without target, in the encoding of what a model was trained on. None is dropped.

    Args:
        path: a table with the columns of training, an .npz with x, or a folder of images.
        encoding: `Population.encoding` of what the model was trained on.
    Raises:
        InputError: another kind of file, a column is missing, a value is none of its column's.
    """
    kind, given = find_formats(path, encoding)
    if given == "table" and kind == "table":
        return rows_of_table(load_like(path, encoding), encoding)
    if given == "arrays" and kind != "table":
        return _rows_of_arrays(path, encoding)
    if path.is_dir() and kind == "images":
        return _rows_of_images(path, encoding)
    raise other_format(path, kind)


def rows_of_table(raw: RawColumns, encoding: Mapping[str, Any]) -> NewRows:
    """Rows of a table; columns that the model does not use are left out and named."""
    specs: Sequence[Spec] = encoding["columns"]
    refuse_missing(raw, specs)
    column = encoding["client"]
    clients = None
    if column in raw.columns:
        clients = np.array(["" if value is None or value != value else as_text(value) for value in raw.columns[column]])
    x = torch.as_tensor(features.fit_like(raw.columns, [dict(spec) for spec in specs], raw.where, clients))
    known = {column, encoding["target"]["column"], *(spec["name"] for spec in specs)}
    notes = [*raw.notes, *_unused([name for name in raw.columns if name not in known])]
    notes += [note for spec in specs for note in _unlike_training(raw.columns[spec["name"]], spec)]
    return NewRows(x, list(raw.lines), raw.word, clients, str(column), tuple(notes))


def refuse_missing(raw: RawColumns, specs: Sequence[Spec]) -> None:
    """
    Raises:
        InputError: a column of training is missing.
    """
    missing = [spec["name"] for spec in specs if spec["name"] not in raw.columns]
    if missing:
        extra = [name for name in raw.columns if name not in {spec["name"] for spec in specs}]
        more = f" (nor {_listed(missing[1:])})" if missing[1:] else ""
        raise InputError(
            f"{raw.path.name} has no column {missing[0]!r}{more}, which the model was trained on: "
            f"{closest_name(missing[0], extra)}; rename it, or add it and leave it empty where it is not known"
        )


def _unused(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return [f"the model does not use the column{'s' * (len(names) > 1)} {_listed(names)}: left out"]


def _unlike_training(values: Column, spec: Spec) -> Iterator[str]:
    """Gaps and levels that training did not have."""
    words, name = spec["kind"] == "text", spec["name"]
    values = as_truth(values) if spec.get("truth") else values
    gone = is_missing(values) if words else is_gap(values)
    if gone.any() and not spec["missing"]:
        filled = "taken as another level" if words else "filled by the median of training"
        yield f"column {name!r}: {int(gone.sum())} missing values, of which training had none: {filled}"
    if words:
        counts = count_levels(values[~gone])
        new = sorted(level for level in counts if level not in set(spec["levels"]))
        if new:
            rows = sum(counts[level] for level in new)
            yield f"column {name!r}: {rows} rows with levels that the model does not know ({_listed(new)})"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(repr, names[:NAMED])) + more


def _rows_of_arrays(path: Path, encoding: Mapping[str, Any]) -> NewRows:
    x = arrays.of_kind(arrays.as_inputs(arrays.load_npz(path, ("x",))["x"], path), encoding["input"], path)
    return NewRows(x, range(len(x)), "row", None, "client", ())


def _rows_of_images(path: Path, encoding: Mapping[str, Any]) -> NewRows:
    found = sorted(file for file in path.rglob("*") if images.is_image_file(file))
    if not found:
        raise InputError(f"{path} has no images")
    x = torch.as_tensor(images.load_images(found, encoding["images"]))
    names = [str(file.relative_to(path)) for file in found]
    return NewRows(arrays.of_kind(x, encoding["input"], path), names, "file", None, "client", ())


# ---- labelled rows of many clients -----------------------------------------------------------------------------------


def read_clients_like(path: Path, encoding: Mapping[str, Any]) -> Population:
    """Every client's labelled examples, as the population that `encoding` comes from would hold them.

    Raises:
        InputError: it is neither a table with a client column nor a folder client/class/*.png.
    """
    if not path.exists():
        raise InputError(f"no file {path}: give {TAKES.get(encoding.get('format', ''), 'a table')}")
    kind = encoding.get("format")
    if kind != "table" or paths.kind_of(path) != "table":
        raise InputError(f"{path} cannot be adapted to client by client: --all takes a table; name one with --client")
    raw, column = load_like(path, encoding), encoding["client"]
    if column is None or column not in raw.columns:
        raise InputError(f"{path.name} has no column {column!r} that says whose each row is: leave --all out")
    goal = encoding["target"]["column"]
    if goal not in raw.columns:
        raise InputError(f"{path.name} has no column {goal!r}, the target: {closest_name(goal, raw.columns)}")
    refuse_missing(raw, encoding["columns"])
    missing = tuple(encoding.get("missing", ()))
    return table.encode_table(
        raw, client=column, target=goal, drop_incomplete=True, alike="keep", missing=missing,
        episodic=bool(encoding["episodic"]), like=dict(encoding),
    )  # fmt: skip


class OwnScales:
    """The columns of one client, where numbers are standardised by each client's own mean and deviation.

    New rows of that client must be scaled by what its examples gave, not by themselves.
    """

    def __init__(self, table: Path | RawColumns, encoding: Mapping[str, Any]):
        self.encoding = encoding
        scaled = encoding.get("format") == "table" and any(spec.get("own") for spec in encoding["columns"])
        self.raw = None
        if scaled:
            self.raw = load_like(table, encoding) if isinstance(table, Path) else table

    def of(self, client: str | None) -> list[Spec] | None:
        """Its columns with its means and deviations; None: nothing is scaled by a client's own."""
        if self.raw is None:
            return None
        raw = table.only_client(self.raw, self.encoding["client"], client)
        gone = is_missing(raw.columns[self.encoding["target"]["column"]])
        raw = raw.without(gone) if gone.any() else raw
        return [features.fixed_scale(raw.columns[spec["name"]], spec, raw.where) for spec in self.encoding["columns"]]
