"""Settings of a client's own: how many steps, at which rate, on batches of which size; from a table of clients."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seedbed.data.readers.sheet import RawColumns, load_table
from seedbed.errors import InputError
from seedbed.experiments.config import Settings


@dataclass(frozen=True)
class ClientSettings:
    """What each client has of its own, by name; a client that is missing has what all have."""

    steps: Mapping[str, int]
    lr: Mapping[str, float]
    size: Mapping[str, int]


NONE = ClientSettings({}, {}, {})


def read_client_settings(settings: Settings, names: Sequence[str]) -> ClientSettings:
    """The run's table, checked.

    Raises:
        InputError: a column that is not there, two values for a client, or a value that cannot be used.
    """
    own = settings.own
    columns = {what: getattr(own, what) for what in ("steps", "lr", "size") if getattr(own, what) is not None}
    if not columns:
        if own.table is not None:
            raise InputError(f"own.table={own.table} says nothing: name a column by own.steps, own.lr or own.size")
        return NONE
    raw = load_table(Path(own.table or settings.data))
    of = own.client or str(settings.reader.get("client", "client"))
    for column in (of, *columns.values()):
        if column not in raw.columns:
            known = ", ".join(list(raw.columns)[:10])
            raise InputError(f"{raw.path.name} has no column {column!r} for own.*: its columns are {known}")
    found = {what: dict(_values(raw, of, what, column)) for what, column in columns.items()}
    strangers = sorted({name for values in found.values() for name in values} - set(names))
    if strangers:
        raise InputError(f"own.table={raw.path.name} has a client {strangers[0]!r} that the data have not: correct it")
    numbers = {what: {name: int(v) for name, v in found.get(what, {}).items()} for what in ("steps", "size")}
    return ClientSettings(numbers["steps"], found.get("lr", {}), numbers["size"])


def _values(raw: RawColumns, of: str, what: str, column: str) -> Iterator[tuple[str, float]]:
    """(client, value) of each row that has one; rows of one client must agree."""
    seen: dict[str, float] = {}
    for row, (name, cell) in enumerate(zip(raw.columns[of], raw.columns[column], strict=True)):
        if name is None or cell is None or cell != cell:
            continue
        client, value = _text(name), _number(cell)
        fits = math.isfinite(value) and (value >= 0 if what == "lr" else value >= 1 and value == int(value))
        if not fits:
            said = f"{value:g}" if math.isfinite(value) else repr(str(cell))
            need = "a rate from 0 up" if what == "lr" else "a whole number from 1 up"
            raise InputError(f"{raw.where(row)}: own.{what}={said} of client {client!r} must be {need}")
        if seen.setdefault(client, value) != value:
            raise InputError(
                f"{raw.where(row)}: client {client!r} has own.{what}={value:g}, but {seen[client]:g} in a row before: "
                "give a client one value"
            )
    yield from seen.items()


def _text(name: object) -> str:
    """A client's name as the data have it: 3, not 3.0."""
    return str(int(name)) if isinstance(name, float) and name == int(name) else str(name)


def _number(cell: object) -> float:
    try:
        return float(str(cell))
    except ValueError:
        return math.nan
