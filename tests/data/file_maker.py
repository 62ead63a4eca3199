"""Tables whose values are known, written to CSV files in the many ways in which people and programs write them.

`make_file(number, folder)` draws a table and a way to write it by its number. The truth is the table before it was
written. A plain twin of the file (UTF-8, commas, decimal points, ISO dates, empty gaps) says how it is to be encoded.
"""

import bz2
import csv
import gzip
import io
import lzma
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "latin-1")
SEPARATORS = (",", ";", "\t", "|")
LINE_ENDS = ("\n", "\r\n", "\r")
MARKS = ((".", ","), (".", " "), (".", "'"), (",", "."), (",", " "), (",", "\u00a0"), (".", "\u00a0"))
GAPS = ("", "NA", "N/A", "nan", "null", "?", "-", "None", "n.a.", ".")
DATES = (
    "%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%SZ", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y",
    "%Y/%m/%d", "%d %b %Y", "%Y%m%d", "%d.%m.%Y %H:%M", "%m/%d/%Y %I:%M %p", "%b %d, %Y", "%d-%b-%Y",
)  # fmt: skip
TRUTHS = (("yes", "no"), ("True", "False"), ("ja", "nein"), ("Y", "N"), ("wahr", "falsch"))
MIXED = (("True", "TRUE", "true", "yes"), ("False", "FALSE", "no", "No"))
CLIENTS = (
    ("a", "b", "c", "d"),
    ("North", "South", "NA", "West"),
    ("Köln", "Zürich", "Málaga", "Orléans"),
    ("Ward, A", "Ward; B", 'Ward "C"', "Ward\tD"),
    ("007", "008", "009", "010"),
    ("1_1", "1_2", "2_1", "11"),
    ("None", "null", "ward one", "ward two"),
    ("9007199254740993", "9007199254740992", "9007199254740991", "4"),
)
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}


@dataclass
class MadeFile:
    """A file, its plain twin, and what is true of it."""

    path: Path
    twin: Path
    options: dict[str, Any]  # to read it with
    client: list[str]
    numbers: dict[str, np.ndarray]  # [M] of each column of numbers, NaN where missing
    dates: dict[str, np.ndarray]  # [M] seconds since 1970
    words: dict[str, list[str]]
    classes: bool  # of the target `y`; else it is in `numbers`
    refusals: list[str] = field(default_factory=list)  # words in a message that may refuse it; empty: it must be read
    notes: list[str] = field(default_factory=list)  # words in notes that it must give


class _Writer:
    """One way to write a table."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.encoding, self.separator = self.one(ENCODINGS), self.one(SEPARATORS)
        self.line_end, self.packing = self.one(LINE_ENDS), self.one(tuple(PACKERS))
        plainly = (
            csv.QUOTE_ALL if self.line_end == "\r" else csv.QUOTE_MINIMAL
        )  # the module leaves \n bare in such files
        self.quoting = self.one((csv.QUOTE_ALL, plainly))
        self.decimal, self.thousands = self.one(MARKS)
        self.date, self.above = self.one(DATES), self.one(("", "", "blank", "comment", "sep"))

    def one(self, choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def number(self, text: str, *, grouped: bool = False, unit: str = "") -> str:
        whole, _, part = text.lstrip("-").partition(".")
        if grouped:
            first = len(whole) % 3 or 3
            whole = self.thousands.join([whole[:first], *(whole[i : i + 3] for i in range(first, len(whole), 3))])
        written = ("-" if text.startswith("-") else "") + whole + (self.decimal + part if part else "")
        return {"%": f"{written}%", "€": f"{written} €", "$": f"${written}", "": written}[unit]

    def write(self, path: Path, header: list[str], rows: list[list[str]]) -> None:
        text = io.StringIO(newline="")
        form = {"delimiter": self.separator, "lineterminator": self.line_end, "quoting": self.quoting}
        csv.writer(text, **form).writerows([header, *rows])
        above = {"blank": "", "comment": "# exported by a program", "sep": f"sep={self.separator}"}.get(self.above)
        whole = text.getvalue() if above is None else above + self.line_end + text.getvalue()
        path.write_bytes(PACKERS[self.packing](whole.encode(self.encoding)))


def make_file(number: int, folder: Path) -> MadeFile:
    """File number so and so in a folder."""
    rng = np.random.default_rng([16, number])
    way = _Writer(rng)
    names = way.one([c for c in CLIENTS if way.encoding not in ("latin-1", "cp1252") or c[0].isascii() or number % 2])
    n = int(rng.integers(60, 160))
    client = [names[i % len(names)] for i in range(n)]
    made = MadeFile(
        folder / f"f{number}.csv{way.packing}", folder / f"plain{number}.csv", {"target": "y"}, client, {}, {}, {}, True
    )
    plain: dict[str, list[str]] = {"client": client}
    written: dict[str, list[str]] = {"client": _spelt(client, way)}
    for name, values in _numbers(rng, n).items():
        gap = way.one(GAPS)
        gone = rng.random(n) < (0.06 if number % 3 else 0)
        unit = {"share": "%", "price": way.one(("€", "$")) if way.encoding != "latin-1" else "$"}.get(name, "")
        grouped = name in ("big", "price") and rng.random() < 0.7
        made.numbers[name] = np.array([np.nan if g else float(v) for v, g in zip(values, gone, strict=True)])
        plain[name] = ["" if g else v for v, g in zip(values, gone, strict=True)]
        written[name] = [
            gap if g else way.number(v, grouped=grouped, unit=unit) for v, g in zip(values, gone, strict=True)
        ]
    _add_dates(made, plain, written, way, n)
    _add_words(made, plain, written, way, n)
    _add_target(made, plain, written, way, n)
    if not way.one((0, 0, 1)):
        _shuffle_columns(written, way)
        plain = {name: plain[name] for name in written}
    _write(made, plain, written, way, number)
    return made


def _spelt(client: list[str], way: _Writer) -> list[str]:
    """Names in two forms of Unicode where the encoding has both."""
    if not way.encoding.startswith("utf"):
        return client
    return [unicodedata.normalize("NFD", name) if way.rng.random() < 0.3 else name for name in client]


def _numbers(rng: np.random.Generator, n: int) -> dict[str, list[str]]:
    """Numbers as decimal texts: what is written, and what float() makes of it is true."""
    return {
        "temp": [str(Decimal(int(v)) / 10) for v in rng.integers(340, 420, n)],
        "change": [str(Decimal(int(v)) / 100) for v in rng.integers(-9000, 9000, n)],
        "big": [str(int(v)) for v in rng.integers(1, 9_000_000, n)],
        "share": [str(Decimal(int(v)) / 10) for v in rng.integers(1, 1000, n)],
        "price": [str(Decimal(int(v)) / 100) for v in rng.integers(100, 2_000_000, n)],
        "count": [str(int(v)) for v in rng.poisson(4, n)],
    }


def _add_dates(made: MadeFile, plain: dict[str, Any], written: dict[str, Any], way: _Writer, n: int) -> None:
    start = datetime(2019, 3, 1, tzinfo=UTC)
    minutes = way.rng.integers(0, 500 * 24 * 60, n)
    moments = [start + timedelta(minutes=int(m)) for m in minutes]
    if "%H" not in way.date and "%I" not in way.date:
        moments = [moment.replace(hour=0, minute=0) for moment in moments]
    moments[0] = moments[0].replace(day=27)  # so that day and month can be told apart
    gap, gone = way.one(GAPS), way.rng.random(n) < 0.04
    gone[0] = False
    made.dates["when"] = np.array([np.nan if g else m.timestamp() for m, g in zip(moments, gone, strict=True)])
    plain["when"] = ["" if g else m.strftime("%Y-%m-%dT%H:%M:%S") for m, g in zip(moments, gone, strict=True)]
    written["when"] = [gap if g else m.strftime(way.date) for m, g in zip(moments, gone, strict=True)]


def _add_words(made: MadeFile, plain: dict[str, Any], written: dict[str, Any], way: _Writer, n: int) -> None:
    rng = way.rng
    truth = rng.integers(0, 2, n)
    if way.one((True, False)):
        plain["flag"] = [("true", "false")[t] for t in truth]
        written["flag"] = [way.one(MIXED[t]) for t in truth]
    else:
        pair = way.one(TRUTHS)
        plain["flag"] = written["flag"] = [pair[t] for t in truth]
    words = {
        "grade": ["None", "mild", "severe", "NA"],
        "code": ["1_1", "1_2", "2_1", "11"],
        "note": ["plain", "a, b; c", 'said "no"', "two\nlines", "tab\there", "bar|bar"],
    }
    for name, levels in words.items():
        plain[name] = written[name] = [levels[i] for i in rng.integers(0, len(levels), n)]
    made.words = {name: plain[name] for name in ("grade", "code", "note")}
    if way.one((True, False)):
        ids = [str(100_000 + int(i) * 7) for i in rng.permutation(n)]
        plain["record_id"] = written["record_id"] = ids
        made.notes.append("'record_id' holds ids")


def _add_target(made: MadeFile, plain: dict[str, Any], written: dict[str, Any], way: _Writer, n: int) -> None:
    kind = way.one(("words", "labels", "number", "many labels"))
    rng = way.rng
    if kind == "number":
        values = [str(Decimal(int(v)) / 4) for v in rng.integers(-4000, 900_000, n)]
        made.classes, made.numbers["y"] = False, np.array([float(v) for v in values])
        plain["y"], written["y"] = values, [way.number(v) for v in values]
        return
    count = 26 if kind == "many labels" else 3
    levels = ["None", "ill", "well"] if kind == "words" else [str(i) for i in range(count)]
    drawn = np.concatenate([np.arange(count), rng.integers(0, count, n - count)])
    plain["y"] = written["y"] = [levels[i] for i in rng.permutation(drawn)]
    made.words["y"] = plain["y"]
    if kind == "labels" and way.one((True, False)):
        plain["y_code"] = written["y_code"] = [{"0": "p", "1": "q", "2": "r"}[v] for v in plain["y"]]
        made.notes.append("'y_code' tells the target")


def _shuffle_columns(columns: dict[str, list[str]], way: _Writer) -> None:
    items = list(columns.items())
    columns.clear()
    columns.update([items[i] for i in way.rng.permutation(len(items))])


def _write(made: MadeFile, plain: dict[str, Any], written: dict[str, Any], way: _Writer, number: int) -> None:
    header, titles = list(plain), list(written)
    if number % 11 == 0:
        written["temp again"] = written["temp"]
        titles.append("temp")
        made.refusals.append("column 'temp' more than once")
    if way.encoding in ("cp1252", "latin-1"):
        text = "".join(value for values in written.values() for value in values)
        if not text.isascii():
            if number % 2:
                made.options["encoding"] = way.encoding
            else:
                made.refusals.append("name its encoding")
    way.write(made.path, titles, [list(row) for row in zip(*written.values(), strict=True)])
    with made.twin.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *zip(*plain.values(), strict=True)])
