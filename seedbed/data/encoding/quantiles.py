"""Quantiles from sums: each client counts its values in the cells of a grid that all clients share.

The server adds the counts, takes the cells in which the quantiles lie, and asks again with a finer grid there. After
three rounds a quantile is known to about 1e-7 of its size. Counts are whole numbers, so a sum over clients is exact in
any order and under secure aggregation. Shapes: E edges, Q quantiles.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
CountInCells = Callable[[Floats], Counts]  # edges [E] -> how many values lie below each edge, summed over clients [E]

CELLS = 512  # of the first grid, and of each refinement
SMALLEST_SIZE, LARGEST_SIZE = 1e-9, 1e12  # sizes that the first grid resolves; others fall into its outermost cells


@lru_cache
def first_grid() -> Floats:
    """[E] edges on a logarithmic scale for either sign, with an edge at 0 and the largest floats at the ends."""
    sizes = np.geomspace(SMALLEST_SIZE, LARGEST_SIZE, CELLS // 2)
    largest = np.finfo(np.float64).max
    grid = np.concatenate([[-largest], -sizes[::-1], [0.0], sizes, [largest]])
    grid.flags.writeable = False
    return grid


def summed_quantiles(count_below: CountInCells, probabilities: Sequence[float], rounds: int = 4) -> Floats:
    """[Q] values below which these shares p of all n values lie: the mean of those of rank ⌈pn⌉ and ⌊pn⌋ + 1.

    Args:
        count_below: the sum over clients of `counts_below`.
        probabilities: [Q] in 0…1.
        rounds: how often clients are asked; four leave an error of about 1e-9 of a value's size.

    >>> values = np.arange(1.0, 101.0)
    >>> summed_quantiles(lambda edges: counts_below(values, edges), [0.25, 0.5]).round(6).tolist()
    [25.5, 50.5]
    """
    edges = first_grid()
    below = count_below(edges)
    for _ in range(rounds - 1):
        edges = _refined(edges, *_cells_of_quantiles(below, probabilities))
        below = count_below(edges)
    low, high = _cells_of_quantiles(below, probabilities)
    middles: Floats = (edges[low] / 2 + edges[high] / 2).reshape(2, -1).mean(0)
    return middles


def counts_below(values: Floats, edges: Floats) -> Counts:
    """[E] how many of a client's values [M] are at most each edge."""
    return np.searchsorted(np.sort(values), edges, side="right").astype(np.int64)


def _cells_of_quantiles(below: Counts, probabilities: Sequence[float]) -> tuple[Counts, Counts]:
    """[2Q] numbers of the edges around the values of both ranks: each lies above the first edge, up to the second."""
    share = np.asarray(probabilities) * int(below[-1])
    ranks = np.concatenate([np.ceil(share), np.floor(share) + 1]).clip(1, below[-1])
    high = np.searchsorted(below, ranks, side="left")
    return np.maximum(high - 1, 0), high


def _refined(edges: Floats, low: Counts, high: Counts) -> Floats:
    """A grid that divides the cells between these edges, and keeps both ends."""
    cells = {(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True)}
    return np.unique(np.concatenate([edges[[0, -1]], *(_between(edges[a], edges[b]) for a, b in cells)]))


def _between(low: float, high: float) -> Floats:
    """Edges from low to high: in even steps, or in even ratios where the ends are far apart."""
    if low > 0 and high > 4 * low:
        return _even_ratios(low, high)
    if high < 0 and low < 4 * high:
        return -_even_ratios(-high, -low)[::-1]
    return np.asarray(low + (high / CELLS - low / CELLS) * np.arange(CELLS + 1), np.float64)


def _even_ratios(low: float, high: float) -> Floats:
    steps: Floats = np.exp(np.linspace(np.log(low), np.log(high), CELLS)[1:-1])
    return np.concatenate([[low], steps, [high]])
