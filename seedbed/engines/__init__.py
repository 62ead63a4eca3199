"""Where clients run, and by which executor. Engines know nothing of what is computed or when."""

import os
from collections.abc import Callable
from functools import partial

from torch import nn

from seedbed.data.sampling import TaskSource
from seedbed.engines import process_group
from seedbed.engines.autotune import IN_PROCESSES, AutoEngine, Make, TuningCache
from seedbed.engines.client_state_store import ClientStateStore
from seedbed.engines.crew import why_no_workers
from seedbed.engines.distributed import Distributed
from seedbed.engines.one_by_one import OneByOne, one_thread
from seedbed.engines.processes import Processes
from seedbed.engines.vectorised import Vectorised
from seedbed.errors import InputError, closest_name
from seedbed.executors.cuda_graphs import GraphRecorder
from seedbed.executors.factored import FactoredExecutor
from seedbed.executors.fused import FusedExecutor
from seedbed.executors.loop import loop_executor
from seedbed.federated import Engine
from seedbed.learning.training import Executor, Log, no_log

ENGINES = ("auto", "one_by_one", "vectorised")
LOCKSTEP = 16  # clients that share products with large factored matrices
CLIENTS_A_PIECE = 5  # of them in a worker process: a piece of work, however many processes there are
EXECUTORS = {
    "loop": "one_by_one",
    "stacked": "vectorised",
    "factored": "one_by_one",
    "batched": "vectorised",
    "fused": "vectorised",
}
ALONE = tuple(name for name, engine in EXECUTORS.items() if engine == "one_by_one")  # whose workers may be processes


def make(
    name: str,
    source: TaskSource,
    module: nn.Module,
    *,
    workers: int | None = None,
    executor: str = "auto",
    processes: bool | None = None,
    plans: TuningCache = TuningCache(),
    each: bool = False,
    summed: bool = False,
    kept: ClientStateStore | None = None,
) -> Engine:
    """The engine of this name with the executor of this name; `auto` measures which is fastest. Under torchrun it is
    every rank's of a `Distributed`.

    Args:
        name: one of ENGINES.
        module: what clients train, for `auto`: what is slow for its kind on a CPU is not tried there; over ranks
            (which must choose alike) and with `kept` nothing is.
        workers: threads or processes; None: one for each core, the ranks of a machine having equal parts of it; for a
            GPU, which works for all clients, one.
        executor: auto, or one of EXECUTORS.
        processes: workers are processes, not threads; for `auto` they may be. They are forked, which not every library
            in a program stands, so that nobody gets them who has not asked.
        plans: where what is measured is kept, and who is told of it.
        each: see `Distributed`.
        summed: have messages added up as they come, in a `Distributed` that is alone: for more than there is room for.
        kept: where to put what clients keep; None: in memory.
    Raises:
        InputError: there is no such engine or executor, they do not go together, or there are no worker processes for
            them or here.
    """
    mine = _own(name, source, module, workers, executor, processes, plans, kept)
    return Distributed(mine, source, each=each) if process_group.is_torchrun() or summed else mine


def _own(
    name: str,
    source: TaskSource,
    module: nn.Module,
    workers: int | None,
    executor: str,
    processes: bool | None,
    plans: TuningCache,
    kept: ClientStateStore | None,
) -> Engine:
    """The engine of this process."""
    if name not in ENGINES:
        raise InputError(f"unknown engine {name!r}: {closest_name(name, ENGINES)}")
    if executor not in ("auto", *EXECUTORS):
        raise InputError(f"unknown executor {executor!r}: {closest_name(executor, ['auto', *EXECUTORS])}")
    if executor != "auto" and name not in ("auto", EXECUTORS[executor]):
        raise InputError(
            f"the executor {executor} is one of the engine {EXECUTORS[executor]}, not of {name}: leave one of them out"
        )
    if processes:
        _refuse_processes(name, executor)
    elsewhere = any(p.device.type != "cpu" for p in module.parameters())
    threads = workers or (1 if elsewhere else max(1, cores() // process_group.local_world_size()))
    if executor != "auto":
        return make_executing(executor, threads, plans.say, kept, processes=bool(processes))(source)
    usual = choose(module) if name == "auto" else name
    judge = plain_executor(usual)
    if process_group.is_torchrun() or kept is not None:
        judge = plain_executor("one_by_one") if processes else judge
        return make_executing(judge, threads, plans.say, kept, processes=bool(processes))(source)
    also = EXECUTORS.values() if elsewhere else ["one_by_one"]
    tried = [e for e, engine in EXECUTORS.items() if engine == usual or (name == "auto" and engine in also)]
    makes = {e: make_executing(e, threads) for e in tried}
    if processes:
        makes |= {e + IN_PROCESSES: make_executing(e, threads, processes=True) for e in tried if e in ALONE}
    return AutoEngine(source, makes, judge=judge, plans=plans, workers=threads)


def _refuse_processes(name: str, executor: str) -> None:
    if name == "vectorised" or executor not in ("auto", *ALONE):
        what = f"executor {executor}" if executor != "auto" else f"engine {name}"
        raise InputError(
            f"the {what} computes many clients at once, in one process: leave processes=true out, or use an executor "
            f"that has worker processes ({', '.join(ALONE)})"
        )
    reason = why_no_workers()
    if reason is not None:
        raise InputError(reason)


def make_executing(
    executor: str, threads: int, say: Log = no_log, kept: ClientStateStore | None = None, *, processes: bool = False
) -> Make:
    """An engine whose clients train by this executor, for any source.

    Where the fused kernel cannot be compiled, clients train batched: `say` is told why.

    Args:
        processes: with worker processes instead of threads, for those of ALONE.
    """
    if executor == "batched":
        return partial(_stacked, partial(FusedExecutor, threads, say, compiled=False), say, kept)
    if executor not in ALONE:
        return partial(_stacked, partial(FusedExecutor, threads, say) if executor == "fused" else None, say, kept)

    def make(source: TaskSource) -> OneByOne | Processes:
        heard: list[str] = []
        tell = heard.append if processes else say
        engine = (
            OneByOne(source, workers=threads, executor=loop_executor, kept=kept, recorder=GraphRecorder(say=tell))
            if executor == "loop"
            else OneByOne(
                source,
                workers=threads,
                executor=FactoredExecutor(say=tell),
                lockstep=CLIENTS_A_PIECE if processes else LOCKSTEP,
                kept=kept,
            )
        )
        return Processes(engine, heard=heard, say=say) if processes else engine

    return make


def _stacked(
    executor: Callable[[], Executor] | None, say: Log, kept: ClientStateStore | None, source: TaskSource
) -> Vectorised:
    """Each engine has an executor of its own."""
    return Vectorised(source, executor=executor and executor(), kept=kept, recorder=GraphRecorder(say=say))


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def plain_executor(engine: str) -> str:
    """The executor of an engine that can train anything."""
    return next(executor for executor, its in EXECUTORS.items() if its == engine)


def choose(module: nn.Module) -> str:
    """Clients stacked for dense models, where dispatch is what costs; one by one for convolutional and recurrent ones.

    A stacked convolution is a grouped one, slower than a loop, and recurrent layers cannot be stacked.
    """
    slow = (nn.modules.conv._ConvNd, nn.RNNBase)
    return "one_by_one" if any(isinstance(m, slow) for m in module.modules()) else "vectorised"


__all__ = [
    "ENGINES",
    "EXECUTORS",
    "AutoEngine",
    "ClientStateStore",
    "Distributed",
    "OneByOne",
    "Processes",
    "TuningCache",
    "Vectorised",
    "choose",
    "cores",
    "make",
    "make_executing",
    "one_thread",
    "plain_executor",
]
