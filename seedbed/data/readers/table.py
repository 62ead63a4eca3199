"""A CSV or Parquet file with a client column and a target column. Shapes: M rows, D encoded features."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from seedbed.data.encoding.timestamps import parse_dates
from seedbed.data.population import Population
from seedbed.data.readers import column_values, targets
from seedbed.data.readers import columns as features
from seedbed.data.readers.column_values import Column
from seedbed.data.readers.csv_text import Comments
from seedbed.data.readers.names import Alike, client_names, same_text
from seedbed.data.readers.sheet import RawColumns, load_like, load_table
from seedbed.data.readers.suspects import copies_of_client, suspect_notes
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
MOST_DROPPED = 0.01  # share of rows without target or client above which it is asked whether to drop them
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
    time: str | None = None,
    missing: Iterable[str] = (),
    drop_incomplete: bool = False,
    alike: Alike = "ask",
    encoding: str | None = None,
    separator: str | None = None,
    comments: Comments = "auto",
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
        task: None: classes if the target is text, or whole numbers of which few differ or that look like labels; else
            regression. A note says what was taken.
        ignore: columns to leave out.
        text: columns of numbers that are names (codes).
        number: columns of whole numbers that are numbers, even if they look like codes or ids.
        scale_target: standardise a regression target over the table.
        standardise: numbers by the means and standard deviations of the whole table, or each client's by its own.
        decimal: the decimal mark of numbers; None: the one by which most of a column can be read.
        time: a column of dates or numbers that orders each client's rows: it adapts from its past and is judged on what
            came later. None: rows have no order.
        missing: texts or numbers that mean a gap in every column, beside an empty field. NA, ?, null and the like mean
            one in columns of numbers and dates in any case, and are words elsewhere.
        drop_incomplete: leave out rows without target or client even if they are more than one in a hundred.
        alike: client names that differ only by case, width, spaces or leading zeros: ask, merge or keep them apart.
        encoding: of a CSV file's characters, such as cp1252; None: UTF-8, UTF-16 or UTF-32.
        separator: of a CSV file's fields; None: comma, semicolon, tab or bar, by what divides its rows evenly.
        comments: lines of a CSV file that begin with #: skip, keep as rows, or auto (skip those that cannot be rows).
        episodic: True when classes mean something only inside a client.
        pooled: one client holds all rows: for made-up clients (partition).
        like: the encoding of another table, to be used instead of one fitted to this.
    Raises:
        InputError: with the column, the line and the value.
    """
    gaps = names_of(missing)
    raw = load_table(Path(path), encoding=encoding, separator=separator, comments=comments, missing=gaps)
    population = read_columns(
        raw, client=client, target=target, task=task, ignore=ignore, text=text, number=number,
        scale_target=scale_target, standardise=standardise, decimal=decimal, time=time, missing=gaps,
        drop_incomplete=drop_incomplete, alike=alike, episodic=episodic, pooled=pooled, like=like,
    )  # fmt: skip
    stored = {**population.encoding, **({"encoding": encoding} if encoding else {})}
    return replace(population, encoding=stored)


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
    time: str | None = None,
    missing: Iterable[str] = (),
    drop_incomplete: bool = False,
    alike: Alike = "ask",
    episodic: bool = False,
    pooled: bool = False,
    like: dict[str, Any] | None = None,
) -> Population:
    """The population in a table's columns, whose gaps are found: arguments and errors as of `read`."""
    gaps = names_of(missing)
    ignore, text, number = names_of(ignore), names_of(text), names_of(number)
    client, target = client and same_text(client), target and same_text(target)
    for name in (*ignore, *text, *number, *((time,) if time else ())):
        _refuse_unknown(raw, name)
    goal = _find(raw, target, TARGETS, "target", "the column to predict")
    second = _second_notes(raw, goal, target, TARGETS, "target", "the target", ignore)
    if pooled:
        owner = client or next((name for name in raw.columns if name.lower() in CLIENTS and name != goal), None)
    else:
        owner = _find(raw, client, CLIENTS, "client", "whose row it is", instead=", or partition=dirichlet")
    if owner == goal:
        raise InputError(f"column {goal!r} of {raw.path.name} cannot be both client and target: name another")
    second += _second_notes(raw, owner, client, CLIENTS, "client", "whose row it is", (goal, *ignore))
    raw = raw if time is None else _in_order(raw, time)
    population = encode_table(
        replace(raw, notes=(*raw.notes, *second)), client=owner, target=goal, task=task, ignore=ignore, text=text,
        number=number, scale_target=scale_target,
        standardise=standardise, decimal=decimal, missing=gaps, drop_incomplete=drop_incomplete, alike=alike,
        episodic=episodic, pooled=pooled, like=like,
    )  # fmt: skip
    return replace(population, ordered=time is not None)


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
    missing: tuple[str, ...] = (),
    drop_incomplete: bool = False,
    alike: Alike = "ask",
    episodic: bool = False,
    pooled: bool = False,
    like: dict[str, Any] | None = None,
) -> Population:
    """A population from columns: what `read` does once the file is read and its columns are found."""
    if like is not None:
        task = "regression" if like["target"]["kind"] == "numbers" else "classification"
    decimal = decimal or column_values.decimal_mark(raw.columns.values()) if like is None else like.get("decimal")
    if decimal is None and like is None and raw.separator == ";":
        column_values.refuse_doubtful_points(
            {name: values for name, values in raw.columns.items() if name not in (client, *ignore, *text)}, raw.where
        )
    owner = None if pooled else client
    raw, notes = _drop_incomplete(raw, target, owner, task, 1.0 if drop_incomplete else MOST_DROPPED)
    goal, kind, guess = _target_values(raw, target, task, decimal)
    own = {name: c for name, c in raw.columns.items() if name not in (client, target, *ignore)}
    whose, told = (["everyone"] * len(goal), ()) if owner is None else _owners(raw, owner, alike)
    notes += [*told, *guess]
    if like is None:
        copies = set(copies_of_client(own, np.array(whose), CLIENTS)) - {*text, *number}
        notes += [
            f"column {n!r} names each client by another word: left out; text={n} keeps it" for n in sorted(copies)
        ]
        own = {name: column for name, column in own.items() if name not in copies}
        encoded = targets.encode_target(goal, kind, f"column {target!r}", scale=scale_target)
        judge = features.Goal(_as_number(encoded), np.unique(whose, return_inverse=True)[1])
        owners = np.array(whose) if standardise == "own" else None
        x = features.fit_features(own, raw.where, text, owners, decimal, None if pooled else judge, number)
        notes += suspect_notes(x.x, x.columns, encoded.y.numpy(), len(encoded.classes))
    else:
        encoded = targets.encode_target_like(goal, like["target"], f"column {target!r}", episodic=episodic)
        values = features.fit_like(raw.columns, like["columns"], raw.where, np.array(whose))
        x = features.Features(values, like["columns"], ())
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
            **({"missing": list(missing)} if missing else {}),
        },
    )


def _owners(raw: RawColumns, client: str, alike: Alike) -> tuple[list[str], tuple[str, ...]]:
    """[M] whose each row is, and notes."""
    words = column_values.gap_words_note(f"client column {client!r}", raw.columns[client])
    names, notes = client_names([as_text(value) for value in raw.columns[client]], raw.path.name, alike)
    return names, (*words, *notes)


def _as_number(target: targets.Target) -> npt.NDArray[np.float64]:
    """[M] the target itself; of classes 1 for the most frequent one and 0 for the others."""
    y = target.y.numpy()
    return np.asarray(y == np.bincount(y).argmax() if target.classes else y, np.float64)


def read_like(path: Path, encoding: dict[str, Any], client: str | None) -> tuple[torch.Tensor, targets.Target]:
    """New rows in the same columns; a client column is not needed, but if there it tells rows apart."""
    return columns_like(load_like(path, encoding), encoding, client)


def columns_like(raw: RawColumns, encoding: dict[str, Any], client: str | None) -> tuple[torch.Tensor, targets.Target]:
    """The same of a table's columns."""
    goal = encoding["target"]
    raw = only_client(raw, encoding["client"], client)
    _refuse_unknown(raw, goal["column"])
    kind: TaskKind = "regression" if goal["kind"] == "numbers" else "classification"
    raw, notes = _drop_incomplete(raw, goal["column"], None, kind, 1.0)
    values, _, _ = _target_values(raw, goal["column"], kind, encoding.get("decimal"))
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
    gone = column_values.is_missing(raw.columns[column])
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


def names_of(names: Iterable[str] | None) -> tuple[str, ...]:
    """Column names, or words: 'a,b' and '[a, b]' are two, a number is the text that stands for it.

    >>> names_of("[NA, -999]"), names_of(-999), names_of(None)
    (('NA', '-999'), ('-999',), ())
    """
    if isinstance(names, str):
        inner = names[1:-1] if names.startswith("[") and names.endswith("]") else names
        return tuple(name.strip().strip("\"'") for name in inner.split(","))
    if names is None:
        return ()
    return tuple(map(str, names)) if isinstance(names, Iterable) else (str(names),)


def _refuse_unknown(raw: RawColumns, name: str) -> None:
    if name not in raw.columns:
        raise InputError(f"{raw.path.name} has no column {name!r}: {closest_name(name, raw.columns)}")


def _in_order(raw: RawColumns, time: str) -> RawColumns:
    """The rows in the order of a column of dates or numbers."""
    values = raw.columns[time]
    dates = parse_dates(values.tolist()) if values.dtype.kind == "O" else None
    if dates is not None and dates.ambiguous:
        raise InputError(f"time={time}: day and month may be either way round in every row; write dates as 2020-12-31")
    moments = column_values.numbers_of(time, values, raw.where, "name another") if dates is None else dates.seconds
    if np.isnan(moments).any():
        row = int(np.isnan(moments).argmax())
        raise InputError(f"time={time} is missing in {raw.where(row)}: fill it, delete the row, or name another column")
    order = np.argsort(moments, kind="stable")
    columns = {name: column[order] for name, column in raw.columns.items()}
    note = f"each client's rows are in the order of {time!r}: it adapts from its past"
    return replace(raw, columns=columns, lines=np.asarray(raw.lines)[order].tolist(), notes=(*raw.notes, note))


def _second_notes(
    raw: RawColumns,
    taken: str | None,
    asked: str | None,
    usual: Sequence[str],
    what: str,
    meaning: str,
    gone: Sequence[str],
) -> tuple[str, ...]:
    """A note on other columns that have a usual name, where the user named none."""
    others = [name for name in raw.columns if name.lower() in usual and name not in (taken, *gone)]
    if asked is not None or taken is None or not others:
        return ()
    return (f"column {taken!r} says {meaning}; {what}={others[0]} takes {others[0]!r}, which is a feature now",)


def _drop_incomplete(
    raw: RawColumns, target: str, client: str | None, task: TaskKind | None, most: float
) -> tuple[RawColumns, list[str]]:
    """Without the rows whose target or client is missing.

    Args:
        most: the share of rows that may be dropped.
    """
    notes = []
    for name in (target, client) if client else (target,):
        values = raw.columns[name]
        numbers = name == target and (task == "regression" or _are_mostly_numbers(values))
        gone = column_values.is_gap(values) if numbers else column_values.is_missing(values)
        if gone.all():
            raise InputError(f"column {name!r} of {raw.path.name} is empty in every row")
        count = int(gone.sum())
        if count > most * len(gone):
            raise InputError(
                f"column {name!r} is missing in {count} of {len(gone)} rows, as in {raw.where(int(gone.argmax()))}: "
                "fill it, or say drop_incomplete=true to leave such rows out (on the command line: --set "
                "reader.drop_incomplete=true)"
            )
        if count:
            notes.append(f"{count} rows dropped: column {name!r} is missing")
            raw = raw.without(gone)
    return raw, notes


def _are_mostly_numbers(values: Column) -> bool:
    bad, gaps = column_values.parse_column(values, None).bad, column_values.is_gap(values)
    return bool(bad.sum() <= (1 - column_values.MOSTLY_NUMBERS) * (~gaps).sum())


def _target_values(
    raw: RawColumns, target: str, task: TaskKind | None, decimal: str | None
) -> tuple[Column, TaskKind | None, tuple[str, ...]]:
    """Numbers where the target is numbers, texts otherwise; text among numbers is refused with its place.

    And what is to be done: numbers with a unit or a thousands separator are no classes. And notes.
    """
    values = raw.columns[target]
    words = column_values.gap_words_note(f"column {target!r}", values)
    notation = column_values.parse_column(values, decimal).notation
    if task == "classification":
        plain = str(notation) == "plain" or not _are_mostly_numbers(values)
        labels = values if plain else column_values.numbers_of(target, values, raw.where, "correct it", decimal)
        return np.array([as_text(value) for value in labels]), task, words
    otherwise = "read it as class names with task=classification"
    if task == "regression":
        return column_values.numbers_of(target, values, raw.where, "name another target", decimal), task, ()
    numbers = column_values.numbers_if_mostly(target, values, raw.where, otherwise, decimal)
    if numbers is None or column_values.are_spelt_as_codes(values):
        return np.array([as_text(value) for value in values]), task, words
    if notation.thousands or notation.unit:
        return numbers, "regression", (f"column {target!r} read as numbers: {notation}",)
    return numbers, task, ()
