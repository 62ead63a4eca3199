"""The compiled kernel against the reference, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seedbed import tree
from seedbed.data.types import Batch, Task
from seedbed.engines import OneByOne, Vectorised, make
from seedbed.engines.autotune import TuningCache
from seedbed.errors import InputError
from seedbed.executors import cpp_compiler
from seedbed.executors.fused import FusedExecutor
from seedbed.executors.fused.cpp_launch import KERNEL
from seedbed.learning.objectives import cross_entropy, proximal, supervised
from seedbed.learning.optimizers import Optimizer, adam, cosine, sgd
from seedbed.learning.training import LocalWork, Objective, one_step_at_a_time
from seedbed.models import Model, mlp

NETS = {
    "logistic regression": lambda: nn.Linear(7, 3),
    "one hidden layer": lambda: mlp((7,), 3, hidden=(20,)),
    "three, tanh, odd widths": lambda: mlp((7,), 17, hidden=(33, 16, 5), activation=nn.Tanh),
    "no bias": lambda: nn.Sequential(nn.Linear(7, 9, bias=False), nn.ReLU(), nn.Linear(9, 4)),
    "of images": lambda: mlp((1, 7, 1), 3, hidden=(64,)),
}
LOCAL = {
    "plain": sgd(0.2),
    "decay": sgd(0.2, weight_decay=0.1),
    "nesterov, decay": sgd(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "momentum": sgd(0.1, momentum=0.5),
}


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def tolerance(request: pytest.FixtureRequest) -> Any:
    """What results may differ by, with tensors in this precision."""
    before, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(request.param)
    torch.set_num_threads(1)
    yield 2e-6 if request.param is torch.float32 else 1e-12  # of float32 1.2e-6 was seen on one processor
    torch.set_default_dtype(before)
    torch.set_num_threads(threads)


def ragged(example: tuple[int, ...], classes: int, clients: int = 5) -> Task:
    """[5, 4, 6, ...]: clients of 1 to 4 real steps, batches of 0 to 6 real examples, large numbers in the padding."""
    g = torch.Generator().manual_seed(0)
    shape = (clients, 4, 6)
    mask = (torch.rand(shape, generator=g) < 0.7).to(torch.get_default_dtype())
    mask[0, 1] = 0
    x = torch.randn(*shape, *example, generator=g) * torch.where(mask > 0, 1.0, 1e4).reshape(
        *shape, *[1] * len(example)
    )
    real = (torch.arange(4) <= torch.arange(clients)[:, None]).to(mask)
    return Task(Batch(x, torch.randint(0, classes, shape, generator=g), mask), real, mask.sum((1, 2)))


def made(net: str) -> tuple[Model, Task]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Model(NETS[net]())
    example = (1, 7, 1) if net == "of images" else (7,)
    return model, ragged(example, list(model.params.values())[-1].shape[0])


def cohort(executor: Any, objective: Any, optimizer: Optimizer, params: Any, task: Task, *, own: bool = False) -> Any:
    """What all clients get from the executor, at once; params of their own, or one for all."""

    def client(params: Any, task: Task) -> Any:
        trained = executor(LocalWork(objective(params), optimizer, params, task, None))
        return trained.params, trained.loss

    return torch.func.vmap(client, in_dims=(0 if own else None, 0))(params, task)


def apart(a: Any, b: Any) -> float:
    """The largest difference, of numbers above 1 in parts of them."""
    pairs = zip(tree.leaves(a), tree.leaves(b), strict=True)
    return max(float(((x - y) / y.abs().clamp_min(1)).abs().max()) for x, y in pairs)


WAYS = {"kernel": {}, "batched": {"compiled": False}, "batched, as on a GPU": {"compiled": False, "looks": False}}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("kind", LOCAL)
@pytest.mark.parametrize("mu", [0.0, 0.7])
@every_way
def test_it_is_the_reference(net: str, kind: str, mu: float, way: dict[str, bool], tolerance: float) -> None:
    """Params and losses, on ragged clients: from one start, and from starts of their own with the pull to them."""
    model, task = made(net)
    loss: Objective = supervised(model.predict, cross_entropy)
    executor = FusedExecutor(2, **way)
    own = tree.map(lambda p: p + 0.1 * torch.arange(5.0).reshape(5, *[1] * p.ndim).to(p), model.params)
    for params, each in ((model.params, False), (own, True)):
        arguments = (lambda p: proximal(loss, p, mu) if mu else loss, LOCAL[kind], params, task)
        want = cohort(one_step_at_a_time, *arguments, own=each)
        assert apart(cohort(executor, *arguments, own=each), want) <= tolerance
    assert executor.trained == 2
    assert not executor.refused


@every_way
def test_it_trains_one_client_alone_too(way: dict[str, bool], tolerance: float) -> None:
    """Without vmap, as an engine does that runs one after another."""
    model, task = made("one hidden layer")
    local = LocalWork(supervised(model.predict, cross_entropy), sgd(0.1), model.params, tree.index(task, 3), None)
    found, want = FusedExecutor(**way)(local), one_step_at_a_time(local)
    assert apart((found.params, found.loss), (want.params, want.loss)) <= tolerance


def scaled(params: Any, x: Tensor) -> Tensor:
    return 2 * nn.functional.linear(x, params["weight"], params["bias"])


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(7, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.relu(self.layer(x)))  # type: ignore[no-any-return]


REFUSED = {
    "adam": (lambda m: supervised(m.predict, cross_entropy), adam(0.01), "is not sgd with a constant rate"),
    "schedule": (lambda m: supervised(m.predict, cross_entropy), sgd(schedule=cosine(3)), "not sgd with a constant"),
    "another loss": (lambda m: supervised(m.predict, lambda p, y: p.square().sum(1)), sgd(), "not the cross-entropy"),
    "another objective": (lambda m: lambda p, b: b.x.sum() * p["bias"].sum(), sgd(), "not the cross-entropy"),
    "another function": (lambda m: supervised(scaled, cross_entropy), sgd(), "it computes"),
    "a layer twice": (lambda m: supervised(Model(Twice()).predict, cross_entropy), sgd(), "parameters of its own"),
    "softmax at the end": (
        lambda m: supervised(lambda p, x: torch.relu(m.predict(p, x)), cross_entropy),
        sgd(),
        "an activation follows the last",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.usefixtures("float64")
def test_what_it_cannot_train_is_said_and_trained_stacked(case: str) -> None:
    make_objective, optimizer, reason = REFUSED[case]
    model, task = made("logistic regression")
    params: Any = Model(Twice()).params if case == "a layer twice" else model.params
    said: list[str] = []
    executor, objective = FusedExecutor(say=said.append), make_objective(model)
    arguments = (lambda p: objective, optimizer, params, task)
    assert apart(cohort(executor, *arguments), cohort(one_step_at_a_time, *arguments)) == 0
    assert executor.trained == 0
    assert len(said) == 1
    assert reason in said[0]


@pytest.mark.usefixtures("float64")
def test_a_label_beyond_the_classes_is_refused() -> None:
    model, task = made("logistic regression")
    task.items.y[2, 0, 0] = 3
    with pytest.raises(InputError, match="labels go from 0 to 3, but the model has 3 outputs"):
        cohort(FusedExecutor(), lambda p: supervised(model.predict, cross_entropy), sgd(), model.params, task)


@every_way
def test_what_diverges_is_not_hidden(way: dict[str, bool]) -> None:
    """NaN and infinity come out as such: through relu, too."""
    model, task = made("one hidden layer")
    task.items.x[0] = torch.nan
    arguments = (lambda p: supervised(model.predict, cross_entropy), sgd(1e30), model.params, task)
    found, loss = cohort(FusedExecutor(**way), *arguments)
    assert found["head.weight"][0].isnan().all()
    assert loss[0].isnan()
    assert not found["head.weight"][4].isfinite().all()


# ---- the compiler --------------------------------------------------------------------------------------------


@every_way
def test_workers_change_nothing(way: dict[str, bool]) -> None:
    model, task = made("one hidden layer")
    arguments = (lambda p: supervised(model.predict, cross_entropy), sgd(0.1), model.params, task)
    alone, together = (cohort(FusedExecutor(workers, **way), *arguments) for workers in (1, 3))
    assert apart(alone, together) == 0


def test_without_a_compiler_clients_train_batched_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cpp_compiler, "compiler", lambda: None)
    cpp_compiler.library.cache_clear()
    said: list[str] = []
    engine = make("auto", None, nn.Linear(2, 2), executor="fused", plans=TuningCache(say=said.append))  # type: ignore[arg-type]
    assert isinstance(engine, Vectorised)
    assert isinstance(engine.executor, FusedExecutor)
    assert not said, "nobody has asked for it yet"
    model, task = made("one hidden layer")
    try:
        for _ in range(2):
            cohort(engine.executor, lambda p: supervised(model.predict, cross_entropy), sgd(), model.params, task)
    finally:
        cpp_compiler.library.cache_clear()
    assert engine.executor.trained == 2
    assert not engine.executor.compiled
    assert said == [
        "executor fused: there is no C++ compiler (c++, g++, clang++): install one, or set CXX; clients train batched "
        "instead"
    ]


def test_a_compiler_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken-c++"
    broken.write_text("#!/bin/sh\necho 'no such flag' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", str(broken))
    cpp_compiler.library.cache_clear()
    try:
        with pytest.raises(InputError, match=r"broken-c\+\+ cannot compile kernel\.cpp \(no such flag\)"):
            cpp_compiler.library(KERNEL)
    finally:
        cpp_compiler.library.cache_clear()
    assert not list(tmp_path.rglob("*.so"))


def test_engines_and_executors_must_fit() -> None:
    with pytest.raises(InputError, match="the executor fused is one of the engine vectorised, not of one_by_one"):
        make("one_by_one", None, nn.Linear(2, 2), executor="fused")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="unknown executor 'fuse': did you mean 'fused'"):
        make("auto", None, nn.Linear(2, 2), executor="fuse")  # type: ignore[arg-type]
    assert isinstance(make("auto", None, nn.Linear(2, 2), executor="loop"), OneByOne)  # type: ignore[arg-type]
