"""The text of a CSV file -> its header and rows, with the line of the file that each begins in.

Python's own `csv` splits the lines, because it counts lines inside quoted fields and refuses broken quotes. Blank
lines, lines of separators only, comments (`#`) and the line `sep=;` of spreadsheets are skipped. A row that has
another number of fields than the header is refused.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from seedbed.errors import InputError
from seedbed.limits import COLUMNS

Comments = Literal["auto", "skip", "keep"]
SEPARATORS = ",;\t|"
SAMPLE_BYTES, SAMPLE_RECORDS = 2**16, 50  # of the text that the separator is found by
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
SHEET_ERROR = re.compile(r"#(N/A|DIV/0!|VALUE!|REF!|NAME\?|NUM!|NULL!)", re.IGNORECASE)  # no comment
NUMBER = re.compile(r"[+-]?[\d.,]*\d[\d.,]*")
LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass
class Records:
    """What the lines of a file say."""

    header: list[str]
    separator: str
    rows: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)  # where each row begins
    notes: tuple[str, ...] = ()


def split_records(text: str, name: str, separator: str | None = None, comments: Comments = "auto") -> Records:
    """The header and the rows of a CSV text.

    Args:
        name: the file's, for messages.
        separator: None: comma, semicolon, tab or bar, whichever divides header and rows into the same number of fields.
        comments: `skip` leaves out all lines that begin with `#`, `keep` reads them as rows. `auto` leaves out those
            above the header and those that have another number of fields, and refuses where a line may be either.
    Raises:
        InputError: a broken quote, a row of another length, no header.
    """
    if comments not in get_args(Comments):
        raise InputError(f"comments={comments!r}: choose from {', '.join(get_args(Comments))}")
    if separator is not None and (len(separator) != 1 or separator in '"\r\n '):
        raise InputError(f"separator={separator!r}: it must be one character, such as , ; | or a tab")
    above, start, stated = _preamble(text, comments)
    separator = separator or stated or _find_separator(text[start:], name)
    marked = [line for line in above if line.startswith("#")]
    offset = len(LINE_END.findall(text[:start]))
    records = _parse(text[start:], name, separator, offset, comments)
    first = next(records, None)
    if first is None:
        raise InputError(f"{name} cannot be read as a table: No columns are in it")
    _, header, _ = first
    header = [title.strip() for title in header]
    if len(header) > COLUMNS:
        raise InputError(f"{name} has {len(header)} columns, at most {COLUMNS} are read")
    found = Records(header, separator)
    hidden = _collect(found, records, name, first[0], comments)
    if comments == "auto" and marked:
        _refuse_hidden_header(marked[-1], found, separator, name, first[0])
    count = len(marked) + hidden
    found.notes = (f"{count} comment lines (#) left out",) if count else ()
    return found


def _preamble(text: str, comments: Comments) -> tuple[list[str], int, str | None]:
    """(lines above the header, where the header begins, the separator if a line states it)."""
    above: list[str] = []
    start, stated = 0, None
    while start < len(text):
        end = LINE_END.search(text, start)
        line = text[start : end.start() if end else len(text)]
        statement = SEPARATOR_LINE.fullmatch(line.strip(" "))
        if statement:
            stated = statement[1]
        elif line.strip(SEPARATORS + ' "') and (not line.startswith("#") or comments == "keep"):
            break
        above.append(line)
        start = end.end() if end else len(text)
    return above, start, stated


def _parse(
    text: str, name: str, separator: str, offset: int, comments: Comments
) -> Iterator[tuple[int, list[str], bool]]:
    """(line, fields, whether the line begins with `#`) of each record that is not blank."""
    lines = io.StringIO(text, newline="").readlines()
    if comments == "skip":
        lines = [line if not line.startswith("#") else "\n" for line in lines]
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    before = 0
    try:
        for fields in reader:
            place, before = before, reader.line_num
            if any(fields) and any(value.strip() for value in fields):
                yield offset + place + 1, fields, lines[place].startswith("#") and not SHEET_ERROR.match(fields[0])
    except csv.Error as error:
        raise InputError(
            f"{name} cannot be read as a table: line {offset + before + 1}: {error} (a quote that is not closed, or "
            'not doubled inside quotes: ""?)'
        ) from error


def _collect(
    found: Records, records: Iterator[tuple[int, list[str], bool]], name: str, header_line: int, comments: Comments
) -> int:
    """Add the rows; how many lines were comments."""
    width, hidden, doubtful = len(found.header), 0, []
    for line, fields, is_marked in records:
        if len(fields) > width and not any(fields[width:]):
            del fields[width:]
        if len(fields) != width:
            if is_marked and comments == "auto":
                hidden += 1
                continue
            raise InputError(_describe_ragged(name, line, len(fields), header_line, width))
        if is_marked:
            doubtful.append(line)
        found.rows.append(fields)
        found.lines.append(line)
    if comments == "auto" and 0 < len(doubtful) < len(found.rows):
        raise InputError(
            f"line {doubtful[0]} of {name} begins with #, and has as many fields as other rows: say comments=skip to "
            "leave such lines out or comments=keep to read them (on the command line: --set reader.comments=skip)"
        )
    return hidden


def _describe_ragged(name: str, line: int, fields: int, header_line: int, width: int) -> str:
    if width == 1:
        way = f"is line {header_line} a title above the header? Delete it"
    elif fields > width:
        way = "quote fields that hold a separator"
    else:
        way = "is the line cut off?"
    return (
        f"{name} cannot be read as a table: line {line} has {fields} fields, but the header in line {header_line} has "
        f"{width}: {way}"
    )


def _refuse_hidden_header(comment: str, found: Records, separator: str, name: str, header_line: int) -> None:
    """A comment above the rows that may be their header."""
    titles = comment.lstrip("# ").split(separator)
    data = any(NUMBER.fullmatch(title) for title in found.header)
    if len(titles) == len(found.header) > 1 and data and not any(NUMBER.fullmatch(title.strip()) for title in titles):
        raise InputError(
            f"line {header_line - 1} of {name} begins with #, but looks like the header of the rows below: say "
            "comments=keep to read it (on the command line: --set reader.comments=keep), remove the sign #, or write a "
            "header below it"
        )


def _find_separator(text: str, name: str) -> str:
    """The separator that divides the header and the rows below into the same number of fields, and most of them."""
    sample = text[:SAMPLE_BYTES]
    cut = len(sample) < len(text)
    widths = {separator: _widths(sample, separator, cut) for separator in SEPARATORS}
    steady = {s: w[0] for s, w in widths.items() if w and w[0] > 1 and set(w) == {w[0]}}
    if steady:
        most = max(steady.values())
        best = [s for s in steady if steady[s] == most]
        if len(best) > 1 and len(widths[best[0]]) > 1:
            raise InputError(
                f"{name} may be separated by {best[0]!r} or by {best[1]!r}: say separator={best[0]!r} or another (on "
                "the command line: --set reader.separator=...)"
            )
        return best[0]
    return max(SEPARATORS, key=lambda s: widths[s][0] if widths[s] else 0)


def _widths(sample: str, separator: str, cut: bool) -> Sequence[int]:
    """Fields of the header and of the first rows; none where a quote is broken."""
    lines = [line for line in io.StringIO(sample, newline="").readlines() if not line.startswith("#")]
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    widths: list[int] = []
    try:
        for fields in reader:
            if any(fields):
                widths.append(len(fields))
            if len(widths) == SAMPLE_RECORDS:
                return widths
    except csv.Error:
        return widths[:1]
    return widths[:-1] if cut and len(widths) > 1 else widths  # the last record may be cut off
