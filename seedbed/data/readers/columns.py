"""Feature columns of a table -> numbers, and new rows alike. Shapes: M rows, D encoded features.

Numbers are bent where their tail is long, standardised and clipped; missing ones are the median, with a feature that
marks them. With `own`, each client's numbers are standardised by its own mean and deviation, as by the members of a
federation, which see no other client's. Points in time become days and phases of the day, the week and the year. Texts
become one feature for each level, one for `other` levels and, where some are missing, one for `missing`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from seedbed.data.encoding.booleans import are_mixed_truths, as_truth
from seedbed.data.encoding.levels import are_codes, count_levels, fit_levels, level_features
from seedbed.data.encoding.number_text import Notation
from seedbed.data.encoding.numeric import Floats, apply_numeric, fit_numeric, is_constant, said
from seedbed.data.encoding.timestamps import TIMES_OF_DAY, calendar_features, form_of_most, may_be_dates, parse_dates
from seedbed.data.readers.column_values import (
    Column,
    Where,
    are_spelt_as_codes,
    decimal_mark,
    gap_words_note,
    is_gap,
    is_missing,
    numbers_if_mostly,
    numbers_of,
    parse_column,
)
from seedbed.data.readers.targets import as_text
from seedbed.errors import InputError, closest_name

Spec = dict[str, Any]  # how a column was encoded, JSON-like
ROW_NUMBER = re.compile(r"unnamed: \d+|index|row|(row|line)[_ ]?(id|no|nr|number)|id|no|nr", re.IGNORECASE)
IDENTIFIER = re.compile(r"(.*[ _.\-])?(id|uid|uuid|guid|key|nr|no|ssn|mrn)|.*[a-z](ID|Id|No|Nr)", re.IGNORECASE)
NEAR_UNIQUE = 0.95  # share of different values from which whole numbers under such a name are ids
FEWEST_IDS = 10  # rows; fewer cannot be told from numbers


class Goal(NamedTuple):
    """What is to be predicted, to tell codes from numbers by."""

    target: Floats  # [M]
    owners: npt.NDArray[np.int64]  # [M] numbers of clients


class Features(NamedTuple):
    x: npt.NDArray[np.float32]  # [M, D]
    columns: list[Spec]
    notes: tuple[str, ...]


def fit_features(
    table: Mapping[str, Column],
    where: Where,
    text: Sequence[str] = (),
    owners: Column | None = None,
    decimal: str | None = None,
    goal: Goal | None = None,
    number: Sequence[str] = (),
) -> Features:
    """Encode the feature columns of a whole table.

    Args:
        table: columns by name.
        where: the place of a row in its file, for messages.
        text: columns whose numbers are names (codes), to be read as texts.
        owners: [M] whose each row is, for numbers to be standardised by each client's own; None: by the table's.
        decimal: the decimal mark; None: as most numbers of each column have it.
        goal: what is to be predicted; None: whole numbers are numbers.
        number: columns whose whole numbers are numbers, whatever the goal says.
    Raises:
        InputError: text or infinity in a column of numbers; nothing left to learn from.
    """
    specs: list[Spec] = []
    notes: list[str] = []
    decimal = decimal or decimal_mark(table.values())
    for name, values in table.items():
        asked = "words" if name in text else "numbers" if name in number else None
        found, told = _fit_column(name, values, where, asked, owners is not None, decimal, goal)
        specs += found
        notes += told
    if not specs:
        raise InputError(f"no feature column is left of {', '.join(table) or 'none'}: nothing to learn from")
    if owners is None and any(spec["kind"] == "numeric" for spec in specs):
        notes.append(
            "numeric columns standardised with means and standard deviations of the whole table; "
            "in a real federation each client does its own, as standardise=own does here"
        )
    return Features(_apply(table, specs, where, owners), specs, tuple(notes))


def fit_like(
    table: Mapping[str, Column], columns: Sequence[Spec], where: Where, owners: Column | None = None
) -> npt.NDArray[np.float32]:
    """New rows [M, D] in the same columns. Raises InputError when one is missing.

    Args:
        owners: [M] whose each row is; None: all are one client's.
    """
    for column in columns:
        if column["name"] not in table:
            raise InputError(f"no column {column['name']!r}: {closest_name(column['name'], table)}")
    return _apply(table, columns, where, owners)


def _fit_column(
    name: str, values: Column, where: Where, asked: str | None, own: bool, decimal: str | None, goal: Goal | None
) -> tuple[list[Spec], list[str]]:
    """
    Args:
        asked: `words` or `numbers`, where the user said what the column holds.
    """
    parsed = parse_column(values, decimal)
    if np.isnan(parsed.numbers).all() and is_gap(values).all():
        return [], [f"column {name!r} is empty: left out"]
    if asked == "words":
        return _fit_texts(name, values, keep=True)
    if asked is None and are_spelt_as_codes(values):
        specs, notes = _fit_texts(name, values)
        return specs, [f"column {name!r} is spelt as codes are: read as words; number={name} keeps numbers", *notes]
    times = _fit_times(name, values, where) if parsed.bad.any() or may_be_dates(values) else None
    if times is not None:
        return times
    numbers = numbers_if_mostly(name, values, where, decimal=decimal)
    if numbers is None:
        return _fit_texts(name, values)
    if asked is None and _counts_rows(name, numbers):
        return [], [f"column {name!r} numbers the rows: left out; number={name} or text={name} keeps it"]
    if asked is None and _are_ids(name, numbers):
        told = f"column {name!r} holds ids, {len(np.unique(numbers))} in {len(numbers)} rows"
        return [], [f"{told}: left out; number={name} or text={name} keeps it"]
    if asked is None and goal is not None and not np.isnan(numbers).any() and are_codes(numbers, *goal):
        specs, notes = _fit_texts(name, values)
        return specs, [f"column {name!r} holds codes: read as words; number={name} keeps numbers", *notes]
    return _fit_numbers(name, numbers, own, decimal, parsed.notation)


def _counts_rows(name: str, numbers: Floats) -> bool:
    """Whether a column has a usual name of a row's number, and as many consecutive whole numbers as there are rows."""
    steps = np.diff(np.sort(numbers)) if len(numbers) > 1 else np.zeros(1)
    return bool(ROW_NUMBER.fullmatch(name.strip())) and bool((steps == 1).all())


def _are_ids(name: str, numbers: Floats) -> bool:
    """Whether a column has the name of an identifier, and whole numbers of which nearly all differ."""
    if len(numbers) < FEWEST_IDS or not IDENTIFIER.fullmatch(name.strip()):
        return False
    present = numbers[~np.isnan(numbers)]
    return bool((present == np.rint(present)).all()) and len(np.unique(present)) >= NEAR_UNIQUE * len(present)


def _fit_numbers(
    name: str, numbers: Floats, own: bool, decimal: str | None, notation: Notation
) -> tuple[list[Spec], list[str]]:
    gone = np.isnan(numbers)
    plain = str(notation) == "plain"
    mark = {"decimal": decimal or notation.decimal} if decimal or not plain else {}
    mark |= {} if plain else {"unit": notation.unit}
    if own:
        return [{"name": name, "kind": "numeric", "own": True, "missing": bool(gone.any()), **mark}], []
    spec = {"name": name, "kind": "numeric", **fit_numeric(numbers), "missing": bool(gone.any()), **mark}
    notes = []
    if gone.any():
        median = float(np.median(numbers[~gone]))
        notes.append(f"column {name!r}: {int(gone.sum())} missing values filled by the median {median:g} and marked")
    if not plain:
        notes.append(f"column {name!r} read as numbers: {notation}")
    if spec["bend"]:
        notes.append(f"column {name!r} has a long tail: {said(spec)}")
    if is_constant(numbers):
        notes.append(f"column {name!r} is constant ({float(numbers[~gone][0]):g})")
    return [spec], notes


def _fit_times(name: str, values: Column, where: Where) -> tuple[list[Spec], list[str]] | None:
    """Features of points in time; None: the column has other values."""
    if values.dtype.kind in "fiub":
        return None
    dates = parse_dates(values.tolist())
    if dates is None:
        _refuse_odd_dates(name, values, where)
        return None
    if dates.ambiguous:
        raise InputError(
            f"column {name!r} has {next(value for value in values if value is not None)!r}: day and month may be "
            f"either way round in every row; write dates as 2020-12-31, or leave the column out with ignore={name}"
        )
    parts = {part: numbers for part, numbers in calendar_features(dates.seconds).items() if not is_constant(numbers)}
    if dates.form in TIMES_OF_DAY:
        parts = {part: numbers for part, numbers in parts.items() if part.startswith("hour")}
    fitted = [{"part": part, **fit_numeric(numbers)} for part, numbers in parts.items()]
    gone = bool(np.isnan(dates.seconds).any())
    if not fitted:
        return [], [f"column {name!r} is one point in time: left out"]
    spec = {"name": name, "kind": "time", "form": dates.form, "parts": fitted, "missing": gone}
    return [spec], [f"column {name!r} read as dates ({dates.form}): {', '.join(parts)}"]


def _refuse_odd_dates(name: str, values: Column, where: Where) -> None:
    """A column of dates one of which cannot be read."""
    most = form_of_most(values.tolist())
    if most is not None:
        form, row = most
        raise InputError(
            f"column {name!r} has {values[row]!r} in {where(row)}, but it is a column of dates ({form}): correct it, "
            f"leave it empty if it is missing, or read the column as text with text={name}"
        )


def _fit_texts(name: str, values: Column, *, keep: bool = False) -> tuple[list[Spec], list[str]]:
    """
    Args:
        keep: read the column as words even if it names its rows.
    """
    truth, notes = are_mixed_truths(values), list(gap_words_note(f"column {name!r}", values))
    values, gone = as_truth(values) if truth else values, is_missing(values)
    counts = count_levels(values)
    kept = fit_levels(counts, len(values), keep=keep)
    if kept is None:
        told = f"column {name!r} has {len(counts)} different texts in {len(values)} rows, as names have"
        return [], [f"{told}: left out; text={name} keeps it"]
    if truth:
        notes.append(f"column {name!r} is true or false, in several spellings: read as one")
    if len(kept) < len(counts):
        notes.append(f"column {name!r}: the {len(kept)} most frequent of {len(counts)} texts kept, the rest 'other'")
    if gone.any():
        notes.append(f"column {name!r}: {int(gone.sum())} missing values made a level 'missing'")
    spec = {"name": name, "kind": "text", "levels": kept, "other": True, "missing": bool(gone.any())}
    return [{**spec, **({"truth": True} if truth else {})}], notes


def _apply(
    table: Mapping[str, Column], specs: Sequence[Spec], where: Where, owners: Column | None
) -> npt.NDArray[np.float32]:
    parts = [_apply_column(table[spec["name"]], spec, where, owners) for spec in specs]
    return np.concatenate(parts, axis=1, dtype=np.float32)


def _apply_column(values: Column, spec: Spec, where: Where, owners: Column | None) -> npt.NDArray[Any]:
    if spec["kind"] == "text":
        values = as_truth(values) if spec.get("truth") else values
        gone = is_missing(values)
        return level_features([None if g else as_text(v) for v, g in zip(values, gone, strict=True)], spec)
    if spec["kind"] == "time":
        return _apply_times(values, spec, where)
    numbers = numbers_of(spec["name"], values, where, decimal=spec.get("decimal"), unit=spec.get("unit"))
    if spec.get("own"):
        scaled = np.empty_like(numbers)
        for mine in _rows_by_owner(owners, len(numbers)):
            scaled[mine] = _standardised(numbers[mine])
    elif "median" in spec:  # of a run before columns were bent and clipped
        scaled = (np.where(np.isnan(numbers), spec["median"], numbers) - spec["mean"]) / spec["std"]
    else:
        scaled = apply_numeric(numbers, spec)
    return np.stack([scaled, np.isnan(numbers)], 1) if spec["missing"] else scaled[:, None]


def fixed_scale(values: Column, spec: Mapping[str, Any], where: Where) -> Spec:
    """The spec of a column that is standardised by one client's own numbers, once these [M] are known; else itself."""
    if not spec.get("own"):
        return dict(spec)
    numbers = numbers_of(spec["name"], values, where, decimal=spec.get("decimal"))
    gone = np.isnan(numbers)
    median = 0.0 if gone.all() else float(np.median(numbers[~gone]))
    mean, std = _mean_and_deviation(np.where(gone, median, numbers))
    return {**spec, "own": False, "median": median, "mean": mean, "std": std}


def _apply_times(values: Column, spec: Spec, where: Where) -> npt.NDArray[Any]:
    dates = parse_dates(values.tolist())
    gone = is_gap(values)
    if dates is None and not gone.all():
        alone = (i for i in np.flatnonzero(~gone) if parse_dates([values[i]]) is None)
        bad = int(next(alone, np.flatnonzero(~gone)[0]))
        raise InputError(
            f"column {spec['name']!r} has {values[bad]!r} in {where(bad)}, but it is a column of dates ({spec['form']})"
        )
    seconds = np.full(len(values), np.nan) if dates is None else dates.seconds
    features = calendar_features(seconds)
    parts = [apply_numeric(features[part["part"]], part) for part in spec["parts"]]
    return np.stack([*parts, np.isnan(seconds)] if spec["missing"] else parts, 1)


def _rows_by_owner(owners: Column | None, count: int) -> list[npt.NDArray[np.int64]]:
    """Each client's rows, in the order that they are in."""
    if owners is None:
        return [np.arange(count)]
    _, number = np.unique(owners.astype(str), return_inverse=True)
    return np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])


def _standardised(numbers: Floats) -> Floats:
    """One client's numbers by their own mean and deviation, missing ones filled by the median; a column that is empty
    or constant here is 0."""
    gone = np.isnan(numbers)
    filled = np.where(gone, 0.0 if gone.all() else np.median(numbers[~gone]), numbers)
    mean, std = _mean_and_deviation(filled)
    scaled: Floats = (filled - mean) / std
    return scaled


def _mean_and_deviation(filled: Floats) -> tuple[float, float]:
    mean, std = float(filled.mean()), float(filled.std())
    return mean, 1.0 if std <= 1e-12 * abs(mean) else std
