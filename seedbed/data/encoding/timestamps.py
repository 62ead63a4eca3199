"""Dates and times as people write them, and the features that follow from them. Shapes: M values."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]  # [M] since 1970 in UTC, NaN where missing
DAY = 86_400.0
DATE_FORMATS = (  # day first and month first are told apart by numbers above 12
    "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d",
    "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y",
)  # fmt: skip
TIMES = ("", " %H:%M", " %H:%M:%S")
SWAPPED = {"%d/%m/%Y": "%m/%d/%Y", "%d-%m-%Y": "%m-%d-%Y"}


class Dates(NamedTuple):
    """A column read as points in time."""

    seconds: Seconds
    form: str  # ISO 8601, or a format of strptime
    ambiguous: bool  # day and month could be the other way round in every value


def parse_dates(values: Sequence[str | None]) -> Dates | None:
    """The column as points in time; None: some value is no date, or none is there.

    >>> parse_dates(["2013-06-19T23:00:00Z", None]).seconds.tolist()[0]
    1371682800.0
    >>> parse_dates(["31/12/2020", "01/02/2021"]).form
    '%d/%m/%Y'
    >>> parse_dates(["12", "13"]) is None
    True
    """
    distinct = sorted({value for value in values if value is not None})
    if not distinct or not _may_be_dates(distinct[0]):
        return None
    for form, read in _readers():
        found = _all_read(distinct, read)
        if found is None:
            continue
        other = next((swapped + form[len(day) :] for day, swapped in SWAPPED.items() if form.startswith(day)), None)
        ambiguous = other is not None and _all_read(distinct, _strptime(other)) is not None
        return Dates(np.array([np.nan if value is None else found[value] for value in values]), form, ambiguous)
    return None


def _may_be_dates(text: str) -> bool:
    return 6 <= len(text) <= 40 and any(mark in text for mark in "-/.: ") and any(letter.isdigit() for letter in text)


def _readers() -> Iterator[tuple[str, Callable[[str], datetime]]]:
    yield "ISO 8601", _iso
    for day in DATE_FORMATS:
        for time in TIMES:
            yield day + time, _strptime(day + time)


def _strptime(form: str) -> Callable[[str], datetime]:
    return lambda text: datetime.strptime(text, form)


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
