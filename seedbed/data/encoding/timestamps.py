"""Dates and times as people write them, and the features that follow from them. Shapes: M values."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from seedbed.data.encoding.number_text import is_gap_word

Seconds = npt.NDArray[np.float64]  # [M] since 1970 in UTC, NaN where missing
DAY = 86_400.0
DATE_FORMATS = (
    "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d",
    "%d/%m/%y", "%m/%d/%y", "%y/%m/%d", "%d.%m.%y",
    "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%d-%b-%Y", "%d-%b-%y",
)  # fmt: skip
TIMES = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
TIMES_OF_DAY = ("%H:%M", "%H:%M:%S", "%I:%M %p")
CLOCK = re.compile(r"\d{1,2}:\d\d(?::\d\d)?(?: [AP]M)?", re.IGNORECASE)
MOST, FEWEST, SAMPLE = 0.9, 10, 20  # share of a column that dates must be, of so many rows; judged by the first ones
NUMBER_LIKE = re.compile(r"[+-]?\d*[.,]?\d*(?:e[+-]?\d+)?", re.IGNORECASE)
EIGHT_DIGITS = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")


class Dates(NamedTuple):
    """A column read as points in time."""

    seconds: Seconds
    form: str  # ISO 8601, or a format of strptime
    ambiguous: bool  # day and month could be the other way round in every value


def may_be_dates(values: npt.NDArray[Any]) -> bool:
    """Whether the first text of a column may be a date: a quick look at a column that can be read as numbers."""
    first = next((v for v in values if isinstance(v, str) and not is_gap_word(v)), "")
    return _may_be_dates(first)


def parse_dates(values: Sequence[str | None]) -> Dates | None:
    """The column as points in time; None: some value is no date, or none is there.

    >>> parse_dates(["2013-06-19T23:00:00Z", None]).seconds.tolist()[0]
    1371682800.0
    >>> parse_dates(["31/12/2020", "01/02/2021"]).form
    '%d/%m/%Y'
    >>> parse_dates(["12", "13"]) is None
    True
    """
    values = [None if value is None or is_gap_word(value) else value for value in values]
    distinct = sorted({value for value in values if value is not None})
    if not distinct or not _may_be_dates(distinct[0]):
        return None
    readings = [(form, found) for form, read in _readers() if (found := _all_read(distinct, read)) is not None]
    if not readings:
        return None
    form, found = readings[0]
    ambiguous = any(other != found for _, other in readings[1:])
    return Dates(np.array([np.nan if value is None else found[value] for value in values]), form, ambiguous)


def form_of_most(values: Sequence[str | None]) -> tuple[str, int] | None:
    """(form, row of the first that is none) of a column nearly all of whose values are dates of one form, or None."""
    rows = [i for i, value in enumerate(values) if value is not None and not is_gap_word(value)]
    texts = [values[i] or "" for i in rows]
    likely = [text for text in texts[:SAMPLE] if _may_be_dates(text)]
    if len(rows) < FEWEST or len(likely) < MOST * min(SAMPLE, len(rows)):
        return None
    for form, read in _readers():
        if sum(_all_read([text], read) is not None for text in likely) < MOST * len(likely):
            continue
        bad = [i for i, text in zip(rows, texts, strict=True) if _all_read([text], read) is None]
        if 0 < len(bad) <= (1 - MOST) * len(rows):
            return form, bad[0]
    return None


def _may_be_dates(text: str) -> bool:
    if NUMBER_LIKE.fullmatch(text):
        return EIGHT_DIGITS.fullmatch(text) is not None
    if CLOCK.fullmatch(text):
        return True
    return 6 <= len(text) <= 40 and any(mark in text for mark in "-/.: ") and any(letter.isdigit() for letter in text)


def _readers() -> Iterator[tuple[str, Callable[[str], datetime]]]:
    yield "ISO 8601", _iso
    yield "%Y%m%d", _eight_digits
    for time in TIMES_OF_DAY:
        yield time, _strptime(time)
    for day in DATE_FORMATS:
        for time in TIMES:
            yield day + time, _strptime(day + time)


def _strptime(form: str) -> Callable[[str], datetime]:
    def read(text: str) -> datetime:
        if form in TIMES_OF_DAY and not CLOCK.fullmatch(text):
            raise ValueError(text)
        return datetime.strptime(text, form)

    return read


def _eight_digits(text: str) -> datetime:
    if not EIGHT_DIGITS.fullmatch(text):
        raise ValueError(text)
    return datetime.strptime(text, "%Y%m%d")


def _iso(text: str) -> datetime:
    if len(text) < 10 or text[4:5] != "-":
        raise ValueError(text)
    return datetime.fromisoformat(text)


def _all_read(texts: Sequence[str], read: Callable[[str], datetime]) -> dict[str, float] | None:
    """Seconds by text; None: one of them is no such date."""
    found = {}
    for text in texts:
        try:
            moment = read(text.strip())
        except ValueError:
            return None
        found[text] = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return found


def calendar_features(seconds: Seconds) -> Mapping[str, Seconds]:
    """Numbers by name: days since 1970, and sine and cosine of the hour, the day of the week and the time of the year.

    Missing points in time give NaN in every one.
    """
    days = seconds / DAY
    phases = {"hour": days, "weekday": (days + 3) / 7, "season": days / 365.2425}  # 1970 began on a Thursday
    waves = {
        f"{name} ({wave.__name__})": wave(2 * np.pi * (phase % 1.0))
        for name, phase in phases.items()
        for wave in (np.sin, np.cos)
    }
    return {"days": days, **waves}
