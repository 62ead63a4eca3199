"""Columns of numbers -> features that training can bear: long tails bent, outliers clipped, gaps filled and marked.

A column's numbers are bent (where the tail is long), centred on the median, divided by a deviation taken from the
quartiles, clipped at ±4 and standardised. All that is learned of a column are quantiles and two sums, so it can be
learned over clients that show none of their values. Shapes: M values.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from seedbed.data.encoding.quantiles import CountInCells, counts_below, summed_quantiles

Floats = npt.NDArray[np.float64]
CLIP = 4.0  # robust standard deviations
LONG_TAIL = 0.5  # ((q98 − q50) − (q50 − q2)) / (q98 − q2) above which a column is bent
NORMAL_IQR = 1.349  # the distance of the quartiles of a standard normal variable
ALL_BUT_TAILS = 4.107  # the distance of its 2 % and 98 % quantiles


def fit_numeric(numbers: Floats) -> dict[str, Any]:
    """What to do with a column [M], NaN where missing (JSON-like); at least one value must be there."""
    present = numbers[~np.isnan(numbers)]
    spec = fit_shape(lambda edges: counts_below(present, edges))
    if spec["spread"] == 0:  # most values are equal: what is left decides
        spec["spread"] = deviation(present) or 1.0
    squeezed = squeeze(numbers, spec)
    std = 1.0 if is_constant(numbers) else float(squeezed.std()) or 1.0
    return {**spec, "mean": float(squeezed.mean()), "std": std}


def fit_shape(count_below: CountInCells) -> dict[str, Any]:
    """The part of it that follows from quantiles, for values that lie with clients: see `summed_quantiles`."""
    q2, q25, q50, q75, q98 = summed_quantiles(count_below, (0.02, 0.25, 0.5, 0.75, 0.98)).tolist()
    bend = 0.0
    if q98 > q2 and q50 >= 0 and q2 >= 0 and (q98 - 2 * q50 + q2) / (q98 - q2) > LONG_TAIL:
        bend = q2 if q2 > 0 else (q50 or q75 or q98)
        q2, q25, q50, q75, q98 = np.log1p(np.array([q2, q25, q50, q75, q98]) / bend).tolist()
    spread = (q75 - q25) / NORMAL_IQR or (q98 - q2) / ALL_BUT_TAILS
    return {"bend": bend, "centre": q50, "spread": spread, "clip": CLIP}


def squeeze(numbers: Floats, spec: Mapping[str, Any]) -> Floats:
    """[M] bent, centred, scaled and clipped; a missing value is 0, the median."""
    bend = spec["bend"]
    bent = np.sign(numbers) * np.log1p(np.abs(numbers) / bend) if bend else numbers
    scaled: Floats = np.nan_to_num((bent - spec["centre"]) / spec["spread"], nan=0.0)
    return scaled if spec["clip"] is None else scaled.clip(-spec["clip"], spec["clip"])


def apply_numeric(numbers: Floats, spec: Mapping[str, Any]) -> Floats:
    """[M] -> [M] features of mean 0 and deviation 1 over the rows that the spec was fitted on."""
    standardised: Floats = (squeeze(numbers, spec) - spec["mean"]) / spec["std"]
    return standardised


def said(spec: Mapping[str, Any]) -> str:
    """What is done to the column, for people."""
    return "logarithm, then standardised" if spec["bend"] else "standardised"


def is_constant(numbers: Floats) -> bool:
    """Whether all values that are there are one number, up to rounding."""
    present = numbers[~np.isnan(numbers)]
    return bool(deviation(present) <= 1e-12 * np.abs(present).max(initial=0.0))


def deviation(values: Floats) -> float:
    """The standard deviation, of values however large."""
    largest = float(np.abs(values).max(initial=0.0))
    return largest * float((values / largest).std()) if largest else 0.0
