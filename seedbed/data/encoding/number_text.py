"""Numbers as people write them: decimal commas, thousands separators, per cent, currency. Shapes: M values."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

ENDS_IN_ZERO = 0.3  # share of numbers that end in 0 above which they are round thousands, no decimals
_EXPONENT = r"(?:[eE][+-]?\d+)?"
_PLAIN = re.compile(rf"[+-]?(?:\d+\.?\d*|\.\d+){_EXPONENT}|[+-]?inf(?:inity)?", re.IGNORECASE)
_COMMA = re.compile(rf"[+-]?(?:\d+,\d*|,\d+|\d+){_EXPONENT}")
_GROUPS = {  # thousands separator -> whole numbers in groups of three, and a decimal mark that differs from it
    ",": re.compile(r"[+-]?\d{1,3}(?:,\d{3})*(?:\.\d+)?"),
    ".": re.compile(r"[+-]?\d{1,3}(?:\.\d{3})*(?:,\d+)?"),
    " ": re.compile(r"[+-]?\d{1,3}(?: \d{3})*(?:[.,]\d+)?"),
    "'": re.compile(r"[+-]?\d{1,3}(?:'\d{3})*(?:[.,]\d+)?"),
}
_ONE_GROUP = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}")  # 1,234: one thousand and more, or one and a little
_SIGNS = re.compile(r"^(?:[$€£¥₹]|USD|EUR|GBP|CHF)?\s*(.*?)\s*(?:[$€£¥₹%‰]|USD|EUR|GBP|CHF)?$")
_SPACES = str.maketrans("\u00a0\u202f\u2009\u2019\u2212", "   '-")  # no-break and thin spaces, ’ and −


class Notation(NamedTuple):
    """How a column writes its numbers."""

    decimal: str = "."
    thousands: str = ""
    unit: str = ""  # a sign beside each number: %, $, …

    def __str__(self) -> str:
        marks = [f"decimal mark {self.decimal!r}"] if self.decimal != "." else []
        marks += [f"thousands separator {self.thousands!r}"] if self.thousands else []
        marks += [f"unit {self.unit}"] if self.unit else []
        return ", ".join(marks) or "plain"


class Parsed(NamedTuple):
    """A column read as numbers."""

    numbers: npt.NDArray[np.float64]  # [M], NaN where missing or no number
    bad: npt.NDArray[np.bool_]  # [M] which values are no number
    notation: Notation
    ambiguous: bool  # 1,234 throughout: the two readings differ by a factor of 1,000


def parse_numbers(values: Sequence[str | None], decimal: str | None = None) -> Parsed:
    """The notation that reads most of the values, and the numbers under it.

    Args:
        values: [M] texts; None: missing.
        decimal: the decimal mark, where the user names it.

    >>> parse_numbers(["1.234,5", "7", None]).numbers.tolist()[:2]
    [1234.5, 7.0]
    >>> parse_numbers(["12 %", "3.5 %"]).notation
    Notation(decimal='.', thousands='', unit='%')
    >>> parse_numbers(["1_1", "11"]).bad.tolist()
    [True, False]
    """
    distinct = sorted({value for value in values if value is not None})
    texts, unit = _without_unit(distinct)
    best, most = Notation(unit=unit), -1
    for notation in _notations(decimal, unit):
        found = sum(_reads(text, notation) for text in texts)
        if found > most:
            best, most = notation, found
    read = {
        value: float(_as_plain(text, best)) if _reads(text, best) else None
        for value, text in zip(distinct, texts, strict=True)
    }
    found_numbers = [math.nan if value is None else read[value] for value in values]
    bad = np.array([number is None for number in found_numbers], bool)
    numbers = np.array([math.nan if number is None else number for number in found_numbers], np.float64)
    return Parsed(numbers, bad, best, decimal is None and _is_ambiguous(texts, best))


def _notations(decimal: str | None, unit: str) -> Iterator[Notation]:
    """In order of preference: where two read as many values, the first is taken."""
    for mark, separator in (
        (".", ""),
        (".", ","),
        (",", ""),
        (",", "."),
        (".", " "),
        (".", "'"),
        (",", " "),
        (",", "'"),
    ):
        if decimal in (None, mark):
            yield Notation(mark, separator, unit)


def _reads(text: str, notation: Notation) -> bool:
    if not notation.thousands:
        return (_PLAIN if notation.decimal == "." else _COMMA).fullmatch(text) is not None
    other = "," if notation.decimal == "." else "."
    if notation.thousands in " '" and other in text:
        return False
    plain = _PLAIN if notation.decimal == "." else _COMMA
    return plain.fullmatch(text) is not None or _GROUPS[notation.thousands].fullmatch(text) is not None


def _as_plain(text: str, notation: Notation) -> str:
    if notation.thousands:
        text = text.replace(notation.thousands, "")
    return text.replace(",", ".") if notation.decimal == "," else text


def _without_unit(values: Sequence[str]) -> tuple[list[str], str]:
    """The texts without a currency or per cent sign, if all that have a sign have the same one."""
    texts = [value.strip().translate(_SPACES) for value in values]
    inner = [match[1] if (match := _SIGNS.match(text)) else text for text in texts]
    signs = {text.replace(kept, "", 1).strip() for text, kept in zip(texts, inner, strict=True) if kept != text}
    return (inner, signs.pop()) if len(signs) == 1 else (texts, "")


def _is_ambiguous(texts: Sequence[str], notation: Notation) -> bool:
    """Whether all values with a mark look like 1,234, so that the mark may be either.

    It is a thousands separator where a whole number of four digits would have one, or where many end in 0: decimals
    of a fixed length do so once in ten.
    """
    marked = [text for text in texts if "," in text]
    if (
        not marked
        or notation.decimal == ","
        or any("." in text for text in texts)
        or not all(_ONE_GROUP.fullmatch(text) for text in marked)
    ):
        return False
    return sum(text.endswith("0") for text in marked) <= ENDS_IN_ZERO * len(marked)
