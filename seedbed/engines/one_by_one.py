"""Clients one after another, in plain Python: the reference, and the one to debug with.

With `workers`, several clients run side by side in threads (PyTorch computes outside Python's lock), each by the same
plain code: for convolutional models on a CPU this is also the fast way, because a convolution with weights of its
own for every client is slower than one client's after another's.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from seedbed import tree
from seedbed.data.sampling import TaskSource
from seedbed.engines.base import BaseEngine
from seedbed.errors import InputError
from seedbed.executors.cuda_graphs import GraphRecorder, pad_lengths
from seedbed.executors.lockstep import run_in_lockstep
from seedbed.federated import Algorithm, ClientId, MessageBatch, ServerState
from seedbed.learning.objectives import Metric
from seedbed.learning.training import Executor, use_executor
from seedbed.tree import Tree

A = TypeVar("A")
B = TypeVar("B")


class OneByOne(BaseEngine):
    """The reference engine.

    Args:
        source: where the clients' tasks come from.
        workers: how many clients run side by side; 1: none.
        executor: how a client trains (`engines.EXECUTORS`); None: plainly, one step at a time.
        lockstep: so many clients share their products with large factored matrices; 1: none does.
        kept: where to put what clients keep; None: in memory.
        recorder: what records and replays, on a GPU, clients who are alone: not side by side, nor in lockstep.
    """

    def __init__(
        self,
        source: TaskSource,
        *,
        workers: int = 1,
        executor: Executor | None = None,
        lockstep: int = 1,
        kept: MutableMapping[ClientId, Tree] | None = None,
        recorder: GraphRecorder | None = None,
    ):
        super().__init__(source, kept=kept)
        self.recorder = (recorder or GraphRecorder()) if workers == lockstep == 1 else None
        self.workers, self.lockstep = workers, lockstep
        self.executor = executor
        self._pool = ThreadPoolExecutor(workers) if workers > 1 else None

    def ask(self, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int) -> Iterator[MessageBatch]:
        def run(client: ClientId) -> tuple[ClientId, MessageBatch, Tree]:
            task = self.training_tasks([client], round, sent[client])
            given = sent[client], self.kept_by(algorithm, client, sent[client])
            # Nobody differentiates through a client: see `learning.training.gradient`.
            with torch.no_grad(), use_executor(self.executor):
                if self.recorder and self.recorder.records(sent[client]):
                    even = tree.index(pad_lengths(task), 0)
                    message, kept = self.recorder.run(algorithm, algorithm.client, *given, even)
                else:
                    message, kept = explained(algorithm.client, *given, tree.index(task, 0), vectorised=False)
            return client, MessageBatch([client], tree.unsqueeze0(message)), kept

        for client, group, kept in self._side_by_side(run, sent) if self.lockstep == 1 else self._met(run, sent):
            self.keep(client, kept)
            yield group

    def evaluate(
        self, algorithm: Algorithm, state: ServerState, source: TaskSource, metric: Metric
    ) -> dict[ClientId, Tensor]:
        """Personalise on each episode's support, score on its query: {client: scores [E]}."""
        return self.evaluate_clients(algorithm, state, metric, source.clients, source)

    def evaluate_clients(
        self,
        algorithm: Algorithm,
        state: ServerState,
        metric: Metric,
        clients: Sequence[ClientId],
        source: TaskSource | None = None,
    ) -> dict[ClientId, Tensor]:
        """As `evaluate`, of some clients; source: None: the engine's own."""
        source = self.source if source is None else source

        def score(client: ClientId) -> Tensor:
            sent = algorithm.send(state, client)
            task = tree.index(self.tasks(source, [client], 0, sent), 0)
            kept = self.kept_by(algorithm, client, sent)
            episodes = [tree.index(task.items, k) for k in range(len(task.real)) if task.real[k]]
            with torch.no_grad():
                return torch.stack([metric(algorithm.personalise(sent, kept, e.support), e.query) for e in episodes])

        return dict(zip(clients, self._side_by_side(score, clients), strict=True))

    def _met(self, run: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
        with one_thread():
            yield from run_in_lockstep(run, list(items), self.lockstep, self.workers)

    def _side_by_side(self, run: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
        """map, in order, over the workers; each computes with one core, as many are at work.

        Whatever the number of workers, the arithmetic is that of one thread: so are the results, bit for bit.
        """
        with one_thread():
            yield from map(run, items) if self._pool is None else self._pool.map(run, items)


FUNCTORCH = (
    "vmap",
    "functorch",
    "batching rule",
    "torch.func",
    "setup_context",
    "in-place operation",
    "derivative for",
)


def explained(run: Callable[..., B], *arguments: Any, vectorised: bool = True) -> B:
    """Run; what PyTorch's transforms cannot do is raised in one line, with the line of code and the way out."""
    try:
        if not vectorised:
            return run(*arguments)
        with one_thread(), torch.enable_grad():  # under vmap, gradients are functional ones
            return run(*arguments)
    except RuntimeError as error:
        if not any(word in str(error) for word in FUNCTORCH):
            raise
        trace, where = error.__traceback__, "?"
        while trace is not None:
            name = trace.tb_frame.f_code.co_filename
            if "/torch/" not in name and "\\torch\\" not in name:
                where = f"{name}:{trace.tb_lineno}"
            trace = trace.tb_next
        reason = str(error).splitlines()[0]
        if vectorised:
            raise InputError(
                f"the vectorised engine cannot run this model or algorithm for many clients at once ({where}: "
                f"{reason}): use the engine one_by_one"
            ) from error
        raise InputError(
            f"the model cannot be differentiated as this algorithm does ({where}: {reason}): take an order of the "
            "gradient that differentiates once (order='first'), or write the operation in PyTorch's plain functions"
        ) from error


@contextmanager
def one_thread() -> Iterator[None]:
    """Operations inside use one core each: on the small tensors of clients, waiting for others costs far more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
