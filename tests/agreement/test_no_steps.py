"""A client of zero steps is a clean zero on every row of the law table: finite numbers, an update of 0."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from seedbed import tree
from seedbed.data.sampling import TaskSourceWrapper
from seedbed.data.types import Task
from seedbed.executors.factored import FactoredExecutor
from seedbed.executors.fused import FusedExecutor
from seedbed.executors.loop import loop_executor
from seedbed.learning.training import Executor, train, use_executor

from .bench import COHORT, KINDS, Row, apart, by_hand, clients, run
from .rows import ROWS

SERVER_TRAINS = ("fedmd", "feddf", "fed_lbfgs", "fed_eb")  # its step is not of what clients moved only
SENDS_MODEL = ("centralised", "fedgkt", "fedasync", "fd")  # the message is no update


def finite(value: Any) -> bool:
    """Whether every number of a tree is finite."""
    return all(bool(torch.as_tensor(leaf).isfinite().all()) for leaf in tree.leaves(value))


class Idle(TaskSourceWrapper):
    """A source of which some clients have time for no item."""

    def __init__(self, source: Sequence[int], idle: Sequence[int]):
        super().__init__(source)  # type: ignore[arg-type]
        self.idle = idle

    def tasks(self, chosen: Sequence[int], round: int) -> Task:
        task = self.source.tasks(chosen, round)
        works = torch.tensor([float(c not in self.idle) for c in chosen])
        return task._replace(real=task.real * works[:, None])


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_idle_clients_send_finite_numbers(row: Row) -> None:
    """Clients 0, 2 and 4 are idle, on both engines; the schedule refuses a state that is not finite."""
    ends = [run(row, kind(Idle(clients(row.items), (0, 2, 4))), count=2, cohort=COHORT) for kind in KINDS]  # type: ignore[arg-type]
    for past in ends:
        for round in past.rounds:
            assert finite((round.state, dict(round.info)))
        assert finite(past.memories)
    assert apart(ends[0].rounds[-1].state, ends[1].rounds[-1].state) < 1e-8


@pytest.mark.parametrize("row", [r for r in ROWS if r.name not in (*SERVER_TRAINS, *SENDS_MODEL)], ids=str)
def test_where_all_are_idle_nothing_moves(row: Row) -> None:
    """The message is exactly 0, and the server's params stay bit for bit."""
    for kind in KINDS:
        engine = kind(Idle(clients(row.items), range(6)))  # type: ignore[arg-type]
        sent = {c: row.algorithm.send(row.start, c) for c in (0, 1)}
        for group in engine.ask(row.algorithm, sent, 0):
            value = group.messages.value
            if row.name == "fednova":
                value = value["d"]
            assert all(not leaf.any() for leaf in tree.leaves(value)), tree.named_leaves(value).keys()


@pytest.mark.parametrize(
    "executor", [None, loop_executor, FactoredExecutor(), FusedExecutor()], ids=("none", "loop", "factored", "fused")
)
def test_every_executor_gives_no_steps(executor: Executor | None) -> None:
    """Training on nothing gives the start and a loss of 0."""
    from seedbed.learning.optimizers import sgd

    task = tree.index(clients("batches").tasks([0], 0), 0)
    task = task._replace(real=torch.zeros_like(task.real))
    net = by_hand()
    with torch.no_grad(), use_executor(executor):
        got = train(net.loss, sgd(0.1, momentum=0.9), dict(net.params), task)
    assert apart(got.params, dict(net.params)) == 0
    assert float(got.loss) == 0
