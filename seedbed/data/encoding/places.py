"""Which features of an encoded table belong to which column, and which may have a slope of a client's own.

Shapes: M rows, D encoded features.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seedbed.data.encoding.levels import FEW_LEVELS

VARIES = 1e-3  # the least share of a feature's variance that must lie within clients


def width_of(spec: Mapping[str, Any]) -> int:
    """How many features a column became."""
    if spec["kind"] == "text":
        return len(spec["levels"]) + int(spec["other"]) + int(spec["missing"])
    return (len(spec["parts"]) if spec["kind"] == "time" else 1) + int(spec["missing"])


def slope_places(
    columns: Sequence[Mapping[str, Any]], x: npt.NDArray[Any], owners: npt.NDArray[np.int64]
) -> tuple[int, ...]:
    """The features that vary within clients, without those of columns of many levels.

    Args:
        columns: how each was encoded, in the order of their features.
        x: [M, D].  owners: [M] numbers of clients.
    """
    few = [spec["kind"] != "text" or len(spec["levels"]) <= FEW_LEVELS for spec in columns]
    wide = np.repeat(few, [width_of(spec) for spec in columns])
    counts = np.maximum(np.bincount(owners), 1)
    found = []
    for place in np.flatnonzero(wide):
        column = x[:, place].astype(np.float64)
        within = column - (np.bincount(owners, column) / counts)[owners]
        if within.var() > VARIES * column.var() and within.var() > 0:
            found.append(int(place))
    return tuple(found)
