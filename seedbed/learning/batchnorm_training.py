"""Training and using models whose batch normalisation has statistics of the client's own.

Shapes: K items, B examples of a batch.
"""

from collections.abc import Collection
from typing import Protocol

import torch
from torch import Tensor

from seedbed import tree
from seedbed.data.types import Batch, Task
from seedbed.learning.training import Objective, Params


class WithBatchStatistics(Protocol):
    """What must be known of such a model; `Model` has it."""

    @property
    def normalising(self) -> Collection[str]:
        """The names of all that belongs to normalisation; empty: the model has none."""
        ...

    @property
    def statistics(self) -> Collection[str]:
        """The names of those that are measured, not trained: of each layer `mean`, `var` and `count`."""
        ...

    def measure(self, params: Params, x: Tensor, mask: Tensor) -> Params:
        """The params with the statistics of the real examples of a batch."""
        ...


def with_batch_statistics(loss: Objective, model: WithBatchStatistics) -> Objective:
    """The loss of a batch under the batch's own statistics, differentiated through them: how such a model trains."""
    return lambda params, batch: loss(model.measure(params, batch.x, batch.mask), batch)


def measure_statistics(model: WithBatchStatistics, params: Params, task: Task) -> Params:
    """The params with the statistics of all real examples of a task of batches."""
    mask = task.items.mask * task.real[:, None]  # [K, B]
    return model.measure(params, task.items.x.flatten(0, 1), mask.flatten())


def measure_statistics_once(model: WithBatchStatistics, params: Params, support: Batch) -> Params:
    """The params as they are where they have statistics, else with those of the support set."""
    counts = [params[n] for n in model.statistics if n.endswith(".count")]
    if not counts:
        return params
    return tree.where(torch.stack(counts).sum() > 0, params, model.measure(params, support.x, support.mask))
