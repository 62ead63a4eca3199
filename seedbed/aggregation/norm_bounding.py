"""Rules that bound how far one message can pull: norm bounding and centered clipping.

Sun, Kairouz, Suresh and McMahan, "Can you really backdoor federated learning?", 2019, arXiv 1911.07963, §3.3;
Karimireddy, He and Jaggi, "Learning from history for Byzantine robust optimization", ICML 2021, arXiv 2012.10333,
Algorithm 2. Shapes: n messages, P numbers of a message.
"""

from typing import Literal

import torch
from torch import Tensor

from seedbed.aggregation.coordinatewise import median
from seedbed.aggregation.robust import Robust, by_columns, median_of, row_norms, weighted_rows


def norm_bounding(*, bound: float | None = None, weighted: bool = False) -> Robust:
    """The mean of x_i·min(1, M/‖x_i‖): nobody pulls harder than M. Also a step before another rule.

    Args:
        bound: M > 0, in the units of the message; None: the median norm of the round's messages, which moves with the
            training and which less than half of the clients cannot move far.
    """

    def bounded(rows: Tensor) -> Tensor:
        norms = row_norms(rows)
        most = median_of(norms.sort().values) if bound is None else bound
        return by_columns(lambda part: _factor(most, norms)[:, None] * part, rows)

    return Robust("norm_bounding", weighted_rows, steps=(bounded,), weighted=weighted)


def centered_clipping(
    *,
    tau: float | None = None,
    iterations: int = 3,
    start: Literal["median", "zero"] = "median",
    weighted: bool = False,
) -> Robust:
    """v ← v + Σ_i share_i (x_i − v)·min(1, τ/‖x_i − v‖), so many times.

    It keeps nothing between rounds. The paper's v begins at the last round's result, with momentum on the clients, so
    that slow pushes of many rounds are seen; `algorithms.momentum.with_momentum` is that momentum.

    Args:
        tau: τ > 0, in the units of the message; None: in each iteration the median of ‖x_i − v‖.
        start: where v begins. Departure: the round's coordinate median, or zero (an update that changes nothing),
            not the last result, for which a reducer would have to have a memory.
    """
    first = median().rule

    def rule(rows: Tensor, shares: Tensor) -> Tensor:
        v = torch.zeros_like(rows[0]) if start == "zero" else first(rows, shares)
        for _ in range(iterations):
            away = row_norms(rows - v)
            pull = shares * _factor(median_of(away.sort().values) if tau is None else tau, away)
            # v(1 − Σ pull) + Σ pull·x, so that what overflows in x − v, whose pull is 0, does not come in
            v = by_columns(lambda part, pull=pull: pull @ part, rows) + (1 - pull.sum()).to(v.dtype) * v  # type: ignore[misc]
        return v

    return Robust("centered_clipping", rule, weighted=weighted)


def _factor(most: Tensor | float, norms: Tensor) -> Tensor:
    """min(1, most/‖x‖): [n]; 1 where the norm is 0."""
    return (most / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp_max(1)
