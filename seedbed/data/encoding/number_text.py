"""Numbers as people write them: decimal commas, thousands separators, per cent, currency. Shapes: M values."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

GAP_WORDS = frozenset(  # what people write where a number or a date is missing, in lower case
    ("?", "na", "n/a", "n.a.", "nan", "null", "none", "nil", "<na>", "#n/a", "-", "--", ".", "missing", "unknown")
)
PLAIN_SIGNS = frozenset("0123456789+-.eE")
SHARES = ("%", "‰")  # units that change a number's size
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
_CURRENCY = r"[$€£¥₹₽₩₺₴₪฿₫]|R\$|Fr\.|kr|zł|Kč|USD|EUR|GBP|CHF|CAD|AUD|JPY|CNY|INR|SEK|NOK|DKK|PLN|CZK|BRL"
_SIGNS = re.compile(
    rf"([+-]?)(?:(?:{_CURRENCY})\s*)?(.*?)(?:\s*(?:{_CURRENCY}|[%‰]|°[CF]?)|\s+[^\W\d_]{{1,6}}[²³]?)?", re.DOTALL
)
_BRACKETS = re.compile(r"\((.*\d.*)\)", re.DOTALL)  # negative, in accounts
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
    partly: tuple[int, ...] = ()  # rows without the sign (per cent) that others have


def parse_numbers(values: Sequence[str | None], decimal: str | None = None) -> Parsed:
    """The notation that reads most of the values, and the numbers under it.

    Args:
        values: [M] texts; None: missing, as is each of `GAP_WORDS`.
        decimal: the decimal mark, where the user names it.

    >>> parse_numbers(["1.234,5", "7", None]).numbers.tolist()[:2]
    [1234.5, 7.0]
    >>> parse_numbers(["12 %", "3.5 %"]).notation
    Notation(decimal='.', thousands='', unit='%')
    >>> parse_numbers(["1_1", "11"]).bad.tolist()
    [True, False]
    """
    plain = _parse_plain(values, decimal)
    if plain is not None:
        return plain
    values = [None if value is None or is_gap_word(value) else value for value in values]
    plain = _parse_plain(values, decimal)
    if plain is not None:
        return plain
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
    ambiguous = decimal is None and _is_ambiguous(texts, best)
    return Parsed(numbers, bad, best, ambiguous, _without_share(values, unit, numbers))


def _without_share(values: Sequence[str | None], unit: str, numbers: npt.NDArray[np.float64]) -> tuple[int, ...]:
    """Rows whose numbers lack the sign for per cent that others have."""
    if unit not in SHARES:
        return ()
    return tuple(
        row for row, value in enumerate(values) if value is not None and unit not in value and abs(numbers[row]) > 0
    )


def is_gap_word(text: str) -> bool:
    """Whether a text means a gap in a column of numbers or dates. In a column of words it is a word.

    >>> is_gap_word("NA"), is_gap_word("0")
    (True, False)
    """
    return text.strip().lower() in GAP_WORDS


def _parse_plain(values: Sequence[str | None], decimal: str | None) -> Parsed | None:
    """The numbers of a column that has only decimal marks and exponents, fast; None: it has other signs."""
    present = "".join([value for value in values if value is not None])
    if decimal == ",":
        if "." in present:
            return None
        values = [None if value is None else value.replace(",", ".") for value in values]
    if not PLAIN_SIGNS.issuperset(present if decimal != "," else present.replace(",", ".")):
        return None
    try:
        numbers = [math.nan if value is None else float(value) for value in values]
    except ValueError:
        return None
    return Parsed(np.array(numbers, np.float64), np.zeros(len(values), bool), Notation(decimal or "."), False)


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
    """The texts without a currency, per cent sign or unit, if all that have one have the same one."""
    texts = [_BRACKETS.sub(r"-\1", value.strip().translate(_SPACES)) for value in values]
    inner, signs = [], set()
    for text in texts:
        match = _SIGNS.fullmatch(text)
        inner.append(match[1] + match[2] if match else text)
        signs.add((text[: match.start(2)][len(match[1]) :] + text[match.end(2) :]).strip() if match else "")
    signs.discard("")
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
