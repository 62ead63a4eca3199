"""Clients made up for a set that has none of its own: functions of the labels (or their number) and a seed.

Each returns C arrays of row numbers: disjoint, complete, sorted. Shapes: n rows, C clients.
"""

import heapq
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from torch import Tensor

from seedbed import randomness
from seedbed.data.partition_file import read_partition
from seedbed.data.population import Population, RowIndices
from seedbed.errors import InputError

Partition = list[RowIndices]
How = Literal["iid", "dirichlet", "shards", "quantity", "classes", "extended_dirichlet", "sizes", "file"]
BY_CLASS = ("dirichlet", "shards", "classes", "extended_dirichlet")
SMALLEST_ALPHA = 1e-300  # below, log(U)/α overflows


def iid(n: int, clients: int, *, seed: int = 0) -> Partition:
    """Equal parts (to within one row) drawn at random.

    >>> [len(part) for part in iid(5, 2)]
    [3, 2]
    """
    _refuse_few(n, clients, 1)
    return _sorted(np.array_split(randomness.generator(seed, "partition iid").permutation(n), clients))


def dirichlet(labels: npt.ArrayLike, clients: int, alpha: float, *, minimum: int = 1, seed: int = 0) -> Partition:
    """Label skew: each class is shared out among clients in proportions drawn from Dirichlet(α).

    Clients below the minimum are then filled from the largest, one row at a time: there is no redrawing, so
    it always ends, for any α > 0.

    Args:
        labels: [n] classes.
        alpha: > 0; small: each client has few classes; large: all clients alike.
        minimum: rows that every client gets at least.

    Source: Hsu, Qi, Brown, Measuring the effects of non-identical data distribution, 2019, arXiv:1909.06335;
    by class rather than by client, as in Yurochkin et al., ICML 2019.

    >>> parts = dirichlet(np.arange(100) % 10, 4, 0.1, minimum=5)
    >>> sum(map(len, parts)), min(map(len, parts)) >= 5
    (100, True)
    """
    classes = np.asarray(labels)
    _refuse_few(len(classes), clients, minimum)
    rng = randomness.generator(seed, "partition dirichlet")
    parts: list[list[int]] = [[] for _ in range(clients)]
    for label in np.unique(classes):
        rows = rng.permutation(np.flatnonzero(classes == label))
        cuts = np.rint(np.cumsum(_proportions(rng, clients, alpha))[:-1] * len(rows)).astype(np.int64)
        for part, share in zip(parts, np.split(rows, cuts), strict=True):
            part.extend(share.tolist())
    return _filled([rng.permutation(part).tolist() for part in parts], minimum)


def shards(labels: npt.ArrayLike, clients: int, per_client: int = 2, *, seed: int = 0) -> Partition:
    """Rows sorted by class are cut into C · per_client shards, dealt at random: few classes for each client.

    Source: McMahan et al., AISTATS 2017, arXiv:1602.05629, §3.

    >>> labels = np.repeat([0, 1, 2, 3], 5)
    >>> [len(np.unique(labels[part])) for part in shards(labels, 2)]
    [2, 2]
    """
    classes = np.asarray(labels)
    if per_client < 1:
        raise InputError(f"per_client={per_client} shards: each client needs at least 1")
    _refuse_few(len(classes), clients, per_client)
    rng = randomness.generator(seed, "partition shards")
    shuffled = rng.permutation(len(classes))
    by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]
    cut = np.array_split(by_class, clients * per_client)
    dealt = rng.permutation(len(cut)).reshape(clients, per_client)
    return _sorted([np.concatenate([cut[shard] for shard in mine]) for mine in dealt])


def quantity(n: int, clients: int, alpha: float, *, minimum: int = 1, seed: int = 0) -> Partition:
    """Size skew: how many rows each client has beyond the minimum follows Dirichlet(α); which ones is random.

    >>> parts = quantity(100, 4, 0.5, minimum=5)
    >>> sum(map(len, parts)), min(map(len, parts)) >= 5
    (100, True)
    """
    _refuse_few(n, clients, minimum)
    rng = randomness.generator(seed, "partition quantity")
    spare = n - clients * minimum
    ends = np.rint(np.cumsum(_proportions(rng, clients, alpha))[:-1] * spare).astype(np.int64)
    ends += minimum * np.arange(1, clients)
    return _sorted(np.split(rng.permutation(n), ends))


def classes_each(labels: npt.ArrayLike, clients: int, per_client: int = 2, *, seed: int = 0) -> Partition:
    """Each client has exactly `per_client` classes, and a class is shared out evenly among those that have it.

    >>> labels = np.repeat([0, 1, 2, 3, 4], 20)
    >>> [len(np.unique(labels[part])) for part in classes_each(labels, 5, 2)]
    [2, 2, 2, 2, 2]
    """
    return _shared_out(labels, clients, per_client, 1, randomness.generator(seed, "partition classes"), None)


def extended_dirichlet(
    labels: npt.ArrayLike, clients: int, per_client: int, alpha: float, *, minimum: int = 1, seed: int = 0
) -> Partition:
    """Each client has exactly `per_client` classes, and a class is shared out among those that have it by Dirichlet(α).

    Args:
        labels: [n] classes.
        alpha: > 0; small: most of a class lies with one client; large: as `classes_each`.
        minimum: rows that every client gets at least, in equal parts of its classes; each class gives one at least.

    Source: Li, Lyu, Convergence Analysis of Sequential Federated Learning on Heterogeneous Data, NeurIPS 2023,
    arXiv:2311.03154. Classes are dealt so that each occurs about as often, where the paper draws them freely.

    >>> labels = np.repeat([0, 1, 2, 3, 4], 20)
    >>> [len(np.unique(labels[part])) for part in extended_dirichlet(labels, 5, 2, 0.1)]
    [2, 2, 2, 2, 2]
    """
    rng = randomness.generator(seed, "partition extended dirichlet")
    least = max(1, -(-minimum // max(1, per_client)))
    return _shared_out(labels, clients, per_client, least, rng, alpha)


def _shared_out(
    labels: npt.ArrayLike, clients: int, per_client: int, least: int, rng: np.random.Generator, alpha: float | None
) -> Partition:
    """Classes dealt to clients, then each class shared out: `least` rows to each client, the rest evenly or by α."""
    numbers = np.asarray(labels)
    classes, counts = np.unique(numbers, return_counts=True)
    _refuse_few(len(numbers), clients, per_client * least)
    if not 1 <= per_client <= len(classes) or clients * per_client < len(classes):
        raise InputError(
            f"{clients} clients of {per_client} classes each cannot share {len(classes)} classes: per_client must be 1 "
            f"to {len(classes)}, and clients × per_client at least {len(classes)}"
        )
    owned = _dealt_classes(len(classes), clients, per_client, rng)
    parts: list[list[int]] = [[] for _ in range(clients)]
    for place, label in enumerate(classes):
        holders = np.flatnonzero(owned[:, place])
        if counts[place] < least * len(holders):
            raise InputError(
                f"class {label} has {counts[place]} rows, too few for {least} at each of {len(holders)} clients: ask "
                "for fewer clients, fewer classes each, or a lower minimum"
            )
        rows = rng.permutation(np.flatnonzero(numbers == label))
        share = np.full(len(holders), 1 / len(holders)) if alpha is None else _proportions(rng, len(holders), alpha)
        spare = len(rows) - least * len(holders)
        ends = np.rint(np.cumsum(share)[:-1] * spare).astype(np.int64) + least * np.arange(1, len(holders))
        for holder, mine in zip(rng.permutation(holders), np.split(rows, ends), strict=True):
            parts[holder].extend(mine.tolist())
    return _sorted([np.array(part, np.int64) for part in parts])


def _dealt_classes(classes: int, clients: int, per_client: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """[C, K] which classes each client has: each time those that fewest clients have, ties by lot."""
    owned = np.zeros((clients, classes), bool)
    for client in range(clients):
        order = np.lexsort((rng.random(classes), owned.sum(0)))
        owned[client, order[:per_client]] = True
    return owned


def given_sizes(n: int, sizes: Sequence[int], *, seed: int = 0) -> Partition:
    """Clients of these sizes, their rows drawn at random. Rows beyond their sum are left out.

    >>> [len(part) for part in given_sizes(10, [5, 1, 3])]
    [5, 1, 3]
    """
    if not len(sizes) or min(sizes) < 1 or sum(sizes) > n:
        raise InputError(f"sizes={list(sizes)[:5]}…: name at least one, each at least 1, together at most the {n} rows")
    order = randomness.generator(seed, "partition sizes").permutation(n)[: sum(sizes)]
    return _sorted(np.split(order, np.cumsum(sizes)[:-1]))


def partitioned(
    x: Tensor, y: Tensor, parts: Sequence[RowIndices], names: Sequence[str] | None = None, **fields: Any
) -> Population:
    """A population of clients that hold the rows named in `parts`.

    Args:
        x: [M, ...].  y: [M] or [M, ...].
        parts: row numbers of each client.
        names: C names; None: client0, client1, ...
        fields: the other fields of Population.

    >>> import torch
    >>> partitioned(torch.zeros(6, 2), torch.zeros(6), iid(6, 2)).sizes.tolist()
    [3, 3]
    """
    everyone = Population.from_arrays(x, y, np.full(len(x), "everyone"), **fields)
    return _dealt(everyone, parts, names)


def repartition(
    population: Population,
    how: How,
    *,
    clients: int = 100,
    alpha: float = 0.5,
    per_client: int = 2,
    minimum: int = 1,
    sizes: Sequence[int] = (),
    partition_file: str = "",
    seed: int = 0,
) -> Population:
    """The examples of a population, dealt to made-up clients in one of the ways above, or as a file says."""
    n = len(population.rows)
    if how in BY_CLASS and not population.classes:
        raise InputError(f"partition={how!r} needs classes, but the target is a number: use iid, quantity or sizes")
    if how == "file":
        return read_partition(partition_file, population)
    labels = population.labels[population.every_row()]
    if how == "iid":
        parts = iid(n, clients, seed=seed)
    elif how == "dirichlet":
        parts = dirichlet(labels, clients, alpha, minimum=minimum, seed=seed)
    elif how == "shards":
        parts = shards(labels, clients, per_client, seed=seed)
    elif how == "quantity":
        parts = quantity(n, clients, alpha, minimum=minimum, seed=seed)
    elif how == "classes":
        parts = classes_each(labels, clients, per_client, seed=seed)
    elif how == "extended_dirichlet":
        parts = extended_dirichlet(labels, clients, per_client, alpha, minimum=minimum, seed=seed)
    elif how == "sizes":
        parts = given_sizes(n, tuple(sizes), seed=seed)
    else:
        raise InputError(f"no partition {how!r}: choose from {', '.join(get_args(How))}")
    left = n - sum(map(len, parts))
    note = f"{len(parts)} clients made up by partition {how!r} (seed {seed})" + (
        f", {left} rows left out" if left else ""
    )
    return replace(_dealt(population, parts), unseen=(), notes=(*population.notes, note))


def _dealt(population: Population, parts: Sequence[RowIndices], names: Sequence[str] | None = None) -> Population:
    width = len(str(len(parts) - 1))
    return replace(
        population,
        rows=np.concatenate([population.rows[part] for part in parts]),
        offsets=np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64),
        names=tuple(names or (f"client{i:0{width}d}" for i in range(len(parts)))),
    )


def _refuse_few(n: int, clients: int, each: int) -> None:
    if clients < 1 or each < 0:
        raise InputError(f"clients={clients}, minimum={each}: need at least 1 client and a minimum of at least 0")
    if n < clients * each:
        raise InputError(
            f"{n} rows are too few for {clients} clients of at least {each}: ask for fewer clients or a lower minimum"
        )


def _proportions(rng: np.random.Generator, clients: int, alpha: float) -> npt.NDArray[np.float64]:
    """Dirichlet(α) [C] in logarithms, so that a tiny α does not end in 0/0: ln Γ(α) = ln Γ(α+1) + ln(U)/α."""
    if not 0 < alpha < np.inf:
        raise InputError(f"alpha={alpha} must be a finite number above 0")
    alpha = max(alpha, SMALLEST_ALPHA)
    logs = np.log(rng.gamma(alpha + 1, size=clients)) + np.log1p(-rng.random(clients)) / alpha
    shares = np.exp(logs - logs.max())
    return np.asarray(shares / shares.sum())


def _filled(parts: list[list[int]], minimum: int) -> Partition:
    """Rows moved from the largest client, each time, to those below the minimum."""
    largest = [(-len(part), i) for i, part in enumerate(parts)]
    heapq.heapify(largest)
    for part in parts:
        while len(part) < minimum:
            _, i = heapq.heappop(largest)
            part.append(parts[i].pop())
            heapq.heappush(largest, (-len(parts[i]), i))
    return _sorted([np.array(part, np.int64) for part in parts])


def _sorted(parts: Sequence[npt.NDArray[Any]]) -> Partition:
    return [np.sort(part).astype(np.int64) for part in parts]
