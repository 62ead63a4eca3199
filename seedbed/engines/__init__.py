"""Where clients run, and by which executor. Engines know nothing of what is computed or when."""

import os
from functools import partial

from torch import nn

from seedbed.engines import ranks
from seedbed.engines.distributed import Distributed
from seedbed.engines.factoring import Factoring
from seedbed.engines.fused import Fused
from seedbed.engines.fused.compiling import kernel
from seedbed.engines.kept import OnDisk
from seedbed.engines.looping import looping
from seedbed.engines.one_by_one import OneByOne, one_thread
from seedbed.engines.planning import Make, Planned, Plans
from seedbed.engines.vectorised import Vectorised
from seedbed.errors import InputError, nearest
from seedbed.federated import Engine
from seedbed.learning.training import Say, silently
from seedbed.tasks.sampling import TaskSource

ENGINES = ("auto", "one_by_one", "vectorised")
LOCKSTEP = 16  # clients that share products with large factored matrices
EXECUTORS = {
    "loop": "one_by_one",
    "stacked": "vectorised",
    "factored": "one_by_one",
    "batched": "vectorised",
    "fused": "vectorised",
}


def make(
    name: str,
    source: TaskSource,
    module: nn.Module,
    *,
    workers: int | None = None,
    executor: str = "auto",
    plans: Plans = Plans(),
    each: bool = False,
    kept: OnDisk | None = None,
) -> Engine:
    """The engine of this name with the executor of this name; `auto` measures which is fastest. Under torchrun it is
    every rank's of a `Distributed`.

    Args:
        name: one of ENGINES.
        module: what clients train, for `auto`: what is slow for its kind is not tried; off the CPU, over ranks (which
            must choose alike) and with `kept` nothing is.
        workers: threads; None: one for each core, the ranks of a machine having equal parts of it.
        executor: auto, or one of EXECUTORS.
        plans: where what is measured is kept, and who is told of it.
        each: see `Distributed`.
        kept: where to put what clients keep; None: in memory.
    """
    mine = _own(name, source, module, workers, executor, plans, kept)
    return Distributed(mine, source, each=each) if ranks.launched() else mine


def _own(
    name: str,
    source: TaskSource,
    module: nn.Module,
    workers: int | None,
    executor: str,
    plans: Plans,
    kept: OnDisk | None,
) -> Engine:
    """The engine of this process."""
    if name not in ENGINES:
        raise InputError(f"unknown engine {name!r}: {nearest(name, ENGINES)}")
    if executor not in ("auto", *EXECUTORS):
        raise InputError(f"unknown executor {executor!r}: {nearest(executor, ['auto', *EXECUTORS])}")
    if executor != "auto" and name not in ("auto", EXECUTORS[executor]):
        raise InputError(
            f"the executor {executor} is one of the engine {EXECUTORS[executor]}, not of {name}: leave one of them out"
        )
    threads = workers or max(1, cores() // ranks.beside())
    if executor != "auto":
        return make_executing(executor, threads, plans.say, kept)(source)
    usual = choose(module) if name == "auto" else name
    judge = plain_executor(usual)
    if ranks.launched() or kept is not None or any(p.device.type != "cpu" for p in module.parameters()):
        return make_executing(judge, threads, kept=kept)(source)
    tried = [e for e, engine in EXECUTORS.items() if engine == usual or (name == "auto" and engine == "one_by_one")]
    return Planned(source, {e: make_executing(e, threads, silently) for e in tried}, judge=judge, plans=plans)


def make_executing(executor: str, threads: int, say: Say = silently, kept: OnDisk | None = None) -> Make:
    """An engine whose clients train by this executor, for any source.

    Where the fused kernel cannot be compiled, clients train batched: `say` is told why.
    """
    if executor == "loop":
        return partial(OneByOne, workers=threads, executor=looping, kept=kept)
    if executor == "factored":
        return lambda source: OneByOne(
            source, workers=threads, executor=Factoring(say=say), lockstep=LOCKSTEP, kept=kept
        )
    if executor == "batched":
        return lambda source: Vectorised(source, executor=Fused(threads, say, compiled=False), kept=kept)
    return partial(_fused, threads, say, kept) if executor == "fused" else partial(Vectorised, kept=kept)


def _fused(threads: int, say: Say, kept: OnDisk | None, source: TaskSource) -> Vectorised:
    compiled = True
    try:
        kernel()
    except InputError as reason:
        compiled = False
        say(f"executor fused: {reason}; clients train batched instead")
    return Vectorised(source, executor=Fused(threads, say, compiled), kept=kept)


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
    "Distributed",
    "OnDisk",
    "OneByOne",
    "Planned",
    "Plans",
    "Vectorised",
    "choose",
    "cores",
    "make",
    "make_executing",
    "one_thread",
    "plain_executor",
]
