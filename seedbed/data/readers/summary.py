"""What a population looks like, in numbers: for `seedbed data inspect`. Shapes: N clients, K classes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seedbed.data.encoding.treatment import ColumnSummary, columns_of
from seedbed.data.population import Population

TINY = 3  # rows of clients that are counted


@dataclass(frozen=True)
class PopulationSummary:
    """The size and the skew of a population."""

    source: str
    clients: int
    examples: int
    sizes: tuple[int, float, int]  # smallest, median, largest client
    shape: tuple[int, ...]
    classes: int  # 0 for regression
    classes_per_client: tuple[int, float, int]  # smallest, median, largest
    label_skew: float | None  # mean total variation between a client's labels and the pooled ones; None: regression
    episodic: bool
    unseen: int
    notes: tuple[str, ...]
    columns: tuple[ColumnSummary, ...] = ()  # of a table: every one, and what was done to it
    shares: tuple[tuple[str, float], ...] = ()  # of the classes
    tiny: int = 0  # clients of three rows or fewer


def inspect(population: Population) -> PopulationSummary:
    """Clients, sizes, classes and label skew.

    label skew = mean over clients of ½ Σ_k |p_c(k) − p(k)|: 0 when all have the pooled shares of classes,
    towards 1 when each has classes of its own.

    >>> import torch
    >>> y = torch.tensor([0, 0, 1, 1])
    >>> both = Population.from_arrays(torch.zeros(4, 1), y, list("aabb"), classes=("x", "y"))
    >>> inspect(both).label_skew, inspect(both).sizes
    (0.5, (2, 2.0, 2))
    """
    found = [np.unique(population.labels[population.rows_of(i)]) for i in range(len(population))]
    classes = len(population.classes)
    return PopulationSummary(
        source=population.source,
        clients=len(population),
        examples=len(population.rows),
        sizes=_spread(population.sizes),
        shape=tuple(population.x.shape[1:]),
        classes=classes,
        classes_per_client=_spread(np.array([len(f) for f in found])) if classes else (0, 0.0, 0),
        label_skew=_skew(population) if classes else None,
        episodic=population.episodic,
        unseen=len(set(population.unseen) & set(population.names)),
        notes=population.notes,
        columns=_columns(population),
        shares=_shares(population),
        tiny=int((population.sizes <= TINY).sum()),
    )


def _columns(population: Population) -> tuple[ColumnSummary, ...]:
    if population.encoding.get("format") != "table":
        return ()
    return columns_of(population.encoding, population.x.numpy(), population.notes)


def _shares(population: Population) -> tuple[tuple[str, float], ...]:
    if not population.classes:
        return ()
    counts = np.bincount(population.labels[population.every_row()], minlength=len(population.classes))
    return tuple(zip(population.classes, (counts / counts.sum()).tolist(), strict=True))


def _skew(population: Population) -> float:
    pooled = np.bincount(population.labels[population.every_row()], minlength=len(population.classes))
    shares = pooled / pooled.sum()
    distances = []
    for i in range(len(population)):
        mine = np.bincount(population.labels[population.rows_of(i)], minlength=len(shares))
        distances.append(np.abs(mine / max(1, mine.sum()) - shares).sum() / 2)
    return float(np.mean(distances))


def _spread(values: npt.NDArray[np.int64]) -> tuple[int, float, int]:
    return (int(values.min()), float(np.median(values)), int(values.max())) if len(values) else (0, 0.0, 0)
