"""What a client's round costs, measured on one: examples through the model, and what is sent and kept."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from seedbed import tree
from seedbed.data.types import Batch, Task
from seedbed.federated import Algorithm, params_of
from seedbed.models import Model, ModelZoo
from seedbed.models.model import counting_rows
from seedbed.models.split import SplitNet
from seedbed.rounds.gossip import is_mixed


class Costs(NamedTuple):
    """Of one client in one round.

    Attributes:
        passes: how many examples pass forward through the model for each example of a task's items. 1: each item is
            looked at once; a step of a meta-objective looks at support and query once each.
        down, up, kept: what the client is sent, sends, and keeps for its next round, in sizes of its own model.
        link: what a peer sends along a link on gossip: its state but for whole numbers, in sizes of the model.
        model: bytes of its own model.
    """

    passes: float
    down: float
    up: float
    kept: float
    link: float
    model: int


def costs(make: Callable[[], Algorithm], model: Model | ModelZoo, task: Task) -> Costs:
    """Run the algorithm's client once on a task, [K, B, ...], that it begins with.

    Args:
        model: the one that the algorithm computes with, or several.
    """
    rows = 0

    def count(module: nn.Module, passed: int) -> None:
        nonlocal rows
        rows += passed * (_shapes(module) in counted)

    models = list(model.models.values()) if isinstance(model, ModelZoo) else [model]
    modules = [one.module.edge if isinstance(one.module, SplitNet) else one.module for one in models]
    counted = [_shapes(module) for module in modules]  # a model computes with copies of its module
    algorithm = make()
    state = algorithm.init(model.params)
    sent = algorithm.send(state, 0)
    with counting_rows(count):
        message, kept = algorithm.client(sent, algorithm.remember(sent), task)
    given = sum(batch.mask.numel() for batch in tree.subtrees(task.items, Batch))
    own = tree.nbytes(params_of(sent)) if isinstance(model, ModelZoo) else tree.nbytes(model.params)
    link = [leaf for leaf in tree.leaves(state) if is_mixed(leaf)]
    down, up, keeps, along = (tree.nbytes(what) / own for what in (sent, message.value, kept, link))
    return Costs(rows / given, down, up, keeps, along, own)


def _shapes(module: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(p.shape)) for name, p in module.named_parameters()]
