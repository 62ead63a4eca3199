"""Columns of a table that are not what they seem: a copy of the target, of another column, of the client.

Shapes: M rows, D encoded features, K classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seedbed.data.encoding.places import width_of
from seedbed.data.readers.column_values import Column, is_missing
from seedbed.data.readers.targets import as_text

FEWEST_ROWS = 20  # of a table in which a perfect prediction is no chance
FEWEST_OF_CLASS = 5
REPEATED = 3  # rows that each value of a column has on average, or it names its rows
SHOWN = 5
GONE = 1e30  # stands for a missing value: beyond all features

Floats = npt.NDArray[np.float64]


def copies_of_client(columns: Mapping[str, Column], clients: npt.NDArray[Any], usual: Sequence[str]) -> list[str]:
    """Columns of words, or with a usual name of a client column, that name each client by another word."""
    names, owner = np.unique(clients, return_inverse=True)
    if not 2 <= len(names) <= len(clients) / 2:
        return []
    return [
        name
        for name, values in columns.items()
        if (values.dtype.kind == "O" or name.lower() in usual) and _is_renamed(values, owner, len(names))
    ]


def _is_renamed(values: Column, owner: npt.NDArray[np.int64], clients: int) -> bool:
    if is_missing(values[:1]).any() or len({as_text(v) for v in values[: 4 * clients].tolist()}) > clients:
        return False
    pairs = {(as_text(value), client) for value, client in zip(values.tolist(), owner.tolist(), strict=True)}
    return len(pairs) == clients == len({text for text, _ in pairs})


def suspect_notes(
    x: npt.NDArray[np.float32], specs: Sequence[Mapping[str, Any]], y: npt.NDArray[Any], classes: int
) -> tuple[str, ...]:
    """Notes on columns that tell the target without error, and on columns that are the same.

    Args:
        x: [M, D] encoded features of the columns in `specs`.
        y: [M] class numbers, or numbers.
        classes: K; 0 for numbers.
    """
    columns = list(_columns_as_numbers(x, specs))
    notes: list[str] = []
    tells = _tells_class if classes else _tells_number
    enough = len(y) >= FEWEST_ROWS and (
        not classes or np.bincount(y, minlength=1)[np.unique(y)].min() >= FEWEST_OF_CLASS
    )
    perfect = [name for name, values in columns if enough and tells(values, y)]
    if perfect:
        notes.append(
            f"column {_named(perfect)} tells the target without error in all {len(y)} rows: if it is a copy, or not "
            f"known when predicting, leave it out with ignore={perfect[0]}"
        )
    found: dict[bytes, str] = {}
    firsts = [(name, found.setdefault(values.round(5).tobytes(), name)) for name, values in columns]
    twins = [f"{name!r} = {first!r}" for name, first in firsts if name != first]
    if twins:
        notes.append(f"columns that are the same: {', '.join(twins[:SHOWN])}{', …' if len(twins) > SHOWN else ''}")
    return tuple(notes)


def _named(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:SHOWN])) + (", …" if len(names) > SHOWN else "")


def _columns_as_numbers(x: npt.NDArray[np.float32], specs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Floats]]:
    """[M] numbers that stand for the values of each column that varies: of words, the places of their levels."""
    start = 0
    for spec in specs:
        block = x[:, start : start + width_of(spec)]
        start += block.shape[1]
        if (block == block[:1]).all() or spec.get("own"):
            continue
        values = (block.argmax(1) if spec["kind"] == "text" else block[:, 0]).astype(np.float64)
        gone = block[:, -1] > 0 if spec["kind"] != "text" and spec["missing"] else np.zeros(len(x), bool)
        yield spec["name"], np.where(gone, GONE, values)


def _tells_class(values: Floats, y: npt.NDArray[Any]) -> bool:
    """Whether each value goes with one class, by few values or by one threshold between two classes."""
    order = np.lexsort((y, values))
    value, label = values[order], y[order]
    steps, changes = np.diff(value) != 0, np.diff(label) != 0
    if (changes & ~steps).any():
        return False
    few = int(steps.sum()) + 1 <= len(y) / REPEATED
    return few or int(changes.sum()) + 1 == len(np.unique(y))


def _tells_number(values: Floats, y: npt.NDArray[Any]) -> bool:
    """Whether the number to predict rises, or falls, with the values throughout."""
    if len(np.unique(y)) < REPEATED or len(np.unique(values)) < 0.9 * len(np.unique(y)):
        return False
    return any(_rises(values, sign * y) for sign in (1, -1))


def _rises(values: Floats, y: npt.NDArray[Any]) -> bool:
    return bool((np.diff(y[np.lexsort((y, values))]) >= 0).all())
