"""A CSV or Parquet file -> its columns, as they stand, with the place of each row. Shapes: M rows."""

import csv
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seedbed.data.readers.columns import Column
from seedbed.data.readers.extras import require
from seedbed.errors import InputError
from seedbed.limits import COLUMNS, READ_CHUNK, first_line_of, open_bounded, refuse_unfolded

PARQUET = (".parquet", ".pq")
NOT_AVAILABLE = ["", "?", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "<NA>", "#N/A"]


@dataclass(frozen=True)
class RawColumns:
    """A file's columns before encoding."""

    path: Path
    columns: Mapping[str, Column]
    lines: Sequence[int]  # [M] where each row stands in the file
    word: str = "line"
    notes: tuple[str, ...] = ()

    def where(self, row: int) -> str:
        return f"{self.word} {self.lines[row]} of {self.path.name}"

    def without(self, gone: Any) -> "RawColumns":
        """The rows that are not marked [M]."""
        kept = {name: values[~gone] for name, values in self.columns.items()}
        return RawColumns(self.path, kept, np.asarray(self.lines)[~gone].tolist(), self.word, self.notes)


def load_table(path: Path) -> RawColumns:
    """The columns of a file, by name."""
    pandas = require("pandas", f"reading {path.name}")
    if path.suffix.lower() in PARQUET:
        require("pyarrow", f"reading {path.name}")
    try:
        frame = _read_parquet(pandas, path) if path.suffix.lower() in PARQUET else _read_csv(pandas, path)
    except InputError:
        raise
    except Exception as error:  # damaged files raise whatever pandas and pyarrow meet
        raise InputError(f"{path} cannot be read as a table: {first_line_of(error)}") from error
    if path.suffix.lower() not in PARQUET:
        frame = frame.dropna(how="all")  # empty lines
    if path.suffix.lower() in PARQUET:
        return columns_of_frame(frame, path, range(1, len(frame) + 1), "row")
    return columns_of_frame(frame, path, (frame.index + 2).tolist(), "line")


def columns_of_frame(frame: Any, path: Path, lines: Sequence[int], word: str) -> RawColumns:
    """The columns of a pandas frame, by name.

    Args:
        path: what messages call it.
        lines: [M] where each row stands.
        word: what such a place is.
    """
    if not frame.columns.is_unique:
        raise InputError(f"{path} has two columns of one name: rename one")
    if len(frame) == 0:
        raise InputError(f"{path} has no rows below its header")
    spans = [str(name) for name in frame if frame[name].dtype.kind == "m"]
    kept = {str(name): column_of(frame[name]) for name in frame if str(name) not in spans}
    return RawColumns(path, kept, lines, word, tuple(f"column {name!r} is a span of time: left out" for name in spans))


def _read_parquet(pandas: Any, path: Path) -> Any:
    """Texts stay in their dictionary, so that a long one that is repeated takes memory once."""
    parquet = require("pyarrow.parquet", f"reading {path.name}")
    about, packed = parquet.read_metadata(path), path.stat().st_size
    groups = [about.row_group(i) for i in range(about.num_row_groups)]
    numbers = sum(group.column(i).num_values for group in groups for i in range(group.num_columns))
    cells = max(about.num_rows * about.num_columns, numbers)
    refuse_unfolded(str(path), packed, max(8 * cells, sum(group.total_byte_size for group in groups)))
    columns = [about.schema.column(i) for i in range(about.num_columns)]
    texts = [c.path for c in columns if c.physical_type == "BYTE_ARRAY" and c.max_repetition_level == 0]
    return pandas.read_parquet(path, read_dictionary=texts)


def _refuse_large(path: Path, header: str, separator: str) -> None:
    """A text whose rows would be filled up to far more cells than it has characters."""
    columns = header.count(separator) + 1
    if columns > COLUMNS:
        raise InputError(f"{path} has {columns} columns, at most {COLUMNS} are read")
    size = lines = 0
    with open_bounded(path, lines=True) as stream:
        while data := stream.read(READ_CHUNK):
            size, lines = size + len(data), lines + data.count(b"\n")
    refuse_unfolded(str(path), size, 8 * columns * lines)


def _read_csv(pandas: Any, path: Path) -> Any:
    with open_bounded(path, lines=True) as stream:
        stream.readline()  # refused here, if it is too long
    header = pandas.read_csv(path, sep="\0", header=None, nrows=1, dtype=str, quoting=csv.QUOTE_NONE).iloc[0, 0]
    separator = max(",;\t|", key=str(header).count)
    _refuse_large(path, str(header), separator)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pandas.errors.ParserWarning)  # rows longer than the header
        return pandas.read_csv(
            path,
            sep=separator,
            dtype=str,
            index_col=False,
            keep_default_na=False,
            na_values=NOT_AVAILABLE,
            skip_blank_lines=False,
            skipinitialspace=True,
        )


def column_of(series: Any) -> Column:
    """float64 with NaN, or objects with None."""
    if series.dtype.kind in "fiu":
        return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
    if series.dtype.kind == "M":
        series = series.map(lambda moment: moment.isoformat(), na_action="ignore")
    texts = series.astype(object).to_numpy()  # truth values too: as a CSV would have them
    return np.array([None if gone else str(text) for text, gone in zip(texts, series.isna(), strict=True)], object)
