"""The geometric median: Pillutla, Kakade and Harchaoui, "Robust aggregation for federated learning", IEEE Transactions
on Signal Processing 2022, arXiv 1912.13445, Algorithm 2 (RFA).
"""

from torch import Tensor

from seedbed.aggregation.coordinatewise import median
from seedbed.aggregation.robust import Robust, row_norms, weighted_rows


def geometric_median(*, iterations: int = 10, nu: float = 1e-6, weighted: bool = False) -> Robust:
    """argmin_v Σ_i share_i ‖v − x_i‖, by smoothed Weiszfeld: v ← Σ β_i x_i / Σ β_i, β_i = share_i / max(ν, ‖v − x_i‖).

    Withstands less than half of the messages (of the weight, if weighted). No message is ever left out: it pulls the
    less, the farther it is.

    Args:
        iterations: always so many, so that the result does not hang on a tolerance.
        nu: ν > 0, in the units of the message.
    """
    start = median().rule

    def rule(rows: Tensor, shares: Tensor) -> Tensor:
        # Departure: it begins at the coordinate median, not at the mean, which one huge message could carry to where
        # all distances overflow.
        v = start(rows, shares)
        for _ in range(iterations):
            beta = shares / row_norms(rows - v).clamp_min(nu)
            v = weighted_rows(rows, beta / beta.sum())
        return v

    return Robust("geometric_median", rule, weighted=weighted)
