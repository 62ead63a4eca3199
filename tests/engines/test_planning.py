"""The planner: it chooses what is quickest, keeps the choice, and changes nothing else."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from seedbed import tree
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedper import fedper
from seedbed.algorithms.fedsgd import fedsgd
from seedbed.engines import AutoEngine, OneByOne, TuningCache, autotune, make, processes
from seedbed.federated import Algorithm
from seedbed.learning.objectives import cross_entropy, supervised
from seedbed.learning.optimizers import sgd
from seedbed.models import Model
from seedbed.rounds import synchronous

from .bench import clients, model

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What trials are said to take: change it. What cannot be tried still is not."""
    said = {"loop": 4.0, "stacked": 3.0, "factored": 2.0, "batched": 1.5, "fused": 1.0, "loop in processes": 5.0}
    really = AutoEngine._timed

    def timed(engine: AutoEngine, name: str, *arguments: Any) -> float:
        really(engine, name, *arguments)
        return said[name]

    monkeypatch.setattr(AutoEngine, "_timed", timed)
    return said


def rounds(engine: Any, algorithm: Algorithm, params: Any, count: int = 2) -> tuple[Any, Any]:
    schedule = synchronous(algorithm, engine, algorithm.init(params), cohort=4, seed=3)
    state = [next(schedule).state for _ in range(count)][-1]
    return state, dict(engine.memory())


def apart(a: Any, b: Any) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))


ALGORITHMS: dict[str, Callable[[Model], Algorithm]] = {
    "fedavg": lambda m: fedavg(supervised(m.predict, cross_entropy), local=sgd(0.2)),
    "fedper": lambda m: fedper(supervised(m.predict, cross_entropy), head=m.head, local=sgd(0.2)),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_planned_run_is_the_reference_whatever_is_chosen(name: str, seconds: dict[str, float]) -> None:
    """And trials leave no trace in what clients keep."""
    net = model()
    algorithm = ALGORITHMS[name](net)
    want = rounds(OneByOne(clients()), algorithm, net.params)
    for quickest in ("loop", "stacked", "batched", "fused", "loop in processes"):
        seconds.update(dict.fromkeys(seconds, 1.0), **{quickest: 0.4})
        engine = make("auto", clients(), net.module, workers=2, processes=True)
        assert isinstance(engine, AutoEngine)
        found = rounds(engine, algorithm, net.params)
        assert engine.executor == quickest
        assert sorted(found[1]) == sorted(want[1])
        kept = [[memory[c] for c in sorted(memory)] for _, memory in (found, want)]
        assert apart((found[0], kept[0]), (want[0], kept[1])) <= 1e-12


def test_what_cannot_be_done_is_not_chosen_and_is_said(seconds: dict[str, float]) -> None:
    """Layers of 8 rows are no gain, and FedSGD's clients take no local steps."""
    net, said = model(), list[str]()
    loss = supervised(net.predict, cross_entropy)
    engine = make("auto", clients(), net.module, plans=TuningCache(say=said.append))
    rounds(engine, fedavg(loss), net.params)
    assert "factored cannot (no dense layer is large enough for 12 examples of a client)" in said[0]
    rounds(engine, fedsgd(loss), net.params)
    assert said[1].startswith("executor stacked: a round of 4 clients takes stacked 3e+03 ms; loop 8e+03 ms")
    assert "fused cannot (clients do not train by `train`)" in said[1]
    assert len(said) == 2


def test_processes_are_tried_where_they_can_pay(seconds: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for short rounds, not where two of them could not make up for what others save, not without memory."""
    net, said = model(), list[str]()
    algorithm = fedavg(supervised(net.predict, cross_entropy))

    def told() -> str:
        plans = TuningCache(say=said.append)
        engine = make("auto", clients(), net.module, workers=2, processes=True, plans=plans)
        rounds(engine, algorithm, net.params, 1)
        return said[-1]

    assert "loop in processes cannot (as in threads, it is too slow)" in told()
    seconds["stacked"] = 0.01
    assert "loop in processes cannot (a round is too short to be handed to processes)" in told()
    seconds.update(dict.fromkeys(seconds, 1.0))
    monkeypatch.setattr(processes, "available_memory", lambda: 0.001)
    assert re.search(
        r"cannot \(processes: 2 workers and .* 4 clients need about 0 MB, but 0 are available: use", told()
    )


def test_a_choice_is_kept_for_the_machine_and_for_the_run(seconds: dict[str, float], tmp_path: Path) -> None:
    """Measured once; the run's own file goes over what other runs found since."""
    net, said = model(), list[str]()
    algorithm = fedavg(supervised(net.predict, cross_entropy), local=sgd(0.2))
    seconds["loop"] = 0.1

    def executor(own: str) -> str:
        engine = make("auto", clients(), net.module, plans=TuningCache(tmp_path / own, tmp_path / "plans", said.append))
        rounds(engine, algorithm, net.params, count=1)
        assert isinstance(engine, AutoEngine)
        return engine.executor

    assert executor("first.json") == "loop"
    seconds["stacked"] = 0.01
    assert executor("second.json") == "loop"
    assert ["as measured before" in line for line in said] == [False, True]
    [place] = (tmp_path / "plans").iterdir()
    place.unlink()
    assert executor("third.json") == "stacked"
    assert executor("first.json") == "loop"
    assert [choice[0] for choice in json.loads((tmp_path / "third.json").read_text()).values()] == ["stacked"]
    place.write_text("torn")
    assert executor("fourth.json") == "stacked"


def test_a_description_is_the_same_in_every_process_and_tells_settings_apart() -> None:
    a, b, c = (
        autotune.describe_function(fedavg(supervised(model().predict, cross_entropy), local=sgd(lr)).client)
        for lr in (0.1, 0.1, 0.2)
    )
    assert a == b
    assert a != c
    assert "0x" not in a


def test_a_round_too_short_is_not_compiled_for(
    seconds: dict[str, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    seconds["stacked"] = 0.001
    net, said = model(), list[str]()
    engine = make("auto", clients(), net.module, plans=TuningCache(say=said.append))
    rounds(engine, fedavg(supervised(net.predict, cross_entropy)), net.params, count=1)
    assert "fused cannot (a round is too short to compile for)" in said[0]
    assert not list(tmp_path.rglob("*.so"))


def test_what_is_slow_for_its_kind_is_not_tried() -> None:
    """Convolutions are never stacked by themselves; an engine that is named is the one that is used."""
    conv = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    tried = {
        "conv": make("auto", clients(), conv, workers=2, processes=True),
        "dense": make("auto", clients(), nn.Linear(5, 3), workers=2, processes=True),
        "one_by_one": make("one_by_one", clients(), nn.Linear(5, 3), workers=2, processes=True),
        "vectorised": make("vectorised", clients(), conv, workers=2),
        "alone": make("auto", clients(), conv, workers=1),
        "threads": make("auto", clients(), conv, workers=2),
    }
    found = {name: list(engine._makes) for name, engine in tried.items() if isinstance(engine, AutoEngine)}
    inside = [f"{name} in processes" for name in ("loop", "factored")]
    assert found == {
        "conv": ["loop", "factored", *inside],
        "dense": ["loop", "stacked", "factored", "batched", "fused", *inside],
        "one_by_one": ["loop", "factored", *inside],
        "vectorised": ["stacked", "batched", "fused"],
        "alone": ["loop", "factored"],
        "threads": ["loop", "factored"],
    }


def test_off_the_cpu_an_executor_that_fails_is_not_chosen_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a GPU's memory is too small for clients at once. The one that can do anything must not fail."""
    net, said = model(), list[str]()
    really = AutoEngine._timed

    def timed(engine: AutoEngine, name: str, *arguments: Any) -> float:
        if name in failing:
            raise torch.OutOfMemoryError("out of memory\nmore about it")
        return really(engine, name, *arguments)

    monkeypatch.setattr(AutoEngine, "_timed", timed)
    algorithm, failing = fedavg(supervised(net.predict, cross_entropy)), {"loop", "batched"}
    with pytest.raises(torch.OutOfMemoryError):
        rounds(make("auto", clients(), net.module), algorithm, net.params, count=1)
    monkeypatch.setattr(autotune, "_device", lambda sent: torch.device("xla"))
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: None)
    rounds(make("auto", clients(), net.module, plans=TuningCache(say=said.append)), algorithm, net.params, count=1)
    assert "loop cannot (OutOfMemoryError: out of memory)" in said[0]
    failing.add("stacked")
    with pytest.raises(torch.OutOfMemoryError):
        rounds(make("auto", clients(), net.module), algorithm, net.params, count=1)
