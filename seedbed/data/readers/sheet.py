"""A CSV or Parquet file -> its columns, as they stand, with the place of each row. Shapes: M rows."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from seedbed.data.readers.column_values import Column
from seedbed.data.readers.csv_text import Comments, split_records
from seedbed.data.readers.extras import require
from seedbed.data.readers.names import same_text
from seedbed.data.readers.text_encoding import decode_text
from seedbed.errors import InputError
from seedbed.limits import first_line_of, open_bounded, refuse_unfolded

PARQUET = (".parquet", ".pq")
EXACT = 2**53  # whole numbers up to here are exact in float64


@dataclass(frozen=True)
class RawColumns:
    """A file's columns before encoding."""

    path: Path
    columns: Mapping[str, Column]
    lines: Sequence[int]  # [M] where each row stands in the file
    word: str = "line"
    notes: tuple[str, ...] = ()
    separator: str = ""  # of a CSV file

    def where(self, row: int) -> str:
        return f"{self.word} {self.lines[row]} of {self.path.name}"

    def without(self, gone: Any) -> "RawColumns":
        """The rows that are not marked [M]."""
        kept = {name: values[~gone] for name, values in self.columns.items()}
        return replace(self, columns=kept, lines=np.asarray(self.lines)[~gone].tolist())


def load_table(
    path: Path,
    *,
    encoding: str | None = None,
    separator: str | None = None,
    comments: Comments = "auto",
    missing: Iterable[str] = (),
    fallback: str | None = None,
) -> RawColumns:
    """The columns of a file, by name.

    Args:
        encoding, separator, comments: of a CSV file; see `decode_text` and `split_records`.
        missing: texts and numbers that mean a gap in every column, beside the empty field.
        fallback: the encoding of a CSV file that is not in UTF-8, where `encoding` is None.
    """
    gaps = frozenset(word.strip() for word in missing)
    try:
        if path.suffix.lower() in PARQUET:
            return _load_parquet(path, gaps)
        return _load_csv(path, (encoding, fallback), separator, comments, gaps)
    except InputError:
        raise
    except Exception as error:  # damaged files raise whatever pyarrow and decompression meet
        raise InputError(f"{path} cannot be read as a table: {first_line_of(error)}") from error


def load_like(path: Path, encoding: Mapping[str, Any]) -> RawColumns:
    """The columns of a file with the gap words and the characters of training."""
    return load_table(path, missing=encoding.get("missing", ()), fallback=encoding.get("encoding"))


def _load_csv(
    path: Path,
    encodings: tuple[str | None, str | None],
    separator: str | None,
    comments: Comments,
    gaps: frozenset[str],
) -> RawColumns:
    with open_bounded(path, lines=True) as stream:
        data = stream.read()
    try:
        text = decode_text(data, path, encodings[0])
    except InputError:
        if encodings[1] is None:
            raise
        text = decode_text(data, path, encodings[1])
    found = split_records(text, str(path), separator, comments)
    if not found.rows:
        raise InputError(f"{path} has no rows below its header")
    columns = [_texts(values, gaps) for values in zip(*found.rows, strict=True)]
    names = _names(found.header, columns, path)
    kept = {name: values for name, values in zip(names, columns, strict=True) if name}
    return RawColumns(path, kept, found.lines, "line", found.notes, found.separator)


def _texts(values: Iterable[str], gaps: frozenset[str]) -> Column:
    """[M] texts in composed Unicode, without the spaces around them; None where one is empty or means a gap."""
    texts = [same_text(value.strip()) or None for value in values]
    found = np.empty(len(texts), object)
    found[:] = [None if text in gaps else text for text in texts] if gaps else texts
    return found


def _names(header: Sequence[str], columns: Sequence[Column], path: Path) -> list[str]:
    """Names in composed Unicode; one column (a row's number) may have none. "": an empty column without a name."""
    titles = [same_text(title) for title in header]
    unnamed = [i for i, title in enumerate(titles) if not title and any(v is not None for v in columns[i])]
    if len(unnamed) > 1:
        raise InputError(
            f"{path} cannot be read as a table: its first line names {sum(map(bool, titles))} of {len(titles)} "
            "columns: if it is a title above the header, delete it; else name all columns"
        )
    titles = [f"Unnamed: {i}" if i in unnamed else title for i, title in enumerate(titles)]
    _refuse_twice(titles, path)
    return titles


def _refuse_twice(titles: Sequence[str], path: Path) -> None:
    twice = next((title for title, count in Counter(titles).items() if title and count > 1), None)
    if twice is not None:
        places = " and ".join(str(i + 1) for i, title in enumerate(titles) if title == twice)
        raise InputError(f"{path} has the column {twice!r} more than once (columns {places}): rename or delete one")


def _load_parquet(path: Path, gaps: frozenset[str]) -> RawColumns:
    pandas = require("pandas", f"reading {path.name}")
    require("pyarrow", f"reading {path.name}")
    return columns_of_frame(_read_parquet(pandas, path), path, gaps)


def columns_of_frame(frame: Any, path: Path, gaps: frozenset[str] = frozenset()) -> RawColumns:
    """The columns of a pandas frame, by name.

    Args:
        path: what messages call it.
        gaps: words and numbers that mean a gap.
    """
    titles = [same_text(str(name)).strip() for name in frame.columns]
    _refuse_twice(titles, path)
    if len(frame) == 0:
        raise InputError(f"{path} has no rows")
    places = {title: frame.iloc[:, place] for place, title in enumerate(titles)}
    spans = [title for title, series in places.items() if series.dtype.kind == "m"]
    kept = {title: column_of(series, gaps) for title, series in places.items() if title not in spans}
    notes = tuple(f"column {name!r} is a span of time: left out" for name in spans)
    return RawColumns(path, kept, range(1, len(frame) + 1), "row", notes)


def _read_parquet(pandas: Any, path: Path) -> Any:
    """Texts stay in their dictionary, so that a long one that is repeated takes memory once."""
    parquet = require("pyarrow.parquet", f"reading {path.name}")
    about, packed = parquet.read_metadata(path), path.stat().st_size
    sizes = [about.row_group(i).total_byte_size for i in range(about.num_row_groups)]
    refuse_unfolded(str(path), packed, max(8 * about.num_rows * about.num_columns, sum(sizes)))
    columns = [about.schema.column(i) for i in range(about.num_columns)]
    for column in columns:  # of a group's own columns pyarrow is not asked: on damaged ones it ends the process
        if column.max_repetition_level:
            name = column.path.split(".")[0]
            raise InputError(f"{path} has lists in column {name!r}: a table has one value in each cell")
    _refuse_twice([column.path for column in columns], path)
    texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
    frame = pandas.read_parquet(path, read_dictionary=texts, dtype_backend="numpy_nullable")
    return frame.reset_index() if any(name is not None for name in frame.index.names) else frame


def column_of(series: Any, gaps: frozenset[str] = frozenset()) -> Column:
    """float64 with NaN, or texts with None. Whole numbers that float64 cannot hold stay texts: they are names."""
    if series.dtype.kind in "iu" and ((series > EXACT) | (series < -EXACT)).any():
        series = series.astype(object)
    if series.dtype.kind in "fiu":
        numbers = np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
        words = [float(word) for word in gaps if _is_number(word)]
        return np.where(np.isin(numbers, words), np.nan, numbers) if words else numbers
    if series.dtype.kind == "M":
        series = series.map(lambda moment: moment.isoformat(), na_action="ignore")
    gone = series.isna().to_numpy()
    values = series.astype(object).to_numpy()  # truth values too: as a CSV would have them
    return _texts(["" if lost else str(value) for value, lost in zip(values, gone, strict=True)], gaps)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
