"""Columns of words -> a feature for each level, from counts that are sums over clients. Shapes: M values, L levels."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from seedbed.data.encoding.number_text import is_gap_word
from seedbed.data.readers.targets import as_text, sorted_labels

FEW_LEVELS = 20  # up to so many, even a level that was seen once has a feature of its own
SEEN = 3  # of more levels, those that fewer rows have are taken together as `other`
MOST_LEVELS = 2000
MOST_BYTES = 2**29  # of a column's features
CODES_FROM = 5  # levels; fewer whole numbers stay numbers
SURE_CODES = 1e-4  # probability of level means so far from a smooth curve, if there were none
UNLIKE_NEIGHBOURS = 0.5  # variance between neighbours, as a share of that between all levels
SHARED_BY = 3  # clients that a code must have on average: another one would only name its client


def count_levels(values: npt.NDArray[Any]) -> Counter[str]:
    """How many of a client's rows have each level; a sum of these over clients is all that `fit_levels` needs."""
    return Counter(as_text(value) for value in values if value is not None and value == value)


def fit_levels(counts: Mapping[str, int], rows: int, *, keep: bool = False) -> list[str] | None:
    """The levels that get a feature, sorted; None: the column names its rows, as an id does.

    Args:
        counts: rows by level, over all clients.
        rows: in all.
        keep: give the most frequent levels a feature all the same.
    """
    names_rows = len(counts) > max(FEW_LEVELS, sum(counts.values()) / 2)
    if names_rows and not keep:
        return None
    everything = names_rows or len(counts) <= FEW_LEVELS
    common = [level for level, count in counts.items() if everything or count >= SEEN]
    room = max(FEW_LEVELS, min(MOST_LEVELS, MOST_BYTES // (4 * max(1, rows))))
    kept = sorted(common, key=lambda level: (-counts[level], level))[:room]
    return list(sorted_labels(kept))


def level_features(values: Sequence[str | None], spec: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """[M, L (+ other) (+ missing)]; a missing value without a feature of its own counts as other.

    A word for a gap that is no level is a missing value.
    """
    slots = {level: i for i, level in enumerate(spec["levels"])}
    other = len(slots)
    width = other + spec["other"] + spec["missing"]
    gone = width - 1 if spec["missing"] else other
    known = {value: slots.get(value, gone if is_gap_word(value) else other) for value in {*values} if value is not None}
    slot = np.array([gone if value is None else known[value] for value in values], np.int64)
    return np.asarray(slot[:, None] == np.arange(width), np.float32)


def are_codes(numbers: npt.NDArray[np.float64], target: npt.NDArray[np.float64], owners: npt.NDArray[np.int64]) -> bool:
    """Whether whole numbers name things, such as lecturers: their means of the target jump from one to the next.

    The means of targets, each less its client's mean, must differ (an F test), and neighbours must be nearly as unlike
    as any two numbers, which under a smooth curve they are not. It needs counts and sums by level: sums over clients.

    Args:
        numbers: [M], no gaps.
        target: [M].
        owners: [M] numbers of clients.
    """
    if not np.array_equal(numbers, np.rint(numbers)):
        return False
    found, level = np.unique(numbers, return_inverse=True)
    rows, clients = len(numbers), int(owners.max()) + 1
    if not CODES_FROM <= len(found) <= rows / SEEN or rows - len(found) - clients < len(found):
        return False
    pairs = len(np.unique(level.astype(np.int64) * clients + owners))
    if pairs < SHARED_BY * len(found):
        return False
    left = target - _means(target, owners)[owners]
    counts, means = np.bincount(level), _means(left, level)
    between, free = float((counts * means**2).sum()), rows - len(found) - clients
    noise = max((float((left**2).sum()) - between) / free, 1e-300)
    if stats.f.sf(between / (len(found) - 1) / noise, len(found) - 1, free) >= SURE_CODES:
        return False
    spread = float(means.var()) - float((noise / counts).mean())
    steps = np.diff(means) ** 2 / 2 - (noise / counts[1:] + noise / counts[:-1]) / 2
    return bool(steps.mean() > UNLIKE_NEIGHBOURS * spread)


def _means(values: npt.NDArray[np.float64], groups: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    sums: npt.NDArray[np.float64] = np.bincount(groups, values) / np.maximum(np.bincount(groups), 1)
    return sums
