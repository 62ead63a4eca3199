"""The values of a table's column: numbers, gaps and words, with their place in the file. Shapes: M rows."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seedbed.data.encoding.number_text import SHARES, Parsed, is_gap_word, parse_numbers
from seedbed.data.encoding.numeric import Floats
from seedbed.errors import InputError

Column = npt.NDArray[Any]  # [M] float64 with NaN for missing, or texts with None for missing
Where = Callable[[int], str]  # row number -> where in the file, for people
MOSTLY_NUMBERS = 0.9
SHOWN_WORDS = 3
BARE_EXPONENT = re.compile(r"\d+[eE]\d+")
ONE_POINT = re.compile(r"[+-]?\d+\.\d+")
ONE_GROUP = re.compile(r"[+-]?[1-9]\d{0,2}\.\d{3}")


def numbers_of(
    name: str,
    values: Column,
    where: Where,
    otherwise: str = "read the column as text with text={name}",
    decimal: str | None = None,
    unit: str | None = None,
) -> Floats:
    """A column as numbers, NaN where missing; text and infinity are refused with their place.

    Args:
        otherwise: the way out for a column that holds texts.
        unit: the sign beside each number, such as %; None: whichever there is.
    """
    parsed = parse_column(values, decimal)
    found = parsed.notation.unit
    unlike = unit is not None and found != unit and ((found and unit) or {found, unit} & {*SHARES})
    if unlike and not parsed.bad.any() and (~is_gap(values)).any():
        raise InputError(
            f"column {name!r} has the unit {found or 'none'!r} in {where(0)}, but {unit or 'none'!r} in "
            "the data that the model was trained on: write both alike"
        )
    if parsed.partly:
        row = parsed.partly[0]
        raise InputError(
            f"column {name!r} has {values[row]!r} in {where(row)} without the sign {parsed.notation.unit} that others "
            "have, so that it may mean a hundred times more: write all alike"
        )
    if parsed.bad.any():
        row = int(np.flatnonzero(parsed.bad)[0])
        raise InputError(
            f"column {name!r} has {values[row]!r} in {where(row)}, but it is a column of numbers: "
            f"correct it, leave it empty if it is missing, or {otherwise.format(name=name)}"
        )
    if np.isinf(parsed.numbers).any():
        row = int(np.flatnonzero(np.isinf(parsed.numbers))[0])
        raise InputError(
            f"column {name!r} has an infinite value in {where(row)}: correct it, or leave it empty if it is missing"
        )
    if parsed.ambiguous:
        row = int(np.flatnonzero([isinstance(value, str) and "," in value for value in values])[0])
        raise InputError(
            f"column {name!r} has {values[row]!r} in {where(row)}, which may be a thousand and more or one and a "
            "little: say decimal=. or decimal=, (on the command line: --set reader.decimal=.)"
        )
    return parsed.numbers


def is_missing(values: Column) -> npt.NDArray[np.bool_]:
    """[M] which values are missing."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    return np.array([value is None for value in values], bool)


def is_gap(values: Column) -> npt.NDArray[np.bool_]:
    """[M] which values are missing in a column of numbers or dates: the words for a gap too."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    return np.array([value is None or is_gap_word(value) for value in values], bool)


def gap_words_note(what: str, values: Column) -> tuple[str, ...]:
    """A note on words of a column that would mean a gap in a column of numbers."""
    if values.dtype.kind == "f":
        return ()
    words = sorted({value for value in values if value is not None and is_gap_word(value)})
    if not words:
        return ()
    count = sum(value in words for value in values)
    shown = ",".join(words[:SHOWN_WORDS])
    return (f"{what}: {shown!r} is read as a word in {count} rows; missing=[{shown}] makes it a gap",)


def are_spelt_as_codes(values: Column) -> bool:
    """Whether texts that could be whole numbers are codes by their spelling: 007, or 1E5 throughout."""
    if values.dtype.kind == "f":
        return False
    present = [value for value in values if value is not None]
    zeros = any(value[0] == "0" and len(value) > 1 and value.isdigit() for value in present)
    words = [] if not zeros and "e" not in "".join(present).lower() else [v for v in present if not is_gap_word(v)]
    return bool(words) and (
        all(v.isdigit() for v in words) if zeros else all(BARE_EXPONENT.fullmatch(v) for v in words)
    )


def refuse_doubtful_points(columns: Mapping[str, Column], where: Where) -> None:
    """Columns that have only values such as 1.234, in a file in which no other number has a decimal point.

    Raises:
        InputError: there is such a column. Where semicolons separate, a comma may be the decimal mark.
    """
    doubtful: tuple[str, int] | None = None
    for name, values in columns.items():
        if values.dtype.kind == "f":
            continue
        dotted = [i for i, value in enumerate(values) if value is not None and ONE_POINT.fullmatch(value)]
        if any(not ONE_GROUP.fullmatch(values[i]) for i in dotted):
            return
        doubtful = doubtful or ((name, dotted[0]) if dotted else None)
    if doubtful is not None:
        name, row = doubtful
        raise InputError(
            f"column {name!r} has {columns[name][row]!r} in {where(row)}, in a file separated by semicolons: it may be "
            "a thousand and more or one and a little: say decimal=. or decimal=, (on the command line: --set "
            "reader.decimal=.)"
        )


def numbers_if_mostly(
    name: str,
    values: Column,
    where: Where,
    otherwise: str = "read the column as text with text={name}",
    decimal: str | None = None,
) -> Floats | None:
    """The column as numbers; None for a column of texts: more than a tenth of its values are no number."""
    bad = parse_column(values, decimal).bad
    if bad.any() and bad.sum() > (1 - MOSTLY_NUMBERS) * (~is_gap(values)).sum():
        return None
    return numbers_of(name, values, where, otherwise, decimal)


def decimal_mark(columns: Iterator[Column] | Sequence[Column] | Any) -> str | None:
    """The comma, where some column can be read with no other mark; None: each column by itself."""
    for values in columns:
        parsed = parse_column(values, None)
        if parsed.notation.decimal == "," and not parsed.bad.any():
            return ","
    return None


def parse_column(values: Column, decimal: str | None) -> Parsed:
    """The column read as numbers."""
    if values.dtype.kind in "fiub":
        return Parsed(values.astype(np.float64), np.zeros(len(values), bool), parse_numbers(()).notation, False)
    return parse_numbers([None if value is None else str(value) for value in values], decimal)
