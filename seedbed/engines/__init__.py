"""Where clients run. Engines know nothing of what is computed or when."""

import os

from torch import nn

from seedbed.engines import ranks
from seedbed.engines.distributed import Distributed
from seedbed.engines.kept import OnDisk
from seedbed.engines.one_by_one import OneByOne
from seedbed.engines.vectorised import Vectorised
from seedbed.errors import InputError, nearest
from seedbed.federated import Engine
from seedbed.tasks.sampling import TaskSource

ENGINES = ("auto", "one_by_one", "vectorised")


def make(
    name: str,
    source: TaskSource,
    module: nn.Module,
    *,
    workers: int | None = None,
    each: bool = False,
    kept: OnDisk | None = None,
) -> Engine:
    """The engine of this name; `auto` chooses for the model. Under torchrun it is every rank's of a `Distributed`.

    Args:
        name: one of ENGINES.
        module: what clients train, for `auto`.
        workers: threads of one_by_one; None: one for each core, the ranks of a machine having equal parts of it.
        each: see `Distributed`.
        kept: where to put what clients keep; None: in memory.
    """
    mine = _own(name, source, module, workers, kept)
    return Distributed(mine, source, each=each) if ranks.launched() else mine


def _own(name: str, source: TaskSource, module: nn.Module, workers: int | None, kept: OnDisk | None) -> Engine:
    """The engine of this process."""
    if name not in ENGINES:
        raise InputError(f"unknown engine {name!r}: {nearest(name, ENGINES)}")
    if name == "auto":
        name = choose(module)
    if name == "vectorised":
        return Vectorised(source, kept=kept)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return OneByOne(source, workers=workers or max(1, cores // ranks.beside()), kept=kept)


def choose(module: nn.Module) -> str:
    """Clients stacked for dense models, where dispatch is what costs; one by one for convolutional and recurrent ones.

    A stacked convolution is a grouped one, slower than a loop, and recurrent layers cannot be stacked.
    """
    slow = (nn.modules.conv._ConvNd, nn.RNNBase)
    return "one_by_one" if any(isinstance(m, slow) for m in module.modules()) else "vectorised"


__all__ = ["ENGINES", "Distributed", "OnDisk", "OneByOne", "Vectorised", "choose", "make"]
