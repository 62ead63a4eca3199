"""Clients over several processes: each rank runs a share of the cohort, and one all-reduce adds up what they send.

Every rank runs the same schedule and the same server's step on the same numbers; only clients are shared out. Sums are
exact (`exact.py`), so that the answer is the same for any number of ranks, bit for bit, wherever each client's own
arithmetic is: always with one_by_one; the vectorised engine rounds by who is stacked with whom.

A client that keeps something stays on the rank that ran it first; others are dealt out afresh in each round, by size.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from seedbed import tree
from seedbed.data.sampling import TaskSource
from seedbed.data.types import Task
from seedbed.engines.exact_sum import LARGEST_TERM, ExactSum, largest
from seedbed.engines.one_by_one import one_thread
from seedbed.engines.process_group import ProcessGroup, current_group
from seedbed.errors import InputError
from seedbed.federated import Algorithm, ClientId, Engine, Message, MessageBatch, ServerState
from seedbed.learning.objectives import Metric
from seedbed.limits import from_json
from seedbed.serialization import meta_tree_of, pack_tree, tree_schema, unpack_tree
from seedbed.tree import Tree

MAX_HELD_BYTES, MIN_ASKED = (
    2**30,
    32,
)  # bytes of messages that an engine may hold; clients that it is asked for at least


class Distributed:
    """An engine whose clients are shared out over ranks, each of which has the same engine over the same source.

    Where the algorithm's reducer is linear, what comes out is one message, the weighted mean over all who were asked;
    memory does not grow with their number. Messages that are not finite are in no sum, and their clients are lost.
    Else every message goes to every rank.

    Args:
        engine: this rank's: `OneByOne` or `Vectorised`.
        source: the clients' tasks, for the sizes by which clients are dealt out.
        each: hand out every message all the same: for a gate, an attack or a schedule that looks at each.
        ranks: None: those that this process has joined, or it alone.
    """

    def __init__(self, engine: Engine, source: TaskSource, *, each: bool = False, ranks: ProcessGroup | None = None):
        self.engine, self.source, self.each = engine, source, each
        self.ranks = current_group() if ranks is None else ranks
        self._homes: dict[ClientId, int] = {}  # where what a client keeps is

    @property
    def population(self) -> Sequence[ClientId]:
        return self.engine.population

    def ask(self, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int) -> Iterable[MessageBatch]:
        share = self._share(list(sent), self.source)
        groups = self._asked(algorithm, {c: sent[c] for c in share}, round)
        whole = self.each or algorithm.unlike or not algorithm.reduce.linear
        device = next((leaf.device for one in sent.values() for leaf in tree.leaves(one)), None)
        return self._gathered(groups, share, device) if whole else self._summed(groups, share, device)

    def _asked(self, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int) -> Iterator[MessageBatch]:
        """Some clients after others, so that the engine never holds more messages than `HELD` has room for."""
        clients, size = list(sent), max((tree.nbytes(one) for one in sent.values()), default=0)
        some = max(MIN_ASKED, MAX_HELD_BYTES // max(1, size))
        for start in range(0, len(clients), some):
            yield from self.engine.ask(algorithm, {c: sent[c] for c in clients[start : start + some]}, round)

    def evaluate(
        self, algorithm: Algorithm, state: ServerState, source: TaskSource, metric: Metric
    ) -> dict[ClientId, Tensor]:
        share = self._share(source.clients, source)
        mine = self.engine.evaluate(algorithm, state, LocalOnly(source, share), metric) if share else {}
        scores = {c: s for part in self._everybodys(dict(mine)) for c, s in part.items()}
        return {c: scores[c] for c in source.clients}

    def memory(self) -> Mapping[ClientId, Tree]:
        if self.ranks.size == 1:
            return self.engine.memory()
        return {c: kept for part in self._everybodys(dict(self.engine.memory())) for c, kept in part.items()}

    def recall(self, memory: Mapping[ClientId, Tree]) -> None:
        if self.ranks.size == 1:
            self.engine.recall(memory)
            return
        self._homes = {c: c % self.ranks.size for c in memory}
        self.engine.recall({c: kept for c, kept in memory.items() if self._homes[c] == self.ranks.rank})

    def _share(self, clients: Sequence[ClientId], source: TaskSource) -> list[ClientId]:
        """This rank's of some clients, in the order given."""
        if self.ranks.size == 1:
            return list(clients)
        mine = set(assign_clients(clients, source, self._homes, self.ranks.size)[self.ranks.rank])
        return [c for c in clients if c in mine]

    def _everybodys(self, mine: Tree) -> list[Tree]:
        return [unpack_tree(data) for data in self.ranks.gather(pack_tree(mine))]

    # ---- every message to every rank ---------------------------------------------------------------------------

    def _gathered(
        self, groups: Iterable[MessageBatch], share: Sequence[ClientId], device: torch.device | None
    ) -> Iterator[MessageBatch]:
        mine = list(groups)
        said = [[list(group.clients), dict(group.lost)] for group in mine]
        told = self._tell({"groups": said, "keep": self._keeping(share)})
        found = self.ranks.gather(pack_tree([group.messages for group in mine]))
        for rank, (header, data) in enumerate(zip(told, found, strict=True)):
            messages = [group.messages for group in mine] if rank == self.ranks.rank else unpack_tree(data)
            for (clients, lost), stacked in zip(header["groups"], messages, strict=True):
                placed = tree.map(lambda x: x.to(device), stacked)
                yield MessageBatch(clients, placed, None, {int(c): why for c, why in lost.items()})

    # ---- sums ------------------------------------------------------------------------------------------------------

    def _summed(
        self, groups: Iterable[MessageBatch], share: Sequence[ClientId], device: torch.device | None
    ) -> Iterator[MessageBatch]:
        mine = PartialSum()
        for group in groups:
            mine.add(group)
        said = {"clients": mine.clients, "lost": mine.lost, "keep": self._keeping(share)}
        told = self._tell(said | {"like": mine.outline, "coarse": mine.sum is not None and mine.sum.coarse})
        like = next((header["like"] for header in told if header["like"]), None)
        if any(header["like"] not in (None, like) for header in told):
            raise InputError(
                "clients sent messages of unlike structure, which cannot be summed: an algorithm that does so says "
                "unlike=True"
            )
        if like is None:
            return
        total = mine.sum or ExactSum(sum(x.numel() for x in tree.leaves(meta_tree_of(like))), device)
        if any(header["coarse"] for header in told):
            total.widen()
        self.ranks.add(total.grids)
        members = sorted(c for header in told for c in header["clients"])
        lost = {int(c): why for header in told for c, why in header["lost"].items()}
        mean = tree.stack([_mean(total.total(), meta_tree_of(like))])
        yield MessageBatch(members[:1], mean if members else tree.index(mean, []), [members] if members else [], lost)

    def _keeping(self, share: Collection[ClientId]) -> list[ClientId]:
        """Who of this rank's clients is at home here; nobody where there is no other place."""
        kept = self.engine.memory() if self.ranks.size > 1 else ()
        return [c for c in share if c in kept]

    def _tell(self, mine: Mapping[str, Any]) -> list[Any]:
        """What every rank has to say of a round; who keeps something is at home where it ran."""
        told = [from_json(data) for data in self.ranks.gather(json.dumps(mine).encode())]
        for rank, header in enumerate(told):
            self._homes |= dict.fromkeys(header["keep"], rank)
        return told


class PartialSum:
    """One rank's part of a round's sum: value, numbers for people, and weight, as one vector."""

    def __init__(self) -> None:
        self.sum: ExactSum | None = None
        self.outline: Any = None  # of one message
        self.clients: list[ClientId] = []
        self.lost: dict[ClientId, str] = {}

    def add(self, group: MessageBatch) -> None:
        """Add a group's messages that are sound.

        Raises:
            InputError: their structure is another than of those before.
        """
        message, weight = group.messages, group.messages.weight
        outlined = tree_schema(_one(message))
        if self.sum is None:
            self.outline = outlined
            self.sum = ExactSum(sum(x[0].numel() for x in _numbers(message)), weight.device)
        elif outlined != self.outline:
            raise InputError(
                f"client {group.clients[0]} sent a message of another structure than others, which cannot be summed: "
                "an algorithm whose clients do so says unlike=True"
            )
        with one_thread():
            leaves = _numbers(message)
            most = torch.stack([largest(x.reshape(len(x), -1)) for x in leaves]).amax(0) * weight.double()
            wrong = [_wrong(m, w) for m, w in zip(most.tolist(), weight.tolist(), strict=True)]
            good = [i for i, why in enumerate(wrong) if not why]
            if len(good) < len(wrong):
                leaves, weight = [x[good] for x in leaves], weight[good]
            self.sum.add(leaves, weight)
        self.clients += [group.clients[i] for i in good]
        self.lost |= {c: why for c, why in zip(group.clients, wrong, strict=True) if why} | dict(group.lost)


class LocalOnly:
    """A source of some clients of another."""

    def __init__(self, source: TaskSource, clients: Sequence[ClientId]):
        self.source, self.clients = source, clients

    def size(self, client: int) -> int:
        return self.source.size(client)

    def tasks(self, clients: Sequence[int], round: int) -> Task:
        return self.source.tasks(clients, round)


def assign_clients(
    clients: Sequence[ClientId], source: TaskSource, homes: Mapping[ClientId, int], ranks: int
) -> list[list[ClientId]]:
    """Clients in shares of about the same work: those at home somewhere there, the largest of the others first.

    >>> from types import SimpleNamespace
    >>> assign_clients([0, 1, 2, 3], SimpleNamespace(size=[5, 3, 1, 1].__getitem__), {3: 0}, 2)
    [[3, 1, 2], [0]]
    """
    shares: list[list[ClientId]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for client in sorted(clients, key=lambda c: (c not in homes, -source.size(c), c)):
        rank = homes[client] if client in homes else loads.index(min(loads))
        shares[rank].append(client)
        loads[rank] += source.size(client)
    return shares


def _one(stacked: Message) -> Any:
    """What is added up of one message, as a plain tree: value, numbers for people, weight."""
    return tree.index([stacked.value, dict(sorted(stacked.info.items())), stacked.weight], 0)


def _numbers(stacked: Message) -> list[Tensor]:
    """The same of all messages of a group: leaves [c, ...]; the weight, times which everything is taken, as a 1."""
    *_, weight = parts = [stacked.value, dict(sorted(stacked.info.items())), torch.ones_like(stacked.weight)]
    assert isinstance(weight, Tensor)
    return tree.leaves(parts)


def _mean(total: Tensor, like: Any) -> Message:
    """Σ w·x of all numbers, Σ w the last -> the message that is the mean."""
    weight = total[-1]
    leaves = tree.leaves(like)
    shares = torch.split(total / weight, [leaf.numel() for leaf in leaves])
    whole = [share.reshape(leaf.shape).to(leaf.dtype) for share, leaf in zip(shares, leaves, strict=True)]
    value, info, _ = tree.with_leaves(like, whole)
    return Message(value, weight.to(leaves[-1].dtype), info)


def _wrong(most: float, weight: float) -> str:
    """Why a message is in no sum; empty where nothing is wrong. In the words of the gate."""
    if not (most < torch.inf and weight < torch.inf):
        return "not finite"
    if weight <= 0:
        return "weight not above 0"
    return "" if most <= LARGEST_TERM else "too large to be summed"
