"""Many clients at once: vmap over clients; short clients are padded with steps that change nothing."""

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import vmap

from seedbed import tree
from seedbed.data.row_references import deferred_reads
from seedbed.data.sampling import TaskSource
from seedbed.data.types import Task
from seedbed.engines.base import BaseEngine
from seedbed.engines.one_by_one import OneByOne, explained, one_thread
from seedbed.executors.cuda_graphs import GraphRecorder, pad_lengths
from seedbed.executors.fused import FusedExecutor
from seedbed.executors.loop import loop_executor
from seedbed.federated import Algorithm, ClientId, Message, MessageBatch, ServerState
from seedbed.learning.objectives import Metric
from seedbed.learning.passes import NotTogether
from seedbed.learning.training import Executor, use_executor
from seedbed.tree import Tree

CPU_CHUNK, GPU_CHUNK = 128, 1024  # clients at once, on a processor and on a GPU
GPU_COPIES = 16  # of what it is sent that a client is taken to need on a GPU
EPISODES = 16  # of a client at once, in evaluation
ALIKE, FEW = 4, 32  # a chunk of at least FEW clients ends where they become ALIKE times as large as its first


class Vectorised(BaseEngine):
    """vmap over chunks of clients of like size.

    Args:
        source: where the clients' tasks come from.
        chunk: at most so many clients at once, or in evaluation so many episodes; memory grows with it. None: CHUNK;
            on a GPU as many as have room, up to WIDE.
        executor: how the clients of a chunk train (`engines.EXECUTORS`); None: plainly, one step of all at a time.
        kept: where to put what clients keep; None: in memory.
        recorder: what records and replays, on a GPU.
    """

    def __init__(
        self,
        source: TaskSource,
        *,
        chunk: int | None = None,
        executor: Executor | None = None,
        kept: MutableMapping[ClientId, Tree] | None = None,
        recorder: GraphRecorder | None = None,
    ):
        super().__init__(source, kept=kept)
        self.executor = executor
        self.chunk = chunk
        self.recorder = recorder or GraphRecorder()

    def ask(self, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int) -> Iterator[MessageBatch]:
        kept = {c: self.kept_by(algorithm, c, sent[c]) for c in sent}
        for clients in _chunks(sent, kept, self.source, self._width(sent)):
            payload, dims = _together([sent[c] for c in clients])
            recorded = self.recorder.records(payload)
            with deferred_reads(isinstance(self.executor, FusedExecutor) and self.executor.compiled and not recorded):
                tasks = self.training_tasks(clients, round, payload)
            run = vmap(algorithm.client, in_dims=(dims, 0, 0))
            given = payload, tree.stack([kept[c] for c in clients]), pad_lengths(tasks) if recorded else tasks
            try:
                with use_executor(self.executor):
                    messages, after = explained(self.recorder.run, algorithm, run, *given)
            except NotTogether:
                messages, after = _one_after_another(algorithm, [sent[c] for c in clients], given[1], tasks)
            if tree.leaves(after):
                for i, client in enumerate(clients):
                    self.keep(client, tree.index(after, i))
            yield MessageBatch(clients, messages)

    def evaluate(
        self, algorithm: Algorithm, state: ServerState, source: TaskSource, metric: Metric
    ) -> dict[ClientId, Tensor]:
        scores: dict[ClientId, Tensor] = {}
        sent = {c: algorithm.send(state, c) for c in source.clients}
        kept = {c: self.kept_by(algorithm, c, sent[c]) for c in sent}
        for clients in _chunks(sent, kept, source, max(1, self._width(sent) // EPISODES)):
            payload, dims = _together([sent[c] for c in clients])
            task = self.tasks(source, clients, 0, payload)

            def score(sent: Tree, kept: Tree, episodes: Any) -> Tensor:
                def one(episode: Any) -> Tensor:
                    return metric(algorithm.personalise(sent, kept, episode.support), episode.query)

                return vmap(one, chunk_size=EPISODES)(episodes)

            run = vmap(score, in_dims=(dims, 0, 0))
            try:
                found = explained(run, payload, tree.stack([kept[c] for c in clients]), task.items)
            except NotTogether:
                scores.update(OneByOne(source, kept=self._kept).evaluate_clients(algorithm, state, metric, clients))
                continue
            read = zip(clients, found.cpu(), task.real.cpu().bool(), strict=True)  # of all at once: a GPU is waited for
            scores.update((c, s[real]) for c, s, real in read)
        return {c: scores[c] for c in source.clients}

    def _width(self, sent: Mapping[ClientId, Tree]) -> int:
        """How many clients at once. It depends on what memory a GPU has, not on what is free: results round by it."""
        first = next((leaf for one in sent.values() for leaf in tree.leaves(one)), None)
        if self.chunk is not None or first is None or not first.is_cuda:
            return self.chunk or CPU_CHUNK
        room = torch.cuda.get_device_properties(first.device).total_memory // GPU_COPIES
        return max(1, min(GPU_CHUNK, room // max(tree.nbytes(one) for one in sent.values())))


def _chunks(
    sent: Mapping[ClientId, Tree], kept: Mapping[ClientId, Tree], source: TaskSource, size: int
) -> Iterator[list[ClientId]]:
    """Clients that can be stacked, those of like size together, so that little is padding."""
    ordered = sorted(sent, key=lambda c: (source.size(c), c))
    for alike in _alike({c: (sent[c], kept[c]) for c in ordered}):
        yield from _sized(alike, source, size)


def _sized(clients: list[ClientId], source: TaskSource, size: int) -> list[list[ClientId]]:
    """Clients in order of size, cut so that little is padding; a few go along with larger ones, which is cheaper."""
    chunks: list[list[ClientId]] = []
    for client in clients:
        last = chunks[-1] if chunks else []
        much = len(last) >= FEW and source.size(client) > ALIKE * source.size(last[0])
        if not last or len(last) == size or much:
            chunks.append([client])
        else:
            last.append(client)
    return chunks


def _alike(trees: Mapping[ClientId, tuple[Tree, Tree]]) -> list[list[ClientId]]:
    """Clients in groups whose trees have the same structure and shapes: one group, unless their models differ."""
    groups: list[tuple[Any, list[ClientId]]] = []
    kinds: dict[int, Any] = {}  # of what was sent, which is mostly one object for all
    for client, (sent, kept) in trees.items():
        if id(sent) not in kinds:
            kinds[id(sent)] = tree.kind(sent)
        kind = kinds[id(sent)], tree.kind(kept)
        found = next((members for other, members in groups if other == kind), None)
        if found is None:
            groups.append((kind, [client]))
        else:
            found.append(client)
    return [members for _, members in groups]


def _together(payloads: list[Tree]) -> tuple[Tree, int | None]:
    """One tree for all clients, and where vmap finds the clients in it: as it is (None) if all were sent
    the same tensors, else stacked (0).

    All or nothing: a leaf that some versions of a model have in common is another object after a restart, and sums of
    stacked numbers round otherwise.
    """
    first = payloads[0]
    if all(other is first for other in payloads):
        return first, None
    columns = zip(*map(tree.leaves, payloads), strict=True)
    if all(leaf is column[0] for column in columns for leaf in column):
        return first, None
    return tree.stack(payloads), 0


def _one_after_another(algorithm: Algorithm, sent: list[Tree], kept: Tree, tasks: Task) -> tuple[Message, Tree]:
    """What vmap would give, of clients whose batches must pass through the model one by one, without padding."""
    found = []
    for i, payload in enumerate(sent):
        task = cast(Task, tree.index(tasks, i))
        steps = task.real.bool().nonzero()[:, 0]
        own = task._replace(items=tree.index(task.items, steps), real=task.real[steps])
        with one_thread(), torch.no_grad(), use_executor(loop_executor):
            found.append(algorithm.client(payload, tree.index(kept, i), own))
    return cast(tuple[Message, Tree], tree.stack(found))
