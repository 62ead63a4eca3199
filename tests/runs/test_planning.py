"""The plan of a run: frozen, made once from settings and data, and what it holds is what is trained."""

from collections import Counter
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
import torch

from seedbed import Population
from seedbed.algorithms.catalogue import CATALOGUE
from seedbed.experiments import builder
from seedbed.experiments.launch import begin_run
from seedbed.experiments.planning import divide, plan
from seedbed.experiments.presets import complete_settings
from seedbed.experiments.run_directory import RunDirectory
from seedbed.experiments.run_plan import RunPlan
from seedbed.experiments.stages import Pipeline, Show

QUICK = {
    "rounds": 1,
    "executor": "loop",
    "evaluation": {"episodes": 1, "shots": 1, "curve": False},
    "model": {"name": "mlp", "hidden": 4},
}


def people() -> Population:
    y = torch.arange(160) % 2
    return Population.from_arrays(
        torch.randn(160, 3, generator=torch.Generator().manual_seed(0)) + y[:, None],
        y,
        [f"c{i // 16:02}" for i in range(160)],
        classes=("a", "b"),
    )


def planned(**given: Any) -> RunPlan:
    population = people()
    return plan(divide(complete_settings({"data": "here", **QUICK, **given}, population), population))


@pytest.fixture
def constructions(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each factory was called by the learner."""
    calls: Counter[str] = Counter()
    usual = builder.arguments_from_settings

    def counted(factory: Callable[..., Any], *args: Any, **more: Any) -> Any:
        calls[factory.__name__] += 1
        return usual(factory, *args, **more)

    monkeypatch.setattr(builder, "arguments_from_settings", counted)
    return calls


@pytest.mark.parametrize("name", ["fed_ridge", "apfl", "per_fedavg"])
def test_an_algorithm_is_constructed_once_in_a_run(name: str, constructions: Counter[str], tmp_path: Path) -> None:
    """Planned, trained, and judged as it is: one construction. Other ways to adapt are others, each once."""
    evaluation = {**QUICK["evaluation"], "baselines": False}
    begin_run(planned(algorithm=name, evaluation=evaluation, options={"test_steps": 2}), tmp_path / "r", Show())
    assert constructions == {name: 1}


def test_baselines_are_constructed_with_the_plan(constructions: Counter[str]) -> None:
    made = planned(algorithm="scaffold")
    assert constructions == {"scaffold": 1, "fedavg": 1}
    assert made.baselines["fedavg"].algorithm is made.learner.algorithm("fedavg", made.baselines["fedavg"].model,
                                                                        options=made.settings.baseline)  # fmt: skip


def test_what_is_trained_is_what_was_planned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made, trained = planned(algorithm="scaffold", evaluation={**QUICK["evaluation"], "baselines": False}), []
    surrounded = Pipeline._surrounded

    def seen(self: Pipeline, name: str, algorithm: Any, *args: Any) -> Any:
        trained.append(algorithm)
        return surrounded(self, name, algorithm, *args)

    monkeypatch.setattr(Pipeline, "_surrounded", seen)
    run = RunDirectory.create(tmp_path / "r", {"data": {"fingerprint": made.fingerprint}})
    pipeline = Pipeline(run, made)
    pipeline._trained("scaffold", made.settings.options, made.train, pipeline._plan)
    assert trained == [made.main.algorithm]


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_plan_is_frozen_and_a_function_of_settings_and_data(name: str) -> None:
    given = {"public": 0.2} if CATALOGUE[name].takes("public") else {}
    a, b = planned(algorithm=name, **given), planned(algorithm=name, **given)
    for field in fields(RunPlan):
        with pytest.raises(FrozenInstanceError):
            setattr(a, field.name, None)
    assert (a.train.names, a.unseen.names, a.notes, a.shape) == (b.train.names, b.unseen.names, b.notes, b.shape)
    assert (a.privacy, a.secured, a.settings) == (b.privacy, b.secured, b.settings)
    for one, other in zip(a.main.model.params.values(), b.main.model.params.values(), strict=True):
        assert_same(one, other)


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one.keys() == other.keys()
        for name in one:
            assert_same(one[name], other[name])


def test_a_rule_that_a_probe_s_rounds_are_too_small_for_is_found_by_planning() -> None:
    """Validation clients do not train in probes, whose rounds are then smaller than the cohort."""
    given = {"reduce": {"name": "krum", "f": 2}, "algorithm": "per_fedavg", "unseen": 2}
    planned(**given, evaluation={**QUICK["evaluation"], "baselines": False}, options={"test_steps": 1})
    with pytest.raises(ValueError, match=r"krum with f=2 needs at least 7 messages a round.*has 6"):
        planned(**given)
