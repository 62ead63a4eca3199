"""Clients one after another in each of several processes: for what threads, which share an interpreter, are slow at.

The processes are forked when an algorithm is first asked for: so they have the data and the algorithm without a copy,
and nothing is pickled. They stay for all its rounds, for what a process has warmed up (compiled convolutions, memory)
is worth as much as a few clients' work. What is sent, what clients have kept and what they make of it goes through
shared memory (`engines.handing`). A worker that dies is replaced and its clients are computed again (`engines.crew`).
"""

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from seedbed import tree
from seedbed.data.sampling import TaskSource
from seedbed.engines.crew import WorkerPool, WorkItem, why_no_workers
from seedbed.engines.memory_info import available_memory
from seedbed.engines.one_by_one import OneByOne
from seedbed.errors import InputError
from seedbed.federated import Algorithm, ClientId, MessageBatch, ServerState
from seedbed.learning.objectives import Metric
from seedbed.learning.training import Executor, Log, no_log
from seedbed.tree import Tree

WEIGHT_COPIES = 3  # of the weights that a client has: its own, their gradient, and what it sends
MB = 2**20


class Processes:
    """An engine around the reference: its results, bit for bit, however many workers there are.

    What clients' code writes elsewhere than into their messages and what they keep is lost.

    Args:
        engine: what workers do, and how many there are; clients in lockstep stay together. It evaluates, in threads.
        heard: where the engine's executor puts lines for people, which are brought over from the workers.
        say: told those lines, and how much memory the workers take.
    Attributes:
        say: may be put in place of the one that was given.
        peak: MB that all workers together took at most beyond what they share.
    Raises:
        InputError: there are no worker processes here; (in a round) the model is not on the CPU, or a worker died three
            times over the same clients.
    """

    def __init__(self, engine: OneByOne, *, heard: list[str] | None = None, say: Log = no_log):
        reason = why_no_workers()
        if reason is not None:
            raise InputError(reason)
        self.engine, self.workers = engine, engine.workers
        self._heard, self._said, self.say = [] if heard is None else heard, set[str](), say
        self._crew: WorkerPool | None = None
        self._for: Algorithm | None = None

    @property
    def population(self) -> Sequence[ClientId]:
        return self.engine.population

    @property
    def peak(self) -> float:
        return 0.0 if self._crew is None else self._crew.peak * self.workers

    @property
    def executor(self) -> Executor | None:
        return self.engine.executor

    def ask(self, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int) -> Iterator[MessageBatch]:
        if not sent:
            return
        crew, new = self._crew_for(algorithm, sent, round)
        known = list({id(x): x for payload in sent.values() for x in tree.leaves(payload)}.values())
        pieces, kept = self._pieces(list(sent)), self.engine.memory()

        def give(number: int) -> WorkItem:
            some = pieces[number]
            had = {c: tree.form_unformed(kept[c]) for c in some if c in kept}
            return WorkItem({"round": round}, ({c: sent[c] for c in some}, had), _called(some))

        found = crew.run(give, self._longest_first(pieces), known)
        for number, some in enumerate(pieces):
            words, (messages, fresh) = found[number]
            for line in words["said"]:
                self._say_once(line)
            for client, its in fresh.items():
                self.engine.keep(client, tree.map(torch.clone, its))  # the memory that it lies in is a round's
            for client, message in zip(some, messages, strict=True):
                yield MessageBatch([client], message)
        if new:
            self.say(f"processes: a worker took {crew.peak:.0f} MB at most beyond what it shares")

    def evaluate(
        self, algorithm: Algorithm, state: ServerState, source: TaskSource, metric: Metric
    ) -> dict[ClientId, Tensor]:
        """In threads of this process: there is no crew that knows the metric, and forking one for it does not pay."""
        return self.engine.evaluate(algorithm, state, source, metric)

    def close(self) -> None:
        """End the workers; asked again, there are new ones."""
        if self._crew is not None:
            self._crew.close()

    def memory(self) -> Mapping[ClientId, Tree]:
        return self.engine.memory()

    def recall(self, memory: Mapping[ClientId, Tree]) -> None:
        self.engine.recall(memory)

    def lack(self, sent: Mapping[ClientId, Tree], round: int) -> str:
        """How much memory is missing for such a round, and the way out; empty: it is enough."""
        needs, free = self._needs(sent, round), available_memory()
        if free is None or needs <= free:
            return ""
        return (
            f"{self._who(sent, needs)}, but {free:.0f} are available: use fewer workers (workers=1), or smaller rounds"
        )

    def _needs(self, sent: Mapping[ClientId, Tree], round: int) -> float:
        """MB that the workers and the messages of a round take, if clients form their weights."""
        largest = max(sent, key=self.engine.source.size)
        weights = max(_megabytes(payload) for payload in sent.values())
        task = _megabytes(self.engine.source.tasks([largest], round))
        workers = min(self.workers, len(sent))
        return workers * (WEIGHT_COPIES * weights + task) + len(sent) * weights

    def _who(self, sent: Mapping[ClientId, Tree], needs: float) -> str:
        return f"processes: {self.workers} workers and the messages of {len(sent)} clients need about {needs:.0f} MB"

    def _crew_for(self, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int) -> tuple[WorkerPool, bool]:
        """Workers that run this algorithm, and whether they are new."""
        if self._crew is not None and algorithm is self._for:
            return self._crew, False
        self.close()
        self._refuse_elsewhere(sent)
        self._say_beforehand(sent, round)
        engine, heard = self.engine, self._heard

        def do(words: Any, whole: Tree) -> tuple[Any, Tree]:
            sent, kept = whole
            heard.clear()
            fresh: dict[ClientId, Tree] = {}
            alone = OneByOne(
                engine.source, executor=engine.executor, lockstep=engine.lockstep, kept=ChainMap(fresh, kept)
            )
            messages = [group.messages for group in alone.ask(algorithm, sent, words["round"])]
            return {"said": heard}, (messages, fresh)

        self._crew, self._for = WorkerPool(do, self.workers), algorithm
        return self._crew, True

    def _pieces(self, clients: Sequence[ClientId]) -> list[Sequence[ClientId]]:
        """Clients that are computed together, in the order of the cohort."""
        size = self.engine.lockstep
        return [clients[start : start + size] for start in range(0, len(clients), size)]

    def _longest_first(self, pieces: Sequence[Sequence[ClientId]]) -> list[int]:
        """So that workers end together."""
        size = self.engine.source.size
        return sorted(range(len(pieces)), key=lambda number: -sum(size(c) for c in pieces[number]))

    def _refuse_elsewhere(self, sent: Mapping[ClientId, Tree]) -> None:
        for leaf in (leaf for payload in sent.values() for leaf in tree.leaves(payload)):
            if leaf.device.type != "cpu":
                raise InputError(
                    f"worker processes compute on the CPU, and the model is on {leaf.device}: use threads "
                    "(processes=false)"
                )

    def _say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self.say(line)

    def _say_beforehand(self, sent: Mapping[ClientId, Tree], round: int) -> None:
        lack, free = self.lack(sent, round), available_memory()
        rest = "" if free is None else f"; {free:.0f} are available"
        self.say(lack or f"{self._who(sent, self._needs(sent, round))} beside what they share{rest}")


def _called(clients: Sequence[ClientId]) -> str:
    return f"client {clients[0]}" if len(clients) == 1 else f"clients {', '.join(map(str, clients))}"


def _megabytes(whole: Tree) -> float:
    return tree.nbytes(whole) / MB
