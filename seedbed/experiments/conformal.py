"""Prediction intervals that known clients calibrate: hierarchical split conformal prediction.

A residual is the distance between a number and its prediction, in standard deviations of the predictive distribution
where there is one. Models that have not seen a client give its residuals; each client counts once, however many rows it
has (Lee, Barber and Willett, "Distribution-free inference with hierarchical data", 2023).
"""

from collections.abc import Mapping
from typing import Any

from seedbed.experiments.config import Row
from seedbed.experiments.personal_model import Interval
from seedbed.experiments.stages import nearest_row

START = "start"  # the row of clients that do not adapt


def interval_for(intervals: Mapping[str, Any], examples: int) -> Interval | None:
    """The interval of a client with so many examples; 0: of the start.

    Args:
        intervals: by row of the table, as result.json has them.
    """
    rows: dict[Row, str] = {int(row) if row.isdigit() else "half": row for row in intervals if row != START}
    row = nearest_row(list(rows), examples) if examples else None
    found = intervals.get(START if row is None else rows[row])
    return None if found is None else Interval(*found)
