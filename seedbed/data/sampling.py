"""How a client's examples become a task: batches, support and query, N-way K-shot episodes.

A sampler looks at one client's rows and returns row numbers; one gather for all clients of a round then reads the
examples. Shapes: C clients, K items, B examples of a batch.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from seedbed import randomness, tree
from seedbed.data.population import Population
from seedbed.data.types import Batch, Episode, NoisyBatch, Task, Tree, Triple
from seedbed.errors import InputError

Array = npt.NDArray[Any]


class Client:
    """What a sampler sees of a client: n rows of the population.

    Args:
        place: where the population holds it.
        number: which client it is, for what is drawn.
    """

    def __init__(self, population: Population, place: int, number: int, seed: int):
        self._population, self._place, self._number, self._seed = population, place, number, seed
        rows = population.rows_of(place)
        self.rows: Array = np.sort(rows) if population.ordered else rows  # [n]
        self.ordered = population.ordered  # later rows come last: support is the past

    @property
    def name(self) -> str:
        return self._population.names[self._place]

    @cached_property
    def labels(self) -> Array:
        """[n] or [n, ...]"""
        found: Array = self._population.labels[self.rows]
        return found

    def fixed(self, purpose: str) -> np.random.Generator:
        """Draws that stay the same in every round."""
        return randomness.generator(self._seed, purpose, self._number)

    def picks(self, where: Array, mask: Array | None = None) -> "Picks":
        """The rows at these places, with their labels. mask: None: all are real."""
        rows = self.rows[where]
        return Picks(rows, self._population.labels[rows], np.ones(where.shape, bool) if mask is None else mask)


class Picks(NamedTuple):
    """A batch by row numbers."""

    rows: Array  # [K, B]
    labels: Array  # [K, B] or [K, B, ...]
    mask: Array  # [K, B]


class Draw(NamedTuple):
    items: Tree  # Picks in the places of batches; beside them arrays [K, ...] of noise
    examples: int


Sampler = Callable[[Client, np.random.Generator], Draw]


class TaskSource(Protocol):
    """Where an engine gets its clients' tasks from."""

    @property
    def clients(self) -> Sequence[int]: ...

    def size(self, client: int) -> int:
        """How much work the client is, roughly: engines group equals together."""
        ...

    def tasks(self, clients: Sequence[int], round: int) -> Task:
        """These clients' tasks of this round, padded and stacked: leaves [C, K, ...]."""
        ...


class TaskSourceWrapper:
    """A source around another, with `tasks` still to be said: what its clients work on is changed."""

    def __init__(self, source: TaskSource):
        self.source = source

    @property
    def clients(self) -> Sequence[int]:
        return self.source.clients

    def size(self, client: int) -> int:
        return self.source.size(client)

    @property
    def seed(self) -> int:
        """Of what models draw in training."""
        return int(getattr(self.source, "seed", 0))


class Sampled:
    """Tasks drawn from a population, afresh in each round, as a function of (seed, purpose, round, client).

    Args:
        first: the number of the population's first client: that of a client of a federation who is alone here.
    """

    def __init__(
        self, population: Population, sampler: Sampler, *, seed: int = 0, purpose: str = "train", first: int = 0
    ):
        self.population, self.sampler, self.seed, self.purpose, self.first = population, sampler, seed, purpose, first
        self.clients = range(first, first + len(population))

    def size(self, client: int) -> int:
        return int(self.population.sizes[client - self.first])

    def tasks(self, clients: Sequence[int], round: int) -> Task:
        randoms = randomness.generators(self.seed, self.purpose, round, each=clients)
        drawn = [self._drawn(client, random) for client, random in zip(clients, randoms, strict=True)]
        items = [tree.leaves(d.items) for d in drawn]
        steps = [len(leaves[0]) for leaves in items]
        padded = [_tensor(_pad(arrays)) for arrays in zip(*items, strict=True)]
        picks = tree.with_leaves(drawn[0].items, padded)
        real = np.arange(max(steps)) < np.array(steps)[:, None]
        return Task(
            items=tree.map_subtrees(self._gather, picks, Picks),
            real=torch.as_tensor(real).to(torch.get_default_dtype()),
            examples=torch.tensor([float(d.examples) for d in drawn], dtype=torch.get_default_dtype()),
        )

    def draw(self, client: int, round: int) -> Draw:
        """One client's task of one round, by row numbers."""
        return self._drawn(client, randomness.generator(self.seed, self.purpose, round, client))

    def _drawn(self, client: int, random: np.random.Generator) -> Draw:
        view = Client(self.population, client - self.first, client, self.seed)
        if len(view.rows) == 0:
            raise InputError(f"client {view.name!r} has no examples: drop it, or give it some")
        return self.sampler(view, random)

    def _gather(self, picks: Any) -> Batch:
        dtype = torch.get_default_dtype()
        return Batch(self.population.inputs(picks.rows), picks.labels, picks.mask.to(dtype))


def stack_tasks(tasks: Sequence[Task]) -> Task:
    """Ready-made tasks of equal batch shapes -> one, short ones padded with repeated items: leaves [C, K, ...]."""
    longest = max(len(t.real) for t in tasks)
    together: Task = tree.concatenate([pad_steps(tree.unsqueeze0(t), longest) for t in tasks])
    return together


def pad_steps(tasks: Task, steps: int) -> Task:
    """Tasks padded with repeated items, which are not real, to so many: leaves [C, K, ...] -> [C, steps, ...]."""
    clients, before = tasks.real.shape
    if before == steps:
        return tasks
    items = tree.map(lambda x: torch.cat([x, x[:, :1].expand(-1, steps - before, *x.shape[2:])], 1), tasks.items)
    return Task(items, torch.cat([tasks.real, tasks.real.new_zeros(clients, steps - before)], 1), tasks.examples)


# ---- client as task: labels mean the same everywhere --------------------------------------------------------------


def batches(size: int | None = 10, *, epochs: float = 1, steps: int | None = None) -> Sampler:
    """Mini-batches of the client's own rows, shuffled afresh in each epoch; the last of an epoch may be short.

    Args:
        size: examples of a batch; None: all of them (one step an epoch).
        epochs: passes over the client's data (FedAvg's E); a fraction stops within one.
        steps: how many batches exactly, whatever the client's size; overrides epochs.
    """
    if size is not None and size < 1:
        raise InputError(f"batch size {size} must be at least 1, or None for all examples")

    def sampler(client: Client, rng: np.random.Generator) -> Draw:
        n = len(client.rows)
        b = n if size is None else min(size, n)
        per_epoch = -(-n // b)
        count = max(1, round(per_epoch * epochs)) if steps is None else steps
        epochs_drawn = -(-count // per_epoch)
        lacks = per_epoch * b - n  # by the last batch of an epoch: it repeats the epoch's first rows
        orders = [rng.permutation(n) for _ in range(epochs_drawn)]
        if lacks:
            orders = [np.concatenate([order, order[:lacks]]) for order in orders]
        where = orders[0] if epochs_drawn == 1 else np.concatenate(orders)
        return Draw(client.picks(where.reshape(-1, b)[:count], real(n, b, epochs_drawn)[:count]), n)

    @lru_cache(maxsize=256)
    def real(n: int, b: int, epochs_drawn: int) -> Array:
        """Which places of the batches of so many epochs hold a row for the first time: [K, B]."""
        found = np.ones((epochs_drawn, -(-n // b) * b), bool)
        found[:, n:] = False
        found.flags.writeable = False  # it is shared
        return found.reshape(-1, b)

    return sampler


def by_client(make: Callable[[str], Sampler]) -> Sampler:
    """A sampler of each client's own.

    Args:
        make: the client's name -> its sampler.
    """
    made = lru_cache(maxsize=None)(make)
    return lambda client, rng: made(client.name)(client, rng)


def support_query(
    support: float | int = 0.5, *, size: int | None = None, steps: int = 1, queries: int | None = None
) -> Sampler:
    """Episodes from a support and a query part of the client's rows that stay the same in every round.

    Args:
        support: the support part: a fraction (float) or a count (int) of the client's rows.
        size: examples drawn from each part for each episode; None: the whole part.
        steps: episodes a round.
        queries: at most so many rows in the query part; None: all that are left.
    """

    def sampler(client: Client, rng: np.random.Generator) -> Draw:
        n = len(client.rows)
        count = support if isinstance(support, int) else max(1, round(support * n))
        _refuse_short(client, count + 1, f"{count} for support and 1 for query")
        order = np.arange(n) if client.ordered else client.fixed("support").permutation(n)
        end = n if queries is None else count + queries
        parts = (order[:count], order[count:end])
        picked = [np.stack([rng.permutation(part)[: size or len(part)] for _ in range(steps)]) for part in parts]
        return Draw(Episode(*(client.picks(where) for where in picked)), n)  # type: ignore[arg-type]

    return sampler


def fresh_support(shots: int, *, draws: int = 1, reserve: int | None = None, queries: int = 256) -> Sampler:
    """Episodes whose support is drawn afresh each time: how adaptation from a few examples is judged.

    Args:
        shots: examples for support.
        draws: episodes.
        reserve: query examples start after this many (default: shots), so that several numbers of shots can be
            judged on the same queries, each support holding the smaller ones.
        queries: at most so many examples to score on.
    """
    after = shots if reserve is None else reserve

    def sampler(client: Client, rng: np.random.Generator) -> Draw:
        n = len(client.rows)
        _refuse_short(client, after + 1, f"{after} for support and 1 for query")
        if client.ordered:
            return _past_and_future(client, rng, shots, max(after, n // 2), draws, queries)
        order = np.stack([rng.permutation(n)[: after + queries] for _ in range(draws)])
        return Draw(
            Episode(client.picks(order[:, :shots]), client.picks(order[:, after:])),  # type: ignore[arg-type]
            n,
        )

    return sampler


def own_half(*, draws: int = 1, queries: int = 256) -> Sampler:
    """Episodes whose support is half of the client's own rows, drawn afresh each time.

    Args:
        draws: episodes.
        queries: at most so many of the other half to score on.
    """

    def sampler(client: Client, rng: np.random.Generator) -> Draw:
        n = len(client.rows)
        _refuse_short(client, 2, "1 for support and 1 for query")
        if client.ordered:
            return _past_and_future(client, rng, n // 2, n // 2, draws, queries)
        order = np.stack([rng.permutation(n)[: n // 2 + queries] for _ in range(draws)])
        return Draw(Episode(client.picks(order[:, : n // 2]), client.picks(order[:, n // 2 :])), n)  # type: ignore[arg-type]

    return sampler


def _past_and_future(client: Client, rng: np.random.Generator, shots: int, past: int, draws: int, queries: int) -> Draw:
    """Episodes with a support drawn from the client's first rows, and the rows that follow these as queries."""
    support = np.stack([rng.permutation(past)[:shots] for _ in range(draws)])
    later = np.tile(np.arange(past, min(len(client.rows), past + queries)), (draws, 1))
    return Draw(Episode(client.picks(support), client.picks(later)), len(client.rows))  # type: ignore[arg-type]


def held_out_queries(known: Population, shots: int, *, draws: int = 1, queries: int = 256) -> Sampler:
    """Episodes for a population of held-out rows: support from the same client's training rows, queries its own.

    Args:
        known: the training rows, by the same client names.
        shots: support examples; a client with fewer gives all that it has.
    """
    number = {name: i for i, name in enumerate(known.names)}

    def sampler(client: Client, rng: np.random.Generator) -> Draw:
        train = known.rows_of(number[client.name])
        support = np.stack([rng.permutation(train)[:shots] for _ in range(draws)])
        query = np.tile(client.rows[:queries], (draws, 1))
        sets = (Picks(rows, known.labels[rows], np.ones(rows.shape, bool)) for rows in (support, query))
        return Draw(Episode(*sets), len(client.rows))  # type: ignore[arg-type]

    return sampler


def triples(size: int = 10, *, steps: int = 1) -> Sampler:
    """Three disjoint batches a step, of at most `size` examples each (Per-FedAvg's D, D' and D'')."""

    def sampler(client: Client, rng: np.random.Generator) -> Draw:
        n = len(client.rows)
        _refuse_short(client, 3, "one in each of three batches")
        b = min(size, n // 3)
        order = np.stack([rng.permutation(n)[: 3 * b] for _ in range(steps)])
        parts = (client.picks(order[:, i * b : (i + 1) * b]) for i in range(3))
        return Draw(Triple(*parts), n)  # type: ignore[arg-type]

    return sampler


def with_noise(sampler: Sampler, numbers: int) -> Sampler:
    """The episodes of another sampler, each with so many standard normal numbers: for models that draw at random."""

    def noisy(client: Client, rng: np.random.Generator) -> Draw:
        drawn = sampler(client, rng)
        noise = rng.standard_normal((len(drawn.items.support.rows), numbers))
        return drawn._replace(items=NoisyBatch(drawn.items.support, drawn.items.query, noise))  # type: ignore[arg-type]

    return noisy


# ---- episodes: N classes of the client, their labels drawn afresh ---------------------------------------------------


def episodes(
    *,
    ways: int = 5,
    shots: int | tuple[int, int] = 1,
    queries: int = 15,
    count: int = 1,
    fewer_ways: bool = False,
) -> Sampler:
    """N-way K-shot episodes inside a client: classes and the order of their labels are drawn for each.

    Args:
        ways: classes of an episode (N).
        shots: support examples per class (K); a pair (low, high) draws K for each episode.
        queries: query examples per class; a class with fewer gives all that it has beyond its support.
        count: episodes a round.
        fewer_ways: let a client with fewer classes have them all, rather than refuse it (for training only:
            scores with different ways do not compare).
    """
    low, high = (shots, shots) if isinstance(shots, int) else shots
    if not (ways >= 2 and 1 <= low <= high and queries >= 1 and count >= 1):
        raise InputError(f"episodes need ways ≥ 2, shots ≥ 1, queries ≥ 1: got {ways}, {shots}, {queries}")

    def sampler(client: Client, rng: np.random.Generator) -> Draw:
        usable, order, starts = _classes(client, high + 1, ways, fewer_ways)
        n = min(ways, len(usable))
        support, query = (np.zeros((count, n, k), np.int64) for k in (high, queries))
        support_mask, query_mask = (np.zeros((count, n, k), bool) for k in (high, queries))
        for e in range(count):
            k = int(rng.integers(low, high + 1))
            for label, c in enumerate(rng.permutation(usable)[:n]):
                mine = rng.permutation(order[starts[c] : starts[c + 1]])
                support[e, label] = mine[:high]
                support_mask[e, label, :k] = True
                asked = mine[high : high + queries]
                query[e, label] = np.resize(asked, queries)
                query_mask[e, label, : len(asked)] = True
        picks = (_relabelled(client, rows, mask) for rows, mask in ((support, support_mask), (query, query_mask)))
        return Draw(Episode(*picks), int(support_mask.sum() + query_mask.sum()))  # type: ignore[arg-type]

    return sampler


def episode_batches(*, ways: int = 5, shots: int = 10, size: int = 10, steps: int = 5) -> Sampler:
    """Mini-batches from the support of one N-way episode, its labels the same in all of them: Reptile's task."""

    def sampler(client: Client, rng: np.random.Generator) -> Draw:
        usable, order, starts = _classes(client, 1, ways, False)
        chosen = rng.permutation(usable)[:ways]
        mine = [rng.permutation(order[starts[c] : starts[c + 1]])[:shots] for c in chosen]
        pool, labels = np.concatenate(mine), np.repeat(np.arange(ways), [len(m) for m in mine])
        b = min(size, len(pool))
        per_pass = len(pool) // b
        passes = [rng.permutation(len(pool))[: per_pass * b].reshape(per_pass, b) for _ in range(steps)]
        where = np.concatenate(passes)[:steps]
        return Draw(Picks(client.rows[pool[where]], labels[where], np.ones(where.shape, bool)), len(pool))

    return sampler


def _classes(client: Client, least: int, ways: int, fewer_ways: bool) -> tuple[Array, Array, Array]:
    """(usable classes, rows ordered by class, where each class starts); refuses a client with too few classes."""
    order = np.argsort(client.labels, kind="stable")
    found, counts = np.unique(client.labels, return_counts=True)
    usable = np.flatnonzero(counts >= least)
    if len(usable) < (2 if fewer_ways else ways):
        raise InputError(
            f"client {client.name!r} has {len(usable)} classes of at least {least} examples ({len(found)} classes "
            f"in all), but an episode needs {ways}: lower ways or shots, or leave such clients out (drop_short=true)"
        )
    return usable, order, np.concatenate([[0], np.cumsum(counts)])


def _relabelled(client: Client, where: Array, mask: Array) -> Picks:
    """[E, N, k] positions -> picks of [E, N·k] rows labelled 0…N−1."""
    labels = np.broadcast_to(np.arange(where.shape[1])[:, None], where.shape)
    flat = (len(where), -1)
    return Picks(client.rows[where].reshape(flat), labels.reshape(flat).copy(), mask.reshape(flat))


def _refuse_short(client: Client, least: int, what: str) -> None:
    if len(client.rows) < least:
        raise InputError(
            f"client {client.name!r} has {len(client.rows)} examples, fewer than the {least} needed ({what}): "
            "ask for fewer shots, or leave such clients out (drop_short=true)"
        )


def _tensor(array: Array) -> torch.Tensor:
    """Real numbers in the precision of models, others as they are."""
    return torch.as_tensor(array, dtype=torch.get_default_dtype() if array.dtype.kind == "f" else None)


def _pad(arrays: Sequence[Array]) -> Array:
    """[K_c, B_c, ...] of C clients -> [C, K, B, ...]: rows and labels repeat the first, masks are False."""
    if all(a.shape == arrays[0].shape for a in arrays):
        return np.stack(arrays)
    k, b = (max(a.shape[i] for a in arrays) for i in (0, 1))
    out = np.empty((len(arrays), k, b, *arrays[0].shape[2:]), arrays[0].dtype)
    for padded, array in zip(out, arrays, strict=True):
        padded[...] = False if array.dtype == bool else array[0, 0]
        padded[: array.shape[0], : array.shape[1]] = array
    return out
