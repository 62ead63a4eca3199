"""Pooling by the kernel: bit for bit PyTorch's, however often it is differentiated, and only where it can."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vmap
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from seedbed.algorithms.fedavg import fedavg
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, batches
from seedbed.engines import OneByOne, make
from seedbed.errors import InputError
from seedbed.executors import max_pool
from seedbed.executors.cpp_compiler import library
from seedbed.executors.max_pool import MaxPoolSwitch
from seedbed.federated import Engine
from seedbed.learning.objectives import cross_entropy, supervised
from seedbed.models import Model
from seedbed.rounds import synchronous

SHAPES = {
    "even": (4, 8, 28, 28),
    "odd": (3, 16, 13, 11),
    "wide": (2, 2, 6, 181),
    "narrow": (9, 80, 5, 4),
    "one image": (3, 40, 42),
}
KINDS = ("different", "equal", "NaN", "-inf", "not contiguous")


@pytest.fixture(autouse=True)
def compiled() -> None:
    library(max_pool.SOURCE)
    assert max_pool._kernel.ready()


def image(shape: tuple[int, ...], kind: str) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if kind == "equal":  # many windows hold the largest number several times
        return x.round().relu()
    if kind == "NaN":
        return x.where(x < 1, torch.nan)
    if kind == "-inf":
        return x.where(x > 0.5, -torch.inf)
    return x.transpose(-1, -2).contiguous().transpose(-1, -2) if kind == "not contiguous" else x


def by_kernel(x: Tensor) -> Any:
    with MaxPoolSwitch():
        return F.max_pool2d(x, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_it_is_pytorchs_to_the_bit(shape: tuple[int, ...], kind: str, dtype: torch.dtype) -> None:
    """The pooled, the gradient, and the gradient of a function of the gradient."""
    ends = []
    for pool in (by_kernel, lambda x: F.max_pool2d(x, 2)):
        x = image(shape, kind).to(dtype).requires_grad_()
        y = pool(x)
        g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
        [slope] = torch.autograd.grad(y, x, g, create_graph=True)
        [second] = torch.autograd.grad((slope**3).sum(), g, create_graph=True)
        [third] = torch.autograd.grad((second**2).sum(), g)
        ends.append([y, slope, second, third])
    assert "_Pool" in type(by_kernel(image(shape, kind).to(dtype).requires_grad_()).grad_fn).__name__
    for found, want in zip(*ends, strict=True):
        torch.testing.assert_close(found, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # by PyTorch's own, for its derivatives
@pytest.mark.parametrize("dims", [(0, 0), (1, 0), (0, None), (None, 0)])
def test_it_is_pytorchs_under_transforms(dims: tuple[int | None, int | None]) -> None:
    """Gradients for each of several, who may share the image or the weights, and the gradient along a direction."""
    x, weights = torch.randn(5, 5, 30, 30), torch.rand(5, 15, 15)

    def ends(pool: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        slope = grad(lambda x, w: (pool(x) ** 2 * w).sum())
        several = vmap(slope, dims)(x[0] if dims[0] is None else x, weights[0] if dims[1] is None else weights)
        return several, jvp(lambda x: slope(x, weights), (x,), (x.cos(),))[1]

    for found, want in zip(ends(by_kernel), ends(lambda x: F.max_pool2d(x, 2)), strict=True):
        assert torch.equal(found, want)


def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the kernel is asked from now on."""
    asked: list[str] = []
    really = max_pool._Kernel.__call__

    def tell(kernel: Any, what: str, *tensors: Tensor) -> None:
        asked.append(what)
        really(kernel, what, *tensors)

    monkeypatch.setattr(max_pool._Kernel, "__call__", tell)
    return asked


def test_it_is_pytorchs_where_it_is_asked_for_in_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, x = taken(monkeypatch), torch.randn(4, 8, 16, 16)
    others: list[Callable[[Tensor], Any]] = [
        lambda x: F.max_pool2d(x, 3),
        lambda x: F.max_pool2d(x, 2, stride=1),
        lambda x: F.max_pool2d(x, 2, padding=1),
        lambda x: F.max_pool2d(x, 2, dilation=2),
        lambda x: F.max_pool2d(x[..., 1:], 2, ceil_mode=True),
        lambda x: F.max_pool2d(x, 2, return_indices=True),
        lambda x: F.max_pool2d(x.bfloat16(), 2),
        lambda x: F.max_pool2d(x[:1, :1], 2),
        lambda x: F.max_pool2d(x.flatten(2)[..., None].expand(-1, -1, -1, 2), 2),
        lambda x: F.max_pool2d(x.contiguous(memory_format=torch.channels_last), 2),
        lambda x: F.avg_pool2d(x, 2),
    ]
    for pool in others:
        with MaxPoolSwitch():
            found = pool(x)
        torch.testing.assert_close(found, pool(x), rtol=0, atol=0)
    assert not asked
    for same in (nn.MaxPool2d(2), nn.MaxPool2d((2, 2), 2), lambda x: torch.max_pool2d(x, [2, 2], [])):
        with MaxPoolSwitch():
            found = same(x)
        assert torch.equal(found, same(x))
    assert asked == ["pool"] * 3


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_model_may_checkpoint_and_write_over_what_is_pooled(reentrant: bool) -> None:
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.MaxPool2d(2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(1352, 3))
    x = torch.randn(4, 1, 28, 28, requires_grad=True)

    def ends() -> list[Tensor]:
        for p in (x, *net.parameters()):
            p.grad = None
        (net(x).square() + checkpoint(net, x, use_reentrant=reentrant)).sum().backward()
        return [p.grad for p in (x, *net.parameters()) if p.grad is not None]

    want = ends()
    with MaxPoolSwitch():
        found = ends()
    assert len(found) == 5
    assert all(map(torch.equal, found, want))


def test_nobody_waits_for_the_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Until the kernel is there, PyTorch pools, and to the end where there is no compiler; it is tried once."""
    x, asked, tries = torch.randn(4, 8, 16, 16), taken(monkeypatch), list[str]()
    may_compile, done = threading.Event(), threading.Event()

    def slowly(name: str) -> Any:
        tries.append(name)
        may_compile.wait(10)
        try:
            if fails:
                raise InputError("there is no C++ compiler")
            return library(name)
        finally:
            done.set()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(max_pool, "library", slowly)
    for fails in (False, True):
        monkeypatch.setattr(max_pool, "_kernel", max_pool._Kernel())
        may_compile.clear()
        done.clear()
        for _ in range(2):
            assert torch.equal(by_kernel(x), F.max_pool2d(x, 2))
        assert not asked
        may_compile.set()
        done.wait(10)
        while not fails and not max_pool._kernel.ready():
            time.sleep(0.001)
        assert torch.equal(by_kernel(x), F.max_pool2d(x, 2))
        assert asked == ([] if fails else ["pool"])
        asked.clear()
    assert tries == [max_pool.SOURCE] * 2


@pytest.mark.parametrize("executor", ["loop", "factored"])
def test_clients_pool_by_it(executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, side by side and abreast, and the round is the reference's."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Model(
            nn.Sequential(
                nn.Conv2d(1, 8, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Flatten(),
                nn.Linear(512, 64),
                nn.Linear(64, 3),
            )
        )
    owner = [c for c in range(4) for _ in range(8 + c)]
    x = torch.randn(len(owner), 1, 16, 16, generator=torch.Generator().manual_seed(0))
    source = Sampled(Population.from_arrays(x, torch.arange(len(owner)) % 3, owner), batches(4))
    algorithm, asked = fedavg(supervised(model.predict, cross_entropy)), taken(monkeypatch)

    def round_of(engine: Engine) -> Tensor:
        return torch.cat(
            [
                p.flatten()
                for p in next(synchronous(algorithm, engine, algorithm.init(model.params))).state.params.values()
            ]
        )

    want = round_of(OneByOne(source))
    assert not asked
    for workers in (1, 2):
        found = round_of(make("one_by_one", source, model.module, executor=executor, workers=workers))
        assert (found - want).abs().max() < 1e-6
        assert {"pool", "spread"} <= set(asked)
        asked.clear()
