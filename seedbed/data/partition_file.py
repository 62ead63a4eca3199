"""Which client has which rows, as a JSON file that can be written and read again.

{"form": 1, "rows": M, "targets": sha256 of y, "clients": {name: [row, ...]}}: rows are numbered from 0, as the data is
read. The checksum of the targets tells the same data from other data. Shapes: M rows of the data.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from seedbed.data.population import Population
from seedbed.errors import InputError
from seedbed.limits import BROKEN, from_json, read_unfolded
from seedbed.temporary import fresh_name

FORM = 1


def write_partition(population: Population, path: str | Path) -> None:
    """Write which rows each client of a population has.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(path)
    clients = {name: population.rows_of(i).tolist() for i, name in enumerate(population.names)}
    table = {"form": FORM, "rows": len(population.y), "targets": _digest(population), "clients": clients}
    try:
        with fresh_name(path) as beside:
            beside.write_text(json.dumps(table, ensure_ascii=False) + "\n", encoding="utf-8")
            beside.rename(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another place") from error


def read_partition(path: str | Path, population: Population) -> Population:
    """The examples of a population, with the clients that a file says.

    Args:
        path: a file by `write_partition`, of the same data.
    Raises:
        InputError: the file is damaged, of other data, or gives a row to two clients.
    """
    path = Path(path).expanduser()
    if not str(path) or not path.is_file():
        raise InputError(
            f"partition=file needs partition_file=PATH, a file by `seedbed data partition`: no file {path}"
        )
    clients = _load(path, population)
    parts = [np.array(rows, np.int64) for rows in clients.values()]
    rows = np.concatenate(parts)
    if len(np.unique(rows)) < len(rows):
        raise InputError(f"{path} gives a row to two clients: write it anew")
    if not np.isin(rows, population.rows).all():
        raise InputError(f"{path} gives a client a row that the data does not have: write it anew")
    note = f"{len(clients)} clients as {path.name} says"
    return replace(
        population,
        rows=rows,
        offsets=np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64),
        names=tuple(clients),
        unseen=(),
        notes=(*population.notes, note),
    )


def _load(path: Path, population: Population) -> dict[str, list[int]]:
    try:
        table: Any = from_json(read_unfolded(path), unique=True)
    except InputError:
        raise
    except BROKEN as error:
        raise InputError(f"{path} cannot be read as a partition: {error}") from error
    if not isinstance(table, dict) or table.get("form") != FORM or not isinstance(table.get("clients"), dict):
        raise InputError(f"{path} is no partition of form {FORM}: write it with `seedbed data partition`")
    if table.get("rows") != len(population.y) or table.get("targets") != _digest(population):
        raise InputError(f"{path} was written for other data than {population.source}: write it anew")
    clients: dict[str, list[int]] = table["clients"]
    for name, rows in clients.items():
        if not isinstance(rows, list) or not rows or not all(type(row) is int and 0 <= row < 2**62 for row in rows):
            raise InputError(f"{path} gives client {name[:40]!r} no list of row numbers: write it anew")
    if not clients:
        raise InputError(f"{path} has no clients: write it anew")
    return clients


def _digest(population: Population) -> str:
    y = np.ascontiguousarray(population.labels)
    return hashlib.sha256(f"{y.dtype}{y.shape}".encode() + y.tobytes()).hexdigest()
