"""Feature columns of a table -> numbers, and new rows alike. Shapes: M rows, D encoded features.

Numbers are standardised, missing ones filled by the median, with a column that says so: by the whole table's, or
each client's by its own, as clients of a real federation do, who see nobody else's.
Texts become one column per level, with one for `other` levels and, when some are missing, one for `missing`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from seedbed.errors import InputError, nearest
from seedbed.tasks.readers.targets import as_text, in_order

Column = npt.NDArray[Any]  # [M] float64 with NaN for missing, or texts with None for missing
Where = Callable[[int], str]  # row number -> where in the file, for people
MOST_LEVELS = 50
MOSTLY_NUMBERS = 0.9


class Features(NamedTuple):
    x: npt.NDArray[np.float32]  # [M, D]
    columns: list[dict[str, Any]]  # how each was encoded, JSON-like
    notes: tuple[str, ...]


def fit(table: Mapping[str, Column], where: Where, text: Sequence[str] = (), owners: Column | None = None) -> Features:
    """Encode the feature columns of a whole table.

    Args:
        table: columns by name.
        where: the place of a row in its file, for messages.
        text: columns whose numbers are names (codes), to be read as texts.
        owners: [M] whose each row is, for numbers to be standardised by each client's own; None: by the table's.
    Raises:
        InputError: text or infinity in a column of numbers; nothing left to learn from.
    """
    specs, notes = [], []
    for name, values in table.items():
        numbers = None if name in text else numbers_if_mostly(name, values, where)
        spec, note = _fit_texts(name, values) if numbers is None else _fit_numbers(name, numbers, owners is not None)
        notes += note
        specs += spec
    if not specs:
        raise InputError(f"no feature column is left of {', '.join(table) or 'none'}: nothing to learn from")
    if owners is None and any(spec["kind"] == "numeric" for spec in specs):
        notes.append(
            "numeric columns standardised with means and standard deviations of the whole table; "
            "in a real federation each client does its own, as standardise=own does here"
        )
    return Features(_apply(table, specs, where, owners), specs, tuple(notes))


def fit_like(
    table: Mapping[str, Column], columns: Sequence[dict[str, Any]], where: Where, owners: Column | None = None
) -> npt.NDArray[np.float32]:
    """New rows [M, D] in the same columns. Raises InputError when one is missing.

    Args:
        owners: [M] whose each row is; None: all are one client's.
    """
    for column in columns:
        if column["name"] not in table:
            raise InputError(f"no column {column['name']!r}: {nearest(column['name'], table)}")
    return _apply(table, columns, where, owners)


def numbers_of(
    name: str, values: Column, where: Where, otherwise: str = "read the column as text with text={name}"
) -> npt.NDArray[np.float64]:
    """A column as numbers, NaN where missing; text and infinity are refused with their place."""
    numbers, bad = _parsed(values)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"column {name!r} has {values[row]!r} in {where(row)}, but it is a column of numbers: "
            f"correct it, leave it "
            f"empty if it is missing, or {otherwise.format(name=name)}"
        )
    if np.isinf(numbers).any():
        row = int(np.flatnonzero(np.isinf(numbers))[0])
        raise InputError(
            f"column {name!r} has an infinite value in {where(row)}: correct it, or leave it empty if it is missing"
        )
    return numbers


def missing(values: Column) -> npt.NDArray[np.bool_]:
    """[M] which values are missing."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    return np.array([value is None for value in values], bool)


def _parsed(values: Column) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """(numbers [M], which are text [M])."""
    if values.dtype.kind in "fiub":
        return values.astype(np.float64), np.zeros(len(values), bool)
    numbers, bad = np.full(len(values), np.nan), np.zeros(len(values), bool)
    try:
        return np.where(missing(values), "nan", values).astype(np.float64), bad
    except ValueError:  # some are text: find which
        pass
    for i, value in enumerate(values):
        try:
            numbers[i] = np.nan if value is None else float(value)
        except ValueError:
            bad[i] = True
    return numbers, bad


def numbers_if_mostly(
    name: str, values: Column, where: Where, otherwise: str = "read the column as text with text={name}"
) -> npt.NDArray[np.float64] | None:
    """The column as numbers; None for a column of texts: more than a tenth of its values are no number."""
    numbers, bad = _parsed(values)
    present = ~missing(values)
    if bad.sum() > (1 - MOSTLY_NUMBERS) * present.sum():
        return None
    return numbers_of(name, values, where, otherwise) if bad.any() or np.isinf(numbers).any() else numbers


def _fit_numbers(name: str, numbers: npt.NDArray[np.float64], own: bool) -> tuple[list[dict[str, Any]], list[str]]:
    gone = np.isnan(numbers)
    if gone.all():
        return [], [f"column {name!r} is empty: left out"]
    if own:
        return [{"name": name, "kind": "numeric", "own": True, "missing": bool(gone.any())}], []
    median = float(np.median(numbers[~gone]))
    filled = np.where(gone, median, numbers)
    mean, std = float(filled.mean()), float(filled.std())
    notes = []
    if gone.any():
        notes.append(f"column {name!r}: {int(gone.sum())} missing values filled by the median {median:g} and marked")
    if std <= 1e-12 * abs(mean):
        notes.append(f"column {name!r} is constant ({mean:g})")
        std = 1.0
    spec = {
        "name": name,
        "kind": "numeric",
        "median": median,
        "mean": mean,
        "std": std,
        "missing": bool(gone.any()),
    }
    return [spec], notes


def _fit_texts(name: str, values: Column) -> tuple[list[dict[str, Any]], list[str]]:
    gone = missing(values)
    present = [as_text(value) for value in values[~gone]]
    levels, counts = np.unique(np.array(present, dtype=np.str_), return_counts=True)
    if len(levels) > MOST_LEVELS and len(levels) > len(present) / 2:
        said = f"column {name!r} has {len(levels)} different texts in {len(values)} rows, as names have"
        return [], [f"{said}: left out"]
    kept = levels[np.argsort(-counts, kind="stable")[:MOST_LEVELS]].tolist()
    notes = []
    if len(kept) < len(levels):
        notes.append(f"column {name!r}: the {MOST_LEVELS} most frequent of {len(levels)} texts kept, the rest 'other'")
    if gone.any():
        notes.append(f"column {name!r}: {int(gone.sum())} missing values made a level 'missing'")
    spec = {
        "name": name,
        "kind": "text",
        "levels": list(in_order(kept)),
        "other": True,
        "missing": bool(gone.any()),
    }
    return [spec], notes


def _apply(
    table: Mapping[str, Column], specs: Sequence[dict[str, Any]], where: Where, owners: Column | None
) -> npt.NDArray[np.float32]:
    parts = [
        _apply_numbers(numbers_of(spec["name"], table[spec["name"]], where), spec, owners)
        if spec["kind"] == "numeric"
        else _apply_texts(table[spec["name"]], spec)
        for spec in specs
    ]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _apply_numbers(
    numbers: npt.NDArray[np.float64], spec: dict[str, Any], owners: Column | None
) -> npt.NDArray[np.float64]:
    gone = np.isnan(numbers)
    if spec.get("own"):
        scaled = np.empty_like(numbers)
        for mine in _rows_by_owner(owners, len(numbers)):
            scaled[mine] = _standardised(numbers[mine])
    else:
        scaled = (np.where(gone, spec["median"], numbers) - spec["mean"]) / spec["std"]
    return np.stack([scaled, gone], 1) if spec["missing"] else scaled[:, None]


def _rows_by_owner(owners: Column | None, count: int) -> list[npt.NDArray[np.int64]]:
    """Each client's rows, in the order that they are in."""
    if owners is None:
        return [np.arange(count)]
    _, number = np.unique(owners.astype(str), return_inverse=True)
    return np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])


def _standardised(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """One client's numbers by their own mean and deviation, missing ones filled by the median; a column that is empty
    or constant here is 0."""
    gone = np.isnan(numbers)
    filled = np.where(gone, 0.0 if gone.all() else np.median(numbers[~gone]), numbers)
    mean, std = filled.mean(), filled.std()
    scaled: npt.NDArray[np.float64] = (filled - mean) / (1.0 if std <= 1e-12 * abs(mean) else std)
    return scaled


def _apply_texts(values: Column, spec: dict[str, Any]) -> npt.NDArray[np.float64]:
    """[M, levels (+ other) (+ missing)]; a missing value without a level of its own counts as other."""
    slots = {level: i for i, level in enumerate(spec["levels"])}
    other = len(slots)
    width = other + spec["other"] + spec["missing"]
    gone = missing(values)
    texts = [None if g else as_text(value) for value, g in zip(values, gone, strict=True)]
    slot = np.array([slots.get(text, other) if text is not None else -1 for text in texts], np.int64)
    slot[slot == -1] = width - 1 if spec["missing"] else other
    return np.asarray(slot[:, None] == np.arange(width), np.float64)
