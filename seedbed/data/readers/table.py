"""A CSV or Parquet file with a client column and a target column. Shapes: M rows, D encoded features."""

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from seedbed.data.population import Population
from seedbed.data.readers import columns as features
from seedbed.data.readers import targets
from seedbed.data.readers.columns import Column
from seedbed.data.readers.sheet import RawColumns, load_table
from seedbed.data.readers.targets import TaskKind, as_text
from seedbed.errors import InputError, closest_name

CLIENTS = [
    "client",
    "client_id",
    "user",
    "user_id",
    "site",
    "hospital",
    "center",
    "centre",
    "institution",
    "silo",
    "patient",
    "subject",
    "subject#",
    "device",
    "writer",
]
MIN_NAME_SIMILARITY = 0.6  # how like a usual name a column must be to be meant, of 1
TARGETS = ["target", "label", "y", "class", "outcome", "diagnosis"]


def read(
    path: str | Path,
    *,
    client: str | None = None,
    target: str | None = None,
    task: TaskKind | None = None,
    ignore: Iterable[str] = (),
    text: Iterable[str] = (),
    number: Iterable[str] = (),
    scale_target: bool = True,
    standardise: Literal["together", "own"] = "together",
    decimal: Literal[".", ","] | None = None,
    episodic: bool = False,
    pooled: bool = False,
    like: dict[str, Any] | None = None,
) -> Population:
    """A table whose rows are examples.

    Args:
        path: .csv, .tsv (comma, semicolon, tab or bar, with a header; packed by gz, xz or bz2 too) or
            .parquet.
        client: the column that says whose row it is; None: one called client, user, site, hospital, ...
        target: the column to predict; None: one called target, label, y, ...
        task: None: classes if the target is text, or whole numbers of which few differ; else regression.
        ignore: columns to leave out.
        text: columns of numbers that are names (codes).
        number: columns of whole numbers that are numbers, even if they look like codes.
        scale_target: standardise a regression target over the table.
        standardise: numbers by the means and standard deviations of the whole table, or each client's by its own.
        decimal: the decimal mark of numbers; None: the one by which most of a column can be read.
        episodic: True when classes mean something only inside a client.
        pooled: one client holds all rows: for made-up clients (partition).
        like: the encoding of another table, to be used instead of one fitted to this.
    Raises:
        InputError: with the column, the line and the value.
    """
    return read_columns(
        load_table(Path(path)), client=client, target=target, task=task, ignore=ignore, text=text, number=number,
        scale_target=scale_target, standardise=standardise, decimal=decimal, episodic=episodic, pooled=pooled,
        like=like,
    )  # fmt: skip


def read_columns(
    raw: RawColumns,
    *,
    client: str | None = None,
    target: str | None = None,
    task: TaskKind | None = None,
    ignore: Iterable[str] = (),
    text: Iterable[str] = (),
    number: Iterable[str] = (),
    scale_target: bool = True,
    standardise: Literal["together", "own"] = "together",
    decimal: Literal[".", ","] | None = None,
    episodic: bool = False,
    pooled: bool = False,
    like: dict[str, Any] | None = None,
) -> Population:
    """The population in a table's columns: arguments and errors as of `read`."""
    ignore, text, number = _names(ignore), _names(text), _names(number)
    for name in (*ignore, *text, *number):
        _refuse_unknown(raw, name)
    goal = _find(raw, target, TARGETS, "target", "the column to predict")
    if pooled:
        owner = client or next((name for name in raw.columns if name.lower() in CLIENTS and name != goal), None)
    else:
        owner = _find(raw, client, CLIENTS, "client", "whose row it is", instead=", or partition=dirichlet")
    if owner == goal:
        raise InputError(f"column {goal!r} of {raw.path.name} cannot be both client and target: name another")
    return encode_table(
        raw, client=owner, target=goal, task=task, ignore=ignore, text=text, number=number, scale_target=scale_target,
        standardise=standardise, decimal=decimal, episodic=episodic, pooled=pooled, like=like,
    )  # fmt: skip


def encode_table(
    raw: RawColumns,
    *,
    client: str | None,
    target: str,
    task: TaskKind | None = None,
    ignore: tuple[str, ...] = (),
    text: tuple[str, ...] = (),
    number: tuple[str, ...] = (),
    scale_target: bool = True,
    standardise: Literal["together", "own"] = "together",
    decimal: str | None = None,
    episodic: bool = False,
    pooled: bool = False,
    like: dict[str, Any] | None = None,
) -> Population:
    """A population from columns: what `read` does once the file is read and its columns are found."""
    named = [name for name in (target, None if pooled else client) if name]
    raw, notes = _drop_unnamed(raw, named)
    if like is not None:
        task = "regression" if like["target"]["kind"] == "numbers" else "classification"
    decimal = decimal or features.decimal_mark(raw.columns.values()) if like is None else like.get("decimal")
    goal = _target_values(raw, target, task, decimal)
    own = {name: c for name, c in raw.columns.items() if name not in (client, target, *ignore)}
    alone = pooled or client is None
    whose = np.array(["everyone"] * len(goal) if alone else [as_text(v) for v in raw.columns[str(client)]])
    if like is None:
        encoded = targets.encode_target(goal, task, f"column {target!r}", scale=scale_target)
        judge = features.Goal(_as_number(encoded), np.unique(whose, return_inverse=True)[1])
        owners = whose if standardise == "own" else None
        x = features.fit_features(own, raw.where, text, owners, decimal, None if pooled else judge, number)
    else:
        encoded = targets.encode_target_like(goal, like["target"], f"column {target!r}", episodic=episodic)
        x = features.Features(features.fit_like(raw.columns, like["columns"], raw.where, whose), like["columns"], ())
    return Population.from_arrays(
        torch.as_tensor(x.x),
        encoded.y,
        whose,
        classes=encoded.classes,
        episodic=episodic,
        source=raw.path.name,
        notes=(*raw.notes, *notes, *encoded.notes, *x.notes),
        encoding={
            "format": "table",
            "client": client,
            "target": {"column": target, **encoded.encoding},
            "columns": x.columns,
            "episodic": episodic,
            **({"decimal": decimal} if decimal else {}),
        },
    )


def _as_number(target: targets.Target) -> npt.NDArray[np.float64]:
    """[M] the target itself; of classes 1 for the most frequent one and 0 for the others."""
    y = target.y.numpy()
    return np.asarray(y == np.bincount(y).argmax() if target.classes else y, np.float64)


def read_like(path: Path, encoding: dict[str, Any], client: str | None) -> tuple[torch.Tensor, targets.Target]:
    """New rows in the same columns; a client column is not needed, but if there it tells rows apart."""
    return columns_like(load_table(path), encoding, client)


def columns_like(raw: RawColumns, encoding: dict[str, Any], client: str | None) -> tuple[torch.Tensor, targets.Target]:
    """The same of a table's columns."""
    goal = encoding["target"]
    raw = only_client(raw, encoding["client"], client)
    _refuse_unknown(raw, goal["column"])
    raw, notes = _drop_unnamed(raw, [goal["column"]])
    kind: TaskKind = "regression" if goal["kind"] == "numbers" else "classification"
    values = _target_values(raw, goal["column"], kind, encoding.get("decimal"))
    what = f"column {goal['column']!r} of {raw.path.name}"
    target = targets.encode_target_like(values, goal, what, episodic=encoding["episodic"])
    x = torch.as_tensor(features.fit_like(raw.columns, encoding["columns"], raw.where))
    return x, target._replace(notes=(*raw.notes, *notes))


def only_client(raw: RawColumns, column: str | None, client: str | None) -> RawColumns:
    """The rows of one client; all, where there is no client column."""
    if column is None or column not in raw.columns:
        if client is not None:
            raise InputError(f"{raw.path.name} has no column {column!r} to find client {client!r} in")
        return raw
    gone = features.is_missing(raw.columns[column])
    whose = np.array([as_text(value) for value in raw.columns[column]])
    names = sorted(set(whose[~gone].tolist()))
    if client is None and len(names) > 1:
        raise InputError(
            f"{raw.path.name} holds {len(names)} clients ({', '.join(names[:3])}, …): name one with client=NAME, "
            "or adapt to all of them with --all"
        )
    if client is not None and client not in names:
        raise InputError(f"{raw.path.name} has no client {client!r}: {closest_name(client, names)}")
    return raw if client is None else raw.without(gone | (whose != client))


def _find(raw: RawColumns, asked: str | None, usual: Sequence[str], what: str, meaning: str, instead: str = "") -> str:
    if asked is not None:
        _refuse_unknown(raw, asked)
        return asked
    found = [name for u in usual for name in raw.columns if name.lower() == u]
    if found:
        return found[0]
    raise InputError(
        f"{raw.path.name} has no column named {what} (or {', '.join(usual[1:4])}, …): say {meaning} with "
        f"{what}=COLUMN{instead} (on the command line: --set reader.{what}=COLUMN); {_closest(usual, raw.columns)}"
    )


def _closest(usual: Sequence[str], columns: Iterable[str]) -> str:
    """A hint: the column whose name is most like one of the usual names, if any is."""
    alike = [(SequenceMatcher(None, u, name.lower()).ratio(), u, name) for u in usual for name in columns]
    ratio, _, column = max(alike)
    return f"did you mean '{column}'?" if ratio >= MIN_NAME_SIMILARITY else closest_name("", columns)


def _names(names: Iterable[str]) -> tuple[str, ...]:
    """Column names; 'a,b' is two."""
    return tuple(name.strip() for name in names.split(",")) if isinstance(names, str) else tuple(names)


def _refuse_unknown(raw: RawColumns, name: str) -> None:
    if name not in raw.columns:
        raise InputError(f"{raw.path.name} has no column {name!r}: {closest_name(name, raw.columns)}")


def _drop_unnamed(raw: RawColumns, named: Sequence[str]) -> tuple[RawColumns, list[str]]:
    """Without the rows whose target or client is missing."""
    notes = []
    for name in named:
        gone = features.is_missing(raw.columns[name])
        if gone.all():
            raise InputError(f"column {name!r} of {raw.path.name} is empty in every row")
        if gone.any():
            notes.append(f"{int(gone.sum())} rows dropped: column {name!r} is missing")
            raw = raw.without(gone)
    return raw, notes


def _target_values(raw: RawColumns, target: str, task: TaskKind | None, decimal: str | None) -> Column:
    """Numbers where the target is numbers, texts otherwise; text among numbers is refused with its place."""
    values = raw.columns[target]
    if task == "classification":
        return np.array([as_text(value) for value in values])
    otherwise = "read it as class names with task=classification"
    if task == "regression":
        return features.numbers_of(target, values, raw.where, "name another target", decimal)
    numbers = features.numbers_if_mostly(target, values, raw.where, otherwise, decimal)
    return np.array([as_text(value) for value in values]) if numbers is None else numbers
