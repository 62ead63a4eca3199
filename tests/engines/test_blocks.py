"""The kernel for GPUs against the reference: on a GPU where there is one, else in Triton's interpreter, in a process of
its own, for Triton is one or the other from its first import on."""

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from seedbed import tree
from seedbed.algorithms.fedavg import fedavg
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, batches
from seedbed.engines import OneByOne, Vectorised
from seedbed.errors import InputError
from seedbed.executors import fused
from seedbed.executors.fused import FusedExecutor, triton_launch
from seedbed.executors.fused.batched import train_batched
from seedbed.executors.fused.mlp_tracer import NONE, RELU, DenseLayer
from seedbed.executors.fused.spec import FusedSpec
from seedbed.learning.objectives import cross_entropy, proximal, supervised
from seedbed.learning.optimizers import sgd
from seedbed.learning.training import LocalWork, one_step_at_a_time
from seedbed.models import Model, mlp
from seedbed.rounds import synchronous

from .test_fused import LOCAL, NETS, apart, cohort, made, ragged

DEEP = "three, tanh, odd widths"
ROOT = Path(__file__).parents[2]
GPU = torch.cuda.is_available()
THERE = torch.device("cuda" if GPU else "cpu")
RUNS = GPU or triton_launch.is_interpreted()

LACKING = {kind: triton_launch.missing_requirements(kind, THERE) for kind in (torch.float32, torch.float64)}

in_blocks = pytest.mark.skipif(not RUNS or LACKING[torch.float64] is not None, reason="see test_in_the_interpreter")


@pytest.mark.slow
@pytest.mark.skipif(RUNS, reason="the tests below are run here")
def test_in_the_interpreter() -> None:
    """All tests below, without a GPU, as `scripts/prove blocks` runs them."""
    pytest.importorskip("triton")
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(Path(__file__))]
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


def by_blocks(*arguments: Any, own: bool = False) -> Any:
    """What all clients get by blocks, and by nothing else."""
    executor = FusedExecutor(blocks=True)
    found = cohort(executor, *arguments, own=own)
    assert executor.trained == 1
    assert not executor.batched
    return tree.map(torch.Tensor.cpu, found)


def moved(value: Any) -> Any:
    return tree.map(lambda x: x.to(THERE), value)


@in_blocks
@pytest.mark.parametrize(
    ("net", "kind", "mu"),
    [
        *((net, "plain", 0.0) for net in NETS),
        *((net, "nesterov, decay", 0.7) for net in NETS if net != DEEP),  # with velocities, it is too large
        (DEEP, "decay", 0.7),
        ("one hidden layer", "decay", 0.0),
        ("one hidden layer", "momentum", 0.7),
    ],
)
@pytest.mark.usefixtures("float64")
def test_it_is_the_reference(net: str, kind: str, mu: float) -> None:
    """Ragged clients, some batches of nothing real; starts of their own where there is a pull to them."""
    model, task = made(net)
    loss = supervised(model.predict, cross_entropy)
    own = tree.map(lambda p: p + 0.1 * torch.arange(5.0).reshape(5, *[1] * p.ndim).to(p), model.params)
    params = own if mu else model.params
    arguments = (lambda p: proximal(loss, p, mu) if mu else loss), LOCAL[kind]
    want = cohort(one_step_at_a_time, *arguments, params, task, own=bool(mu))
    assert apart(by_blocks(*arguments, moved(params), moved(task), own=bool(mu)), want) <= 1e-12


@in_blocks
@pytest.mark.parametrize("sizes", [(40, 16, 3), (10, 70, 3)], ids=str)
@pytest.mark.usefixtures("float64")
def test_a_layer_of_several_tiles(sizes: tuple[int, int, int]) -> None:
    """Inputs, and what a hidden layer gives."""
    inputs, hidden, classes = sizes
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Model(mlp((inputs,), classes, hidden=(hidden,)))
    arguments = (lambda p: proximal(supervised(model.predict, cross_entropy), p, 0.7)), sgd(0.1, weight_decay=0.1)
    task = ragged((inputs,), classes, clients=3)
    want = cohort(one_step_at_a_time, *arguments, model.params, task)
    assert apart(by_blocks(*arguments, moved(model.params), moved(task)), want) <= 1e-12


@pytest.mark.skipif(not RUNS or LACKING[torch.float32] is not None, reason="see test_in_the_interpreter")
def test_in_single_precision_too() -> None:
    model, task = made(DEEP)
    arguments = (lambda p: supervised(model.predict, cross_entropy)), LOCAL["nesterov, decay"]
    want = cohort(one_step_at_a_time, *arguments, model.params, task)
    assert apart(by_blocks(*arguments, moved(model.params), moved(task)), want) <= 5e-6


@in_blocks
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's, of numbers that are none
@pytest.mark.usefixtures("float64")
def test_steps_that_are_not_real_change_nothing_wherever_they_are() -> None:
    """Before, between and after those that are, and of a client that has none: its loss is 0/0."""
    model, task = made("one hidden layer")
    real = torch.tensor([[0, 1, 0, 1], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).to(task.real)
    items = task.items._replace(x=torch.where(real[..., None, None] > 0, task.items.x, torch.nan))
    arguments = (lambda p: proximal(supervised(model.predict, cross_entropy), p, 0.5)), LOCAL["momentum"]
    found, losses = by_blocks(*arguments, moved(model.params), moved(task._replace(items=items, real=real)))
    want, wanted = cohort(one_step_at_a_time, *arguments, model.params, task._replace(real=real))
    some = torch.tensor([0, 1, 2, 4])
    assert apart(found, want) <= 1e-12
    assert apart(losses[some], wanted[some]) <= 1e-12
    assert losses[3].isnan()


def test_what_is_new_is_compared_with_batched_products_and_left_to_them_if_it_differs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once for a kind of model: a kernel that is wrong on a machine moves nobody's weights."""
    model, task = made("one hidden layer")
    asked, said = list[int](), list[str]()
    arguments = (lambda p: supervised(model.predict, cross_entropy)), LOCAL["momentum"], model.params, task

    def off(by: float, plan: FusedSpec, tensors: Sequence[torch.Tensor], own: Sequence[bool]) -> list[torch.Tensor]:
        asked.append(1)
        return [by + x for x in train_batched(plan, tensors, own)]

    want = cohort(one_step_at_a_time, *arguments)
    for by, calls in ((0.0, 2), (0.1, 1)):
        monkeypatch.setattr(fused, "launch_triton", partial(off, by))
        executor = FusedExecutor(blocks=True, say=said.append)
        for _ in range(2):
            assert apart(cohort(executor, *arguments), want) <= 1e-5
        assert len(asked) == calls
        asked.clear()
    why = "its kernel gave something else than batched products"
    assert said == [f"executor fused: {why}; clients train batched instead"]


@in_blocks
@pytest.mark.usefixtures("float64")
def test_more_steps_than_are_counted_at_once_and_one_client_alone() -> None:
    model, _ = made("logistic regression")
    g = torch.Generator().manual_seed(0)
    x, y, real = torch.randn(1, 40, 2, 7, generator=g), torch.randint(0, 3, (1, 40, 2), generator=g), torch.ones(1, 40)
    real[0, 35:] = 0
    task = made("logistic regression")[1]
    task = task._replace(
        items=task.items._replace(x=x, y=y, mask=torch.ones(1, 40, 2)), real=real, examples=x[:, 0, 0, 0]
    )
    local = LocalWork(supervised(model.predict, cross_entropy), sgd(0.1), model.params, tree.index(task, 0), None)
    executor = FusedExecutor(blocks=True)
    found = executor(local._replace(params=moved(local.params), task=moved(local.task)))
    want = one_step_at_a_time(local)
    assert apart(tree.map(torch.Tensor.cpu, (found.params, found.loss)), (want.params, want.loss)) <= 1e-12
    assert not executor.batched


@in_blocks
@pytest.mark.usefixtures("float64")
def test_a_round_of_an_engine() -> None:
    """Whose batches may not be read yet."""
    model, _ = made("one hidden layer")
    g = torch.Generator().manual_seed(0)
    owner = [c for c in range(4) for _ in range(5 + c)]
    population = Population.from_arrays(torch.randn(len(owner), 7, generator=g), torch.arange(len(owner)) % 3, owner)
    source = Sampled(population, batches(4))
    algorithm = fedavg(supervised(model.predict, cross_entropy), local=sgd(0.1))
    executor = FusedExecutor(blocks=True)
    ends = [
        next(synchronous(algorithm, engine, algorithm.init(params))).state.params
        for engine, params in (
            (OneByOne(source), model.params),
            (Vectorised(source, executor=executor), moved(model.params)),
        )
    ]
    assert apart(tree.map(torch.Tensor.cpu, ends[1]), ends[0]) <= 1e-12
    assert executor.trained >= 1
    assert not executor.batched


@in_blocks
@pytest.mark.parametrize("label", [3, -1])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.usefixtures("float64")
def test_a_label_beyond_the_classes_makes_its_client_nan(label: int) -> None:
    """Where nobody looks, as on a GPU; in a step that is not real it is padding."""
    model, task = made("logistic regression")
    task.items.y[2, 0, 0] = label
    task.items.y[0, 3, 0] = label
    assert not task.real[0, 3]
    executor, arguments = (
        FusedExecutor(blocks=True, looks=False),
        (lambda p: supervised(model.predict, cross_entropy), sgd()),
    )
    found, losses = tree.map(torch.Tensor.cpu, cohort(executor, *arguments, moved(model.params), moved(task)))
    others = torch.tensor([0, 1, 3, 4])
    assert losses[2].isnan()
    assert all(leaf[2].isnan().all() for leaf in tree.leaves(found))
    assert all(leaf[others].isfinite().all() for leaf in tree.leaves((found, losses)))


@pytest.mark.skipif(not triton_launch.is_interpreted(), reason="a GPU's labels are not looked at")
@pytest.mark.usefixtures("float64")
def test_a_label_beyond_the_classes_is_refused_on_a_cpu() -> None:
    model, task = made("logistic regression")
    task.items.y[2, 0, 0] = 3
    with pytest.raises(InputError, match="labels go from 0 to 3, but the model has 3 outputs"):
        by_blocks(lambda p: supervised(model.predict, cross_entropy), sgd(), model.params, task)


@in_blocks
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's, of numbers that are none
@pytest.mark.usefixtures("float64")
def test_what_diverges_is_not_hidden() -> None:
    """NaN and infinity come out as such: through relu, too."""
    model, task = made("one hidden layer")
    task.items.x[0] = torch.nan
    objective = supervised(model.predict, cross_entropy)
    found, loss = by_blocks(lambda p: objective, sgd(1e200), moved(model.params), moved(task))
    assert found["head.weight"][0].isnan().all()
    assert loss[0].isnan()
    assert not found["head.weight"][4].isfinite().all()


# ---- where there are no blocks -------------------------------------------------------------------------------


def said_by(executor_arguments: dict[str, Any], model: Model, task: Any, device: torch.device) -> list[str]:
    """What is said of training batched instead, which gives the reference."""
    said: list[str] = []
    executor = FusedExecutor(say=said.append, **executor_arguments)
    arguments = (lambda p: supervised(model.predict, cross_entropy)), sgd(0.1)
    want = cohort(one_step_at_a_time, *arguments, model.params, task)
    for _ in range(2):
        found = cohort(executor, *arguments, *tree.map(lambda x: x.to(device), (model.params, task)))
        assert apart(tree.map(torch.Tensor.cpu, found), want) <= 1e-12
    assert executor.trained == 2
    return said


@pytest.mark.usefixtures("float64")
def test_without_triton_clients_train_batched_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = made("one hidden layer")
    monkeypatch.setattr(triton_launch, "triton_version", lambda: None)
    said = said_by({"blocks": True}, model, task, THERE)
    assert said == ["executor fused: there is no Triton (pip install triton); clients train batched instead"]


@pytest.mark.usefixtures("float64")
def test_a_triton_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = made("one hidden layer")
    monkeypatch.setattr(triton_launch, "triton_version", lambda: (3, 4))
    (said,) = said_by({"blocks": True}, model, task, THERE)
    assert "blocks in float64 take Triton 3.8 or later, not 3.4; clients train batched" in said


@pytest.mark.skipif(triton_launch.is_interpreted(), reason="here they are")
@pytest.mark.usefixtures("float64")
def test_blocks_are_not_for_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = made("one hidden layer")
    monkeypatch.setattr(triton_launch, "triton_version", lambda: (3, 9))
    (said,) = said_by({"blocks": True}, model, task, torch.device("cpu"))
    assert "on a CPU set TRITON_INTERPRET=1 before Python starts" in said


def test_what_is_too_large_for_a_multiprocessor_is_refused() -> None:
    def held(sizes: tuple[int, ...], batch: int, dtype: torch.dtype, *, momentum: bool) -> str | None:
        layers = [
            DenseLayer(f"w{i}", f"b{i}", n, m, RELU if m != sizes[-1] else NONE)
            for i, (n, m) in enumerate(pairwise(sizes))
        ]
        return triton_launch.too_large(triton_launch.tile_spec(layers, batch), dtype, momentum=momentum)

    assert held((60, 64, 10), 10, torch.float32, momentum=True) is None
    assert held((784, 10), 10, torch.float32, momentum=False) is None
    assert held((60, 64, 10), 10, torch.float64, momentum=False) is None
    large = held((784, 200, 10), 10, torch.float32, momentum=False)
    assert large is not None
    assert "numbers in tiles, are more than the 16,640 that a GPU's block holds" in large
    assert "its 200 outputs are more than the 128" in str(held((4, 200), 10, torch.float32, momentum=False))
    assert "weights and velocities" in str(held((200, 64, 10), 10, torch.float32, momentum=True))
    assert "a batch of 1024 examples in tiles is too much" in str(
        held((60, 64, 10), 600, torch.float32, momentum=False)
    )
