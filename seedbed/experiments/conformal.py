"""Prediction intervals that known clients calibrate: split conformal prediction over clients.

A residual is the distance between a number and its prediction, in standard deviations of the predictive distribution
where there is one. Models that have not seen a client give its residuals; each client counts once, however many rows it
has. The interval is a quantile of the residuals whose level is raised until each client's rows are covered by the
quantile of the others: rows of one client resemble each other, so that 90 % of the known rows are too few for one more
client. (Hierarchical conformal prediction adds a client with infinite residuals instead: Lee, Barber and Willett,
"Distribution-free inference with hierarchical data", arXiv 2306.06342. It never covers less than 90 %, but ten clients
of like rows get 99 %.)

Shapes: B examples, E episodes, C clients, V residuals.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seedbed.data.types import Batch
from seedbed.experiments.config import Row
from seedbed.experiments.personal_model import Interval, Spread
from seedbed.experiments.stages import nearest_row
from seedbed.federated import Params
from seedbed.learning.objectives import Metric, Predict

LEVEL = 0.9  # the share of rows that intervals cover
MOST_ROWS, HALVINGS = 100, 12  # residuals of a client that count; steps of the search for the level
START = "start"  # the row of clients that do not adapt
Residuals = Mapping[int, Tensor]  # [E, B] of each client, NaN where there is no row


def residual_metric(predict: Predict, spread: Spread) -> Metric:
    """[B] residuals of a batch of numbers."""

    def residuals(params: Params, batch: Batch) -> Tensor:
        x, y, mask = batch.x, batch.y, batch.mask
        far = (predict(params, x)[:, 0].double() - y.reshape(len(y)).double()).abs() / spread(params, x)
        return torch.where(mask > 0, far, math.nan)

    return residuals


def interval_from_residuals(residuals: Residuals) -> Interval | None:
    """The interval that covers 90 % of the rows of one more client like these; None: its residuals are not finite."""
    rows = [values[~values.isnan()].double() for values in residuals.values()]
    rows = [_thinned(values) for values in rows if len(values)]
    if not rows:
        return None
    owner = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(each) for each in rows]))
    values, order = torch.cat(rows).sort(stable=True)
    owner = owner[order]
    weight = torch.stack([(owner == c).double() / len(each) for c, each in enumerate(rows)])  # [C, V]
    below = weight.cumsum(1)
    quantile = float(values[_place(below.sum(0, keepdim=True), _level(below))])
    return Interval(LEVEL, quantile, len(rows)) if math.isfinite(quantile) else None


def _thinned(values: Tensor) -> Tensor:
    """At most so many of a client's residuals, evenly over their order."""
    if len(values) <= MOST_ROWS:
        return values
    return values.sort().values[torch.linspace(0, len(values) - 1, MOST_ROWS).round().long()]


def _level(below: Tensor) -> float:
    """The least level whose quantile of all other clients covers 90 % of each client's rows, in the mean.

    Args:
        below: [C, V] the share of each client's rows that lie up to each residual.
    """
    low, high = LEVEL, 1.0
    if len(below) < 2 or _covered(below, high) < LEVEL:
        return high
    if _covered(below, low) >= LEVEL:
        return low
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _covered(below, middle) >= LEVEL else (middle, high)
    return high


def _covered(below: Tensor, level: float) -> float:
    """The mean share of a client's rows that lie up to the others' quantile."""
    place = _place(below.sum(0) - below, level)  # [C, 1]
    return float(below.gather(1, place).mean())


def _place(below: Tensor, level: float) -> Tensor:
    """[·, 1] the first residual up to which this share of all rows lies.

    Args:
        below: [·, V] sums of shares.
    """
    wanted = (level * below[:, -1:] - 1e-9).contiguous()
    return torch.searchsorted(below.contiguous(), wanted).clamp_max(below.shape[1] - 1)


def interval_for(intervals: Mapping[str, Any], examples: int) -> Interval | None:
    """The interval of a client with so many examples; 0: of the start.

    Args:
        intervals: by row of the table, as result.json has them.
    """
    rows: dict[Row, str] = {int(row) if row.isdigit() else "half": row for row in intervals if row != START}
    row = nearest_row(list(rows), examples) if examples else None
    found = intervals.get(START if row is None else rows[row])
    return None if found is None else Interval(*found)
