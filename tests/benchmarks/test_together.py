"""What the benchmarks stand on: several runs in step are the runs one by one, and clients hold what the papers say."""

import runpy
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from seedbed.algorithms.ditto import ditto
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, batches
from seedbed.engines import Vectorised
from seedbed.learning.objectives import softmax_regression
from seedbed.rounds import synchronous

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import together

    return together


@pytest.fixture
def mnist_clients(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import mnist_clients

    return mnist_clients


@pytest.mark.usefixtures("float64")
def test_runs_in_step_are_the_runs_one_by_one(together: ModuleType) -> None:
    """Three runs of Ditto on the same clients, unlike starts and cohorts: each as `synchronous` alone has it."""
    g = torch.Generator().manual_seed(0)
    sizes = [5, 40, 9, 23]
    x, y = torch.randn(sum(sizes), 3, generator=g), torch.arange(sum(sizes)) % 2
    source = Sampled(Population.from_arrays(x, y, np.repeat(np.arange(4), sizes)), batches(4), seed=3)
    algorithm = ditto(softmax_regression())
    starts = [
        algorithm.init({"weight": torch.randn(2, 3, generator=g), "bias": torch.randn(2, generator=g)})
        for _ in range(3)
    ]
    seeds = [4, 5, 6]
    engine = Vectorised(together.Copies(source, [*range(4)] * 3))
    rounds = together.together(algorithm, engine, starts, seeds=seeds, cohort=2)
    for _ in range(4):
        states = next(rounds)
    for run, (start, seed) in enumerate(zip(starts, seeds, strict=True)):
        alone = Vectorised(source)
        schedule = synchronous(algorithm, alone, start, cohort=2, seed=seed)
        for _ in range(4):
            state = next(schedule).state
        assert apart(states[run].params, state.params) < 1e-14
        for client, kept in alone.memory().items():
            assert apart(engine.memory()[4 * run + client], kept) < 1e-14


def apart(a: Any, b: Any) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in b)


LABELS = np.random.default_rng(0).integers(0, 10, 70_000)


def held(parts: Any) -> list[Counter[int]]:
    """How many of which digit each client has; nobody has a row twice."""
    rows = np.concatenate(parts)
    assert len(np.unique(rows)) == len(rows)
    return [Counter(LABELS[part].tolist()) for part in parts]


def test_the_power_law(mnist_clients: ModuleType) -> None:
    """1,000 clients of two digits, at least five images of each; nearly all images dealt; a few clients have most."""
    clients = held(mnist_clients.power_law(LABELS, 1))
    assert len(clients) == 1000
    assert all(set(c) == {k % 10, (k + 1) % 10} and min(c.values()) >= 5 for k, c in enumerate(clients))
    sizes = np.sort([c.total() for c in clients])
    assert 68_000 < sizes.sum() <= 70_000
    assert sizes[-100:].sum() > 0.4 * sizes.sum()


def test_two_labels(mnist_clients: ModuleType) -> None:
    """20 clients of two digits; every image dealt, each digit to four clients."""
    clients = held(mnist_clients.two_labels(LABELS, 1))
    assert all(set(c) == {k % 10, (k + 1) % 10} for k, c in enumerate(clients))
    assert sum((c for c in clients), Counter()).total() == 70_000


def test_pfedmes_own_clients(mnist_clients: ModuleType) -> None:
    """With as many images of each digit as MNIST has, 1,167 to 3,834 training images: the paper's range is 1,165 to
    3,834, because there a client may miss the first image of a digit."""
    labels = np.repeat(np.arange(10), [6903, 7877, 6990, 7141, 6824, 6313, 6876, 7293, 6825, 6958])
    parts = mnist_clients.two_labels_shared(labels, 0)
    sizes = [int(0.75 * len(part)) for part in parts]
    assert (min(sizes), max(sizes), len(parts)) == (1167, 3834, 20)
    assert all(set(labels[part]) == {k % 10, (k + 1) % 10} for k, part in enumerate(parts))


def test_unlike_halves(mnist_clients: ModuleType) -> None:
    """25 clients of 196 images of each of 0 to 4; 25 of 98 of one of these and 392 of one of 5 to 9, all pairs."""
    clients = held(mnist_clients.unlike_halves(LABELS, 1, a=196))
    assert all(c == Counter(dict.fromkeys(range(5), 196)) for c in clients[:25])
    assert Counter(tuple(sorted(c.items())) for c in clients[25:]) == {
        ((low, 98), (high, 392)): 1 for low in range(5) for high in range(5, 10)
    }


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_every_benchmark_finds_what_it_imports(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They run by hand and rarely: a name that moved would be noticed only then."""
    pytest.importorskip("pandas")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    runpy.run_path(str(path), run_name="imported")
