"""The law table's column of devices: where the model lies, everything is computed, and nothing is mixed.

No GPU is needed: fake tensors have a device and no numbers, and an operation on two devices is an error, as on a GPU.
"""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import vmap

from seedbed import tree
from seedbed.engines import OneByOne, Vectorised
from seedbed.engines.base import BaseEngine
from seedbed.executors.fused import FusedExecutor
from seedbed.executors.loop import loop_executor
from seedbed.federated import NEWCOMER, MessageBatch
from seedbed.learning.training import use_executor
from seedbed.models import Model, mlp
from seedbed.rounds.round import gather

from .bench import SIZES, Row, clients, module
from .rows import ROWS

ELSEWHERE = "meta"  # a device of no numbers
OWN = ("distill", "feddf", "fedmd")  # rows that hold tensors of their own on the CPU: a teacher, public inputs
READ = ("fed_lbfgs",)  # rows whose server reads numbers, for its line search
ALL = [row for row in ROWS if row.name not in (*OWN, *READ)]
NAMES = {row.name: row for row in reversed(ALL)}  # of each algorithm the first row; the others are slow
every_row = pytest.mark.parametrize(
    "row", [row if row is NAMES[row.name] else pytest.param(row, marks=pytest.mark.slow) for row in ALL], ids=str
)


def all_elsewhere(value: object) -> bool:
    return all(leaf.device.type == ELSEWHERE for leaf in tree.leaves(value))


@every_row
def test_a_round_and_an_adaptation_stay_where_the_model_is(row: Row) -> None:
    """Client, stacked and alone; reduce; server; newcomer: from params and tasks of one device to results of it."""
    net, algorithm = row.net(), row.algorithm
    params, task = tree.map(lambda x: x.to(ELSEWHERE), (dict(net.params), clients(row.items).tasks([0, 2], 0)))
    with FakeTensorMode(allow_non_fake_inputs=True):
        state = algorithm.init(params)
        sent, newcomer = algorithm.send(state, 0), algorithm.send(state, NEWCOMER)
        kept = algorithm.remember(sent)
        stacked = vmap(algorithm.client, in_dims=(None, 0, 0))(sent, tree.stack([kept, kept]), task)
        with torch.no_grad():
            alone = algorithm.client(sent, kept, tree.index(task, 0))
            after = algorithm.server(state, gather(algorithm, [MessageBatch([0, 2], stacked[0])], len(SIZES)))
            first = tree.index(tree.index(task.items, 0), 0)
            support = getattr(first, "support", first)
            own = algorithm.personalise(newcomer, algorithm.remember(newcomer), support)
    for found in (state, stacked, alone, after, own):
        assert all_elsewhere(found)


def test_executors_of_a_gpu_wait_for_no_number() -> None:
    """Neither what is real nor what is masked is looked at, which fake tensors cannot tell."""
    row = next(row for row in ROWS if str(row) == "fedprox")
    row = replace(row, net=module)
    here = dict(row.net().params), clients(row.items).tasks([0, 2], 0)
    params, task = tree.map(lambda x: x.to(ELSEWHERE), here)
    batched, client = FusedExecutor(compiled=False), row.algorithm.client
    with use_executor(batched):  # what is found out about the model at its first use is found out
        vmap(client, in_dims=(None, None, 0))(here[0], (), here[1])
    with FakeTensorMode(allow_non_fake_inputs=True):
        with use_executor(batched):
            stacked = vmap(client, in_dims=(None, None, 0))(params, (), task)
        with torch.no_grad(), use_executor(loop_executor):
            alone = client(params, (), tree.index(task, 0))
    assert all_elsewhere((stacked, alone))
    assert batched.trained == 2


@pytest.mark.parametrize("kind", [OneByOne, Vectorised])
def test_engines_bring_tasks_to_where_the_model_is(kind: type[BaseEngine]) -> None:
    engine = kind(clients("batches"))
    there = {"w": torch.ones(2, device=ELSEWHERE)}
    assert all_elsewhere(engine.tasks(engine.source, [0, 1], 0, there))
    here = engine.tasks(engine.source, [0, 1], 0, {"w": torch.ones(2)})
    assert tree.is_equal(here, tree.to_device_of(here, {"w": torch.ones(2)}))


def test_a_model_moves_and_predicts_there_without_a_head_too() -> None:
    model = Model(mlp((3,), 2)).to(ELSEWHERE)
    assert all_elsewhere(model.params)
    assert model.predict(model.params, torch.ones(4, 3, device=ELSEWHERE)).device.type == ELSEWHERE
    body = {n: p for n, p in model.params.items() if not model.is_head(n)}
    assert Model(mlp((3,), 2)).predict(body, torch.ones(4, 3, device=ELSEWHERE)).device.type == ELSEWHERE
