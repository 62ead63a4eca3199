"""Sums of floating-point numbers that come out the same in any order and in any parts, bit for bit.

Each number is a whole number of steps on three grids, a coarse, a middle and a fine one; whole numbers are added
without rounding. What is lost is below the fine step, 2⁻⁶⁰, and does not depend on the other numbers. Unlike the grid
of secure aggregation it needs no bound that is known beforehand.

Shapes: c messages, D numbers of one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

GRID_STEPS = (2.0**-60, 2.0**-20, 2.0**20)  # of the fine, the middle and the coarse grid
COARSE = 2.0**19  # above this a number needs the coarse grid
LARGEST_TERM = 2.0**58  # so that 2²³ of them can be added up in 64 bits
SUM_BLOCK, ROWS = 2**15, 2**12  # numbers at once, so that they stay in the cache; messages at once: exact below 2⁵³


class ExactSum:
    """Σ w·x over messages, added up as they come: memory does not grow with their number.

    Args:
        numbers: D.
    """

    def __init__(self, numbers: int, device: torch.device | None = None):
        self.grids = torch.zeros(2, numbers, dtype=torch.int64, device=device)  # the coarse one comes when it is needed

    @property
    def coarse(self) -> bool:
        """Whether a number needed the coarse grid."""
        return len(self.grids) == len(GRID_STEPS)

    def widen(self) -> None:
        """Have the coarse grid."""
        if not self.coarse:
            self.grids = torch.cat([self.grids, torch.zeros_like(self.grids[:1])])

    def add(self, leaves: Sequence[Tensor], weights: Tensor) -> None:
        """Add messages stacked: leaves [c, ...] of D numbers together, weights [c]; |w·x| at most LARGEST."""
        for start in range(0, len(weights), ROWS):
            at, some = 0, slice(start, start + ROWS)
            for leaf in leaves:
                rows = leaf[some].reshape(len(weights[some]), -1)
                self._add(rows, weights[some].double()[:, None], at)
                at += rows.shape[1]

    def _add(self, rows: Tensor, weights: Tensor, at: int) -> None:
        if rows.numel() == 0:
            return
        if float((largest(rows) * weights[:, 0]).max()) > COARSE:
            self.widen()
        width = max(1, SUM_BLOCK // len(rows)) if rows.device.type == "cpu" else rows.shape[1]
        for start in range(0, rows.shape[1], width):
            rest = rows[:, start : start + width].double() * weights
            place = slice(at + start, at + start + rest.shape[1])
            for grid in range(len(self.grids) - 1, -1, -1):
                whole = (rest * (1 / GRID_STEPS[grid])).round_()
                rest.sub_(whole, alpha=GRID_STEPS[grid])
                self.grids[grid, place] += whole.sum(0).to(torch.int64)

    def total(self) -> Tensor:
        """[D] in double precision."""
        parts = [grid.double() * step for grid, step in zip(self.grids, GRID_STEPS, strict=False)]
        return torch.stack(parts[::-1]).sum(0)


def largest(rows: Tensor) -> Tensor:
    """[c, D] -> the largest |x| of each row [c], in double precision; NaN where one is."""
    if rows.shape[1] == 0:
        return rows.new_zeros(len(rows), dtype=torch.float64)
    low, high = torch.aminmax(rows, dim=1)
    return torch.maximum(-low.double(), high.double())
