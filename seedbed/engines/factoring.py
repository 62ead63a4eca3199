"""The factored executor: dense layers whose weights are not formed while a client trains (`seedbed.factored`).

A client's weights of a dense layer are those that it was sent and a few rows a step; whatever else the model has, such
as convolutions, trains as it is. Exact for whatever moves along the gradients: SGD with momentum, Nesterov's, weight
decay and schedules, FedProx's pull. A weight that is used otherwise than by `F.linear`, or is differentiated through,
is formed, and so is all that an optimiser makes of it that is not linear.
"""

from dataclasses import dataclass

from torch import Tensor

from seedbed import tree
from seedbed.engines.looping import looping, stepped
from seedbed.factored import Factored, Rows
from seedbed.learning.training import Local, Trained
from seedbed.tasks.types import Batch, Task


@dataclass(frozen=True)
class Factoring:
    """Trains with factored matrices where they are cheaper.

    Args:
        always: also where they are not, to test that nothing changes.
    """

    always: bool = False

    def __call__(self, local: Local) -> Trained:
        if not local.optimizer.linear:
            return looping(local)
        steps, rows = len(local.task.real), rows_of(local.task)

        def factored(leaf: Tensor) -> Tensor:
            if isinstance(leaf, Factored) or leaf.ndim != 2 or not leaf.is_floating_point():
                return leaf
            if self.always:
                return Factored.of(leaf, Rows(steps))
            most = worth(leaf)
            return Factored.of(leaf, Rows(steps, most)) if rows < most else leaf

        return stepped(local._replace(params=tree.map(factored, local.params)), in_place=False)


def worth(matrix: Tensor) -> float:
    """Up to how many rows a matrix [O, I] has more numbers than they: O·I/(O + I)."""
    outputs, inputs = matrix.shape
    return outputs * inputs / (outputs + inputs)


def rows_of(task: Task) -> int:
    """How many examples pass through a model that trains on a task once, padding too."""
    return sum(batch.mask.numel() for batch in tree.parts(task.items, Batch))
