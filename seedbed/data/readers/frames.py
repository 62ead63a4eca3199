"""Data that lies in memory -> a Population, as the same rows in a file would be: data frames, arrays, datasets.

Shapes: M rows.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seedbed.data.population import Population
from seedbed.data.readers import arrays, table
from seedbed.data.readers.column_values import Column
from seedbed.data.readers.extras import require
from seedbed.data.readers.sheet import RawColumns, column_of, columns_of_frame
from seedbed.errors import InputError

Named = str | Sequence[Any] | npt.NDArray[Any] | None  # a column's name, or its values [M]
CLIENT, TARGET = "client", "target"  # columns that are given by their values


def read_memory(data: Any, *, client: Named = None, target: Named = None, **options: Any) -> Population:
    """The population in a data frame, an array or a dataset.

    Args:
        data: a data frame of pandas, polars, pyarrow or any library with Arrow's C stream; {column: values}; an array
            [M, features] (a column of a table each), or [M, ...] of images; or a dataset of torch: pairs (x, y).
        client: the column that says whose row it is, or M names.
        target: the column to predict, or M values; of a dataset its second parts.
        options: of the reader of such a file.
    Raises:
        InputError: it is none of these, and whatever the reader refuses.
    """
    if isinstance(data, Population):
        return data
    if _is_dataset(data):
        data, target = _of_dataset(data)
    if isinstance(data, np.ndarray) or _is_tensor(data):
        x = np.asarray(data)
        if x.ndim != 2 or x.dtype == np.uint8:
            return _of_arrays(x, client, target, options)
        data = {f"x{place}": x[:, place] for place in range(x.shape[1])}
    raw = frame_columns(data, table.names_of(options.get("missing", ())))
    columns: dict[str, Column] = dict(raw.columns)
    client = _added(columns, CLIENT, client)
    target = _added(columns, TARGET, target)
    return table.read_columns(RawColumns(raw.path, columns, raw.lines, "row"), client=client, target=target, **options)


def frame_columns(data: Any, missing: Sequence[str] = ()) -> RawColumns:
    """The columns of a data frame, as a file's.

    Args:
        missing: words and numbers that mean a gap.
    """
    gaps = frozenset(missing)
    name = Path(type(data).__name__)
    if isinstance(data, Mapping):
        columns = {str(key): _column_of_values(values, gaps) for key, values in data.items()}
        lengths = {len(values) for values in columns.values()}
        if len(lengths) != 1:
            raise InputError(f"columns of the data differ in length: {sorted(lengths)}")
        return RawColumns(name, columns, range(1, lengths.pop() + 1), "row")
    pandas = require("pandas", "reading a data frame")
    frame = data if isinstance(data, pandas.DataFrame) else _as_pandas(data)
    return columns_of_frame(frame, name, gaps)


def name_of(data: Any) -> str:
    """What to call it where a file would have its name."""
    return data.source if isinstance(data, Population) else type(data).__name__


def _as_pandas(data: Any) -> Any:
    if hasattr(data, "__arrow_c_stream__"):
        return require("pyarrow", "reading a data frame").table(data).to_pandas()
    if hasattr(data, "to_pandas"):
        return data.to_pandas()
    raise InputError(
        f"{type(data).__name__} is no data that can be read: give a path, a data frame, arrays, or a dataset with "
        "client=ids"
    )


def _column_of_values(values: Any, gaps: frozenset[str] = frozenset()) -> Column:
    pandas = require("pandas", "reading columns")
    return column_of(pandas.Series(np.asarray(values)), gaps)


def _added(columns: dict[str, Column], name: str, given: Named) -> str | None:
    """The name of a column that may be given by its values."""
    if given is None or isinstance(given, str):
        return given
    if name in columns:
        raise InputError(f"the data has a column {name!r} already: name it, or rename it, and give {name}= once")
    values = _column_of_values(given)
    rows = len(next(iter(columns.values()), values))
    if len(values) != rows:
        raise InputError(f"{name} has {len(values)} values, the data {rows} rows: they must be equal")
    columns[name] = values
    return name


def _is_tensor(data: Any) -> bool:
    return hasattr(data, "numpy") and hasattr(data, "ndim") and not hasattr(data, "columns")


def _is_dataset(data: Any) -> bool:
    """Whether it is a dataset of torch: it has items by number, and no columns."""
    plain = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    others = ("__arrow_c_stream__", "to_pandas", "columns", "ndim", "keys")
    return plain and not isinstance(data, str | list | tuple) and not any(hasattr(data, name) for name in others)


def _of_dataset(data: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Inputs and targets of pairs (x, y)."""
    items = [data[place] for place in range(len(data))]
    if not items or not all(isinstance(item, tuple | list) and len(item) == 2 for item in items):
        raise InputError(f"{type(data).__name__} must hold pairs (x, y), of equal shape, and at least one")
    try:
        x, y = np.stack([np.asarray(x) for x, _ in items]), np.stack([np.asarray(y) for _, y in items])
    except ValueError as error:
        raise InputError(f"{type(data).__name__} holds inputs of several shapes ({error}): make them alike") from error
    return x, y


def _of_arrays(x: npt.NDArray[Any], client: Named, target: Named, options: Mapping[str, Any]) -> Population:
    if client is None or target is None or isinstance(client, str) or isinstance(target, str):
        raise InputError("an array has no columns with names: give client= and target= as arrays")
    found = {"x": x, "y": np.asarray(target), "client": np.asarray(client)}
    lengths = {name: len(values) for name, values in found.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"the arrays differ in length: {lengths}; each row needs all of them")
    return arrays.of_arrays(found, Path("arrays"), **options)
