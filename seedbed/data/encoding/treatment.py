"""What was done to each column of a table, for people: from its encoding and from what reading it said.

Shapes: M rows, D encoded features.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seedbed.data.encoding.numeric import said
from seedbed.data.encoding.places import width_of

OF_COLUMN = re.compile(r"column ('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")(.*)", re.DOTALL)


@dataclass(frozen=True)
class ColumnSummary:
    """A column of the file.

    Attributes:
        kind: client, target, number, words, dates, or left out.
        gaps: rows in which it is missing.
        features: inputs of the model that it became.
    """

    name: str
    kind: str
    gaps: int
    features: int
    treatment: str


def columns_of(encoding: Mapping[str, Any], x: npt.NDArray[Any], notes: Sequence[str]) -> tuple[ColumnSummary, ...]:
    """Every column of a table and what was done to it.

    Args:
        x: [M, D].
        notes: what reading it changed.
    """
    target = encoding["target"]
    classes = f"{len(target['classes'])} classes" if "classes" in target else "standardised; predicted in its own units"
    if target.get("std") == 1.0 and target.get("mean") == 0.0:
        classes = "as it is"
    whose = encoding["client"]
    found = [ColumnSummary(whose, "client", 0, 0, "says whose each row is")] if whose else []
    found.append(ColumnSummary(target["column"], "target", 0, 0, classes))
    start = 0
    for spec in encoding["columns"]:
        width = width_of(spec)
        gaps = int(x[:, start + width - 1].sum()) if spec["missing"] else 0
        found.append(ColumnSummary(spec["name"], *_kind_and_treatment(spec, gaps, width, x[:, start])))
        start += width
    named = {column.name for column in found}
    return (*found, *(column for column in _left_out(notes) if column.name not in named))


def _kind_and_treatment(
    spec: Mapping[str, Any], gaps: int, width: int, first: npt.NDArray[Any]
) -> tuple[str, int, int, str]:
    if spec["kind"] == "text":
        levels = len(spec["levels"])
        words = f"{levels} level{'s' * (levels != 1)}, a feature each, and one for others"
        return "words", gaps, width, words + (", gaps are a level" if gaps else "")
    filled = "; gaps filled by the median and marked" if gaps else ""
    if spec["kind"] == "time":
        return "dates", gaps, width, ", ".join(part["part"] for part in spec["parts"]) + filled
    if spec.get("own"):
        return "number", gaps, width, "standardised by each client's own mean and deviation" + filled
    constant = np.ptp(first) == 0
    return "number", gaps, width, ("constant: says nothing" if constant else f"{said(spec)}, clipped") + filled


def _left_out(notes: Sequence[str]) -> Iterator[ColumnSummary]:
    for note in notes:
        match = OF_COLUMN.fullmatch(note)
        if match is not None and "left out" in note:
            yield ColumnSummary(str(ast.literal_eval(match[1])), "left out", 0, 0, match[2].strip(" :"))
