"""What a client's round costs, measured on one: examples through the model, and what is sent and kept."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from seedbed import tree
from seedbed.data.types import Batch, Task
from seedbed.federated import Algorithm
from seedbed.models import Model, ModelZoo
from seedbed.models.split import SplitNet


class Costs(NamedTuple):
    """Of one client in one round.

    Attributes:
        passes: how many examples pass forward through the model for each example of a task's items. 1: each item is
            looked at once; a step of a meta-objective looks at support and query once each.
        down, up, kept: what the client is sent, sends, and keeps for its next round, in sizes of the model.
    """

    passes: float
    down: float
    up: float
    kept: float


def costs(make: Callable[[], Algorithm], model: Model | ModelZoo, task: Task) -> Costs:
    """Run the algorithm's client once on a task, [K, B, ...], that it begins with.

    Args:
        model: the one that the algorithm computes with, or several; it must not have predicted anything yet.
    """
    rows = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal rows
        rows += len(inputs[0])

    models = model.models.values() if isinstance(model, ModelZoo) else [model]
    modules = [one.module.edge if isinstance(one.module, SplitNet) else one.module for one in models]
    handles = [module.register_forward_pre_hook(count) for module in modules]
    algorithm = make()  # now, so that copies of the model that it takes are counted at too
    sent = algorithm.send(algorithm.init(model.params), 0)
    message, kept = algorithm.client(sent, algorithm.remember(sent), task)
    for handle in handles:
        handle.remove()
    given = sum(batch.mask.numel() for batch in tree.subtrees(task.items, Batch))
    sizes = [tree.nbytes(what) / tree.nbytes(model.params) for what in (sent, message.value, kept)]
    return Costs(rows / given, *sizes)
