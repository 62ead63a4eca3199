"""What a table's clients are judged by: the loss, what people read beside it, and whom adapting harms.

Log-loss for classes, with accuracy and, of two classes, the area under the ROC curve; squared error for numbers, with
RMSE, MAE and R² in the target's own units. Shapes: B examples, N outputs, C clients, E episodes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from scipy import special
from torch import Tensor

from seedbed.data.types import Batch
from seedbed.evaluation import summarise
from seedbed.federated import ClientId, Params
from seedbed.learning.objectives import Loss, Metric, Predict, correct, masked_mean

Start = Callable[[Tensor], Tensor]  # inputs [B, ...] -> outputs [B, N]
WORST = 1e6  # stands for a loss that is not finite
LOSS, EXTRA, AUC, GAIN, GAIN_SQUARED, EXAMPLES, COVERED, WIDTH = range(8)
COVERAGE, WIDE = "90 % covered", "width of 90 %"  # what people read of prediction intervals
MANY_TIMES = 10.0  # the trivial predictor's mean loss: a client above diverges
LEAST_ROWS = 3  # of a client's queries, for a test


def row_scores(
    predict: Predict, loss: Loss, start: Start | None, *, classes: int, half: Predict | None = None
) -> Metric:
    """[8]: the mean loss; accuracy or the mean absolute error; AUC; the loss less the start's, its mean and mean
    square; the number of queries; the share of them in their prediction intervals, and the mean width of these.

    Args:
        start: what the start predicts; None: nothing is compared.
        classes: 0 for numbers.
        half: half the width of prediction intervals [B]; None: there are none.
    """

    def scores(params: Params, batch: Batch) -> Tensor:
        x, y, mask = batch[:3]
        outputs = predict(params, x)
        each = loss(outputs, y)
        extra = correct(outputs, y) if classes else (outputs[:, 0] - y.reshape(len(y))).abs()
        gain = torch.zeros_like(each) if start is None else each - loss(start(x), y)
        area = area_under_curve(outputs[:, 1] - outputs[:, 0], y, mask) if classes == 2 else each.new_full((), math.nan)
        means = [masked_mean(v, mask) for v in (each, extra)]
        gains = [masked_mean(v, mask) for v in (gain, gain**2)]
        intervals = [area.new_full((), math.nan)] * 2
        if half is not None:
            wide = half(params, x)
            inside = ((outputs[:, 0] - y.reshape(len(y))).abs() <= wide).to(mask.dtype)
            intervals = [masked_mean(inside, mask), masked_mean(2 * wide, mask)]
        return torch.stack([v.double() for v in (*means, area, *gains, mask.sum(), *intervals)])

    return scores


def area_under_curve(scores: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """How often an example of class 1 scores above one of class 0, ties half: []; NaN where a class is missing."""
    pairs = ((y == 1) * mask)[:, None] * ((y == 0) * mask)
    difference = scores[:, None] - scores
    above = (difference > 0).to(mask.dtype) + 0.5 * (difference == 0).to(mask.dtype)
    return (pairs * above).sum() / pairs.sum()


def cell(scores: Mapping[ClientId, Tensor], *, classes: int, scale: float, trivial: float | None) -> dict[str, Any]:
    """A column's numbers in a row, as result.json has them.

    Args:
        scores: [E, 8] of each client.
        scale: the target's standard deviation.
        trivial: the mean loss of the trivial predictor, for R².
    """
    means = {c: _finite(s[:, LOSS].double()).mean() for c, s in scores.items()}
    summary = summarise([float(m) for m in means.values()], higher_is_better=False)
    extra = float(torch.stack([_finite(s[:, EXTRA].double()).mean() for s in scores.values()]).mean())
    also: dict[str, float] = {"accuracy": extra} if classes else _in_units(summary.mean, extra, scale, trivial)
    if classes == 2:
        areas = torch.cat([s[:, AUC].double() for s in scores.values()])
        areas = areas[areas.isfinite()]
        also |= {"AUC": float(areas.mean())} if len(areas) else {}
    if not classes:
        also |= _intervals(scores, scale)
    return asdict(summary) | {"ci95": None if summary.clients == 1 else summary.ci95, "also": also}


def _in_units(square: float, absolute: float, scale: float, trivial: float | None) -> dict[str, float]:
    found = {"RMSE": math.sqrt(square) * scale, "MAE": absolute * scale}
    return found | ({"R²": 1 - square / trivial} if trivial else {})


def _intervals(scores: Mapping[ClientId, Tensor], scale: float) -> dict[str, float]:
    """Means over clients of how many rows lie in their prediction intervals, and of the width of these."""
    covered, wide = (torch.stack([s[:, place].double().mean() for s in scores.values()]) for place in (COVERED, WIDTH))
    if not bool(covered.isfinite().all() & wide.isfinite().all()):
        return {}
    return {COVERAGE: float(covered.mean()), WIDE: float(wide.mean()) * scale}


def _finite(values: Tensor) -> Tensor:
    return torch.where(values.isfinite(), values.clamp(max=WORST), WORST)


def harm(scores: Mapping[ClientId, Tensor], names: Sequence[str]) -> dict[str, Any]:
    """Whom adapting harms: a one-sided t-test at 97.5 % over a client's query rows of its first episode.

    Returns: the share of the clients tested and its 95 % interval (Wilson), the harmed clients' names, the mean gain of
    clients that gain, and the mean harm of those that lose.
    """
    tested, harmed = 0, []
    for client, each in scores.items():
        mean, square, n = (float(each[0, place]) for place in (GAIN, GAIN_SQUARED, EXAMPLES))
        if n >= LEAST_ROWS:
            tested += 1
            harmed += [names[client]] if _is_above_zero(mean, square, n) else []
    gains = [-float(s[:, GAIN].double().mean()) for s in scores.values()]
    losses = [-g for g in gains if g < 0]
    wins = [g for g in gains if g > 0]
    return {
        "tested": tested,
        "clients": harmed,
        "share": len(harmed) / tested if tested else None,
        "interval": list(wilson(len(harmed), tested)) if tested else None,
        "mean_gain": _number(math.fsum(wins) / len(wins) if wins else 0.0),
        "mean_harm": _number(math.fsum(losses) / len(losses) if losses else 0.0),
    }


def _is_above_zero(mean: float, square: float, n: float) -> bool:
    if not math.isfinite(mean) or not math.isfinite(square):
        return True
    error = math.sqrt(max(square - mean**2, 0.0) / (n - 1))
    return mean > 1e-12 and mean > float(special.stdtrit(n - 1, 0.975)) * error


def _number(value: float) -> float:
    return min(value, WORST) if math.isfinite(value) else WORST


def wilson(count: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share: Wilson, JASA 1927.

    >>> [round(end, 3) for end in wilson(0, 20)]
    [0.0, 0.161]
    """
    z = 1.959964
    share, spread = count / of, 1 + z * z / of
    middle = (share + z * z / (2 * of)) / spread
    half = z / spread * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max(0.0, middle - half), min(1.0, middle + half)


def diverged(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """The clients whose adapted loss is above ten times the trivial predictor's mean."""
    most = MANY_TIMES * row["trivial"]["mean"]
    return [name for name, score in zip(names, row["adapted"]["scores"], strict=True) if score > most]
