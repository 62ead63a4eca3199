"""MAML's exact gradient in memory that does not grow with the inner steps."""

import ctypes
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import grad

from seedbed import tree
from seedbed.data.types import Batch, Episode
from seedbed.engines.memory_info import memory_use
from seedbed.learning.adaptations import MetaGradient, maml
from seedbed.learning.objectives import cross_entropy, supervised
from seedbed.learning.training import gradient
from seedbed.models import Model

PEAK = Path("/proc/self/clear_refs")


def network(hidden: int) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Model(nn.Sequential(nn.Linear(8, hidden), nn.Tanh(), nn.Linear(hidden, 3)))


def episode(count: int) -> Episode:
    def examples(seed: int) -> Batch:
        x = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
        return Batch(x, torch.arange(count) % 3, torch.ones(count))

    return Episode(examples(1), examples(2))


@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.usefixtures("float64")
def test_it_is_the_exact_gradient(steps: int) -> None:
    """Of the chain rule through all steps: by plain autograd, under `torch.func` and under vmap."""
    model = network(6)
    loss = supervised(model.predict, cross_entropy)
    exact, anew = (maml(loss, lr=0.5, steps=steps, order=order) for order in ("exact", "recomputed"))
    want = grad(exact)(model.params, episode(7))
    with torch.no_grad():
        plain, value = gradient(anew, model.params, episode(7))
    several = tree.map(lambda x: torch.stack([x, x]), episode(7))
    both = torch.func.vmap(grad(anew), (None, 0))(model.params, several)
    for found in (plain, grad(anew)(model.params, episode(7)), tree.index(both, 1)):
        assert all((found[n] - want[n]).abs().max() <= 1e-14 for n in want)
    assert float(value) == pytest.approx(float(exact(model.params, episode(7))), abs=1e-15)


def peak(order: MetaGradient, steps: int, size: int) -> float:
    """MB that a gradient takes at most beyond what was there."""
    model = network(256)
    objective, item = maml(supervised(model.predict, cross_entropy), lr=0.1, steps=steps, order=order), episode(size)
    ctypes.CDLL(None).malloc_trim(0)
    PEAK.write_text("5")
    before = memory_use("VmRSS")
    with torch.no_grad():
        gradient(objective, model.params, item)
    return memory_use("VmHWM") - before


@pytest.mark.skipif(not PEAK.exists(), reason="the system does not tell how much memory was in use at most")
def test_its_memory_does_not_grow_with_the_steps() -> None:
    """From 2 inner steps to 20, 1,000 examples of 256 hidden units: exact keeps every step, this none. What the
    allocator does with what is freed is in both."""
    orders: list[MetaGradient] = ["exact", "recomputed"]
    for order in orders:
        peak(order, 2, 1000)  # what is loaded, and what the allocator learns, at first use
    exact, anew = ([peak(order, steps, 1000) for steps in (2, 20)] for order in orders)
    a_layer = 1000 * 256 * torch.empty(0).element_size() / 2**20
    assert exact[1] - exact[0] > 18 * 2 * a_layer
    assert anew[1] - anew[0] < (exact[1] - exact[0]) / 4
    assert anew[1] < exact[1]
