"""The factored executor: dense layers whose weights are not formed while a client trains (`seedbed.factored`).

A client's weights of a dense layer are those that it was sent and a few rows a step; whatever else the model has, such
as convolutions, trains as it is. Exact for whatever moves along the gradients: SGD with momentum, Nesterov's, weight
decay and schedules, FedProx's pull. A weight that is used otherwise than by `F.linear`, or is differentiated through,
is formed, and trains like any other from there on.
"""

from dataclasses import dataclass, field

from torch import Tensor

from seedbed import tree
from seedbed.engines.looping import looping, stepped
from seedbed.factored import Factored, Rows
from seedbed.learning.training import Local, Say, Trained, silently
from seedbed.tasks.types import Batch, Task


@dataclass
class Factoring:
    """Trains with factored matrices where they are cheaper, and anything else in a loop.

    Args:
        always: also where they are not, to test that nothing changes.
        say: told in a line, once for each reason, what it cannot train.
    Attributes:
        trained: how many matrices stayed factored to the end of a client's training.
        refused: why others did not.
    """

    always: bool = False
    say: Say = silently
    trained: int = 0
    refused: set[str] = field(default_factory=set)

    def __call__(self, local: Local) -> Trained:
        if not local.optimizer.linear:
            self._refuse(f"the local optimiser {local.optimizer.name} is not linear in the gradients")
            return looping(local)
        steps, rows = len(local.task.real), rows_of(local.task)

        def factored(leaf: Tensor) -> Tensor:
            if isinstance(leaf, Factored) or leaf.ndim != 2 or not leaf.is_floating_point():
                return leaf
            most = float("inf") if self.always else worth(leaf)
            return Factored.of(leaf, Rows(steps, most)) if rows < most else leaf

        params = tree.map(factored, local.params)
        asked = sum(isinstance(leaf, Factored) for leaf in tree.leaves(params))
        if not asked:
            self._refuse(f"no dense layer is large enough for {rows} examples of a client")
            return looping(local)
        trained = stepped(local._replace(params=params), in_place=False)
        kept = sum(isinstance(leaf, Factored) and leaf.rows.count > 0 for leaf in tree.leaves(trained.params))
        self.trained += kept
        if kept < asked:
            self._refuse(
                "a dense layer is used otherwise than by torch.nn.functional.linear, or differentiated through"
            )
        return trained

    def _refuse(self, reason: str) -> None:
        if reason not in self.refused:
            self.say(f"executor factored: {reason}, so that clients train in a loop there")
        self.refused.add(reason)


def worth(matrix: Tensor) -> float:
    """Up to how many rows a matrix [O, I] has more numbers than they: O·I/(O + I)."""
    outputs, inputs = matrix.shape
    return outputs * inputs / (outputs + inputs)


def rows_of(task: Task) -> int:
    """How many examples pass through a model that trains on a task once, padding too."""
    return sum(batch.mask.numel() for batch in tree.parts(task.items, Batch))
