"""The factored executor: dense layers whose weights are not formed in training (`seedbed.lowrank.factored_matrix`).

A client's weights of a dense layer are those that it was sent and a few rows a step; whatever else the model has, such
as convolutions, trains as it is. Exact for whatever moves along the gradients: SGD with momentum, Nesterov's, weight
decay and schedules, FedProx's pull. A weight that is used otherwise than by `F.linear`, or is differentiated through,
is formed, and trains like any other from there on.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from seedbed import tree
from seedbed.data.types import Batch, Task
from seedbed.executors import lockstep
from seedbed.executors.grouped_step import NotGroupable, all_without_mask, can_group, core_objective, grouped_train
from seedbed.executors.lockstep import SharedProducts, split_columns
from seedbed.executors.loop import loop_executor, train_by_steps
from seedbed.learning.training import LocalWork, Log, Objective, TrainResult, no_log
from seedbed.lowrank.factored_matrix import Factored, Multiply, NotFactorable, OuterProducts, multiplying


@dataclass
class FactoredExecutor:
    """Trains with factored matrices where they are cheaper, and anything else in a loop.

    Clients in a meeting (`engines.meeting`) whose objective is the same train abreast, and share products.

    Args:
        always: also where they are not, to test that nothing changes.
        say: told in a line, once for each reason, what it cannot train.
    Attributes:
        trained: how many matrices stayed factored to the end of a client's training.
        refused: why others did not.
        abreast: how many clients were trained abreast with others.
    """

    always: bool = False
    say: Log = no_log
    trained: int = 0
    refused: set[str] = field(default_factory=set)
    abreast: int = 0
    _alone: list[Objective] = field(default_factory=list)  # which must be asked client by client
    _pools: dict[int, tuple[ThreadPoolExecutor, ThreadPoolExecutor]] = field(default_factory=dict)

    def __call__(self, local: LocalWork) -> TrainResult:
        others = lockstep.current_lockstep()
        if others is not None and not torch.is_grad_enabled():
            return others(self.together, local)
        return self._one(local)

    @torch.no_grad()
    def together(self, locals: Sequence[LocalWork], workers: int) -> list[TrainResult]:
        """Train clients, in so many threads; the result does not depend on how many."""
        ready = [self._factored(local) for local in locals]
        ends: dict[int, TrainResult] = {}
        for group in _groups(ready):
            some = [own for i in group if (own := ready[i]) is not None]
            if len(some) > 1 and core_objective(some[0].objective) not in self._alone:
                ends |= dict(zip(group, self._abreast(some, workers), strict=False))
        left = [i for i in range(len(locals)) if i not in ends]
        ends |= dict(zip(left, self._dealt(self._one, [locals[i] for i in left], workers), strict=True))
        return [ends[i] for i in range(len(locals))]

    def _one(self, local: LocalWork) -> TrainResult:
        ready = self._factored(local)
        if ready is None:
            return loop_executor(local)
        return self._counted(ready, train_by_steps(ready, in_place=False))

    def _factored(self, local: LocalWork) -> LocalWork | None:
        """With its dense layers factored where that is cheaper; None: nowhere."""
        if not local.optimizer.linear:
            self._refuse(f"the local optimiser {local.optimizer.name} is not linear in the gradients")
            return None
        steps, rows = len(local.task.real), examples_per_task(local.task)

        def factored(leaf: Tensor) -> Tensor:
            if isinstance(leaf, Factored) or leaf.ndim != 2 or not leaf.is_floating_point():
                return leaf
            most = float("inf") if self.always else is_worthwhile(leaf)
            return Factored.of(leaf, OuterProducts(steps, most)) if rows < most else leaf

        params = tree.map(factored, local.params)
        if not any(isinstance(leaf, Factored) for leaf in tree.leaves(params)):
            self._refuse(f"no dense layer is large enough for {rows} examples of a client")
            return None
        return local._replace(params=params)

    def _abreast(self, group: Sequence[LocalWork], workers: int) -> Sequence[TrainResult]:
        """Nothing, if they must be trained one by one."""
        shares = _shares(all_without_mask(group), workers)
        if len(shares) == 1:
            ends = [_walked(shares[0], split_columns)]
        else:
            walkers, helpers = self._pools_of(workers)
            products = SharedProducts(len(shares), helpers)

            def walk(seat: int) -> list[TrainResult] | None:
                try:
                    return _walked(shares[seat], partial(products.multiply, seat))
                finally:
                    products.leave()

            ends = _all_done([walkers.submit(walk, seat) for seat in range(len(shares))])
        found = [end for share in ends for end in share or ()]
        if None in ends:
            self._alone.append(core_objective(group[0].objective))
            return []
        self.abreast += len(found)
        return [self._counted(local, end) for local, end in zip(group, found, strict=True)]

    def _dealt(
        self, train: Callable[[LocalWork], TrainResult], locals: Sequence[LocalWork], workers: int
    ) -> Sequence[TrainResult]:
        if workers == 1 or len(locals) < 2:
            return [train(local) for local in locals]
        walkers, _ = self._pools_of(workers)
        return _all_done([walkers.submit(torch.no_grad()(train), local) for local in locals])

    def _pools_of(self, workers: int) -> tuple[ThreadPoolExecutor, ThreadPoolExecutor]:
        """Threads to walk with, and threads to multiply with: kept, because each has memory of its own."""
        if workers not in self._pools:
            self._pools[workers] = ThreadPoolExecutor(workers), ThreadPoolExecutor(workers)
        return self._pools[workers]

    def _counted(self, asked: LocalWork, trained: TrainResult) -> TrainResult:
        wanted = sum(isinstance(leaf, Factored) for leaf in tree.leaves(asked.params))
        kept = sum(isinstance(leaf, Factored) and leaf.rows.count > 0 for leaf in tree.leaves(trained.params))
        self.trained += kept
        if kept < wanted:
            self._refuse(
                "a dense layer is used otherwise than by torch.nn.functional.linear, or differentiated through"
            )
        return trained

    def _refuse(self, reason: str) -> None:
        if reason not in self.refused:
            self.say(f"executor factored: {reason}, so that clients train in a loop there")
        self.refused.add(reason)


def _groups(ready: Sequence[LocalWork | None]) -> list[list[int]]:
    """Those of the clients that can go abreast."""
    groups: list[list[int]] = []
    for i, local in enumerate(ready):
        if local is None:
            continue
        for group in groups:
            first = ready[group[0]]
            if first is not None and can_group(first, local):
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


def _shares(group: Sequence[LocalWork], workers: int) -> list[Sequence[LocalWork]]:
    size = -(-len(group) // workers)
    return [group[start : start + size] for start in range(0, len(group), size)]


@torch.no_grad()
def _walked(share: Sequence[LocalWork], multiply: Multiply) -> list[TrainResult] | None:
    try:
        with multiplying(multiply):
            return grouped_train(share)
    except (NotGroupable, NotFactorable):
        return None


def _all_done(futures: Sequence[Future[Any]]) -> list[Any]:
    """Their results, once all are done: one that fails leaves none behind at work."""
    wait(futures)
    return [future.result() for future in futures]


def is_worthwhile(matrix: Tensor) -> float:
    """Up to how many rows a matrix [O, I] has more numbers than they: O·I/(O + I)."""
    outputs, inputs = matrix.shape
    return outputs * inputs / (outputs + inputs)


def examples_per_task(task: Task) -> int:
    """How many examples pass through a model that trains on a task once, padding too."""
    return sum(batch.mask.numel() for batch in tree.subtrees(task.items, Batch))
