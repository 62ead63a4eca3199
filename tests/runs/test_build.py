"""Factories from plain settings: nested ones, defaults, and what is refused."""

import pytest
import torch

from seedbed.algorithms.fed_proto import fed_proto
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedprox import fedprox
from seedbed.errors import InputError
from seedbed.experiments.factories import build_from_settings, settable_parameters
from seedbed.learning import optimizers
from seedbed.learning.optimizers import Optimizer, sgd

Given = dict[str, object]


def taking(
    loss: object, *, outer: Optimizer = sgd(0.5, momentum=0.9), steps: int = 3, scale: float | None = 1.0
) -> Given:
    """A factory that gives back what it was called with."""
    return {"loss": loss, "outer": outer, "steps": steps, "scale": scale}


CONTEXT = {"loss": object(), "updates": 10}


def outer_of(**given: object) -> Optimizer:
    outer = build_from_settings(taking, given, CONTEXT)["outer"]
    assert isinstance(outer, Optimizer)
    return outer


def test_defaults_and_context() -> None:
    made = build_from_settings(taking, {}, CONTEXT)
    assert made["loss"] is CONTEXT["loss"]
    assert (made["steps"], made["scale"]) == (3, 1.0)
    assert made["outer"].settings["lr"] == 0.5


def test_values_are_parsed_by_the_factory_s_types() -> None:
    made = build_from_settings(taking, {"steps": "4", "scale": None}, CONTEXT)
    assert (made["steps"], made["scale"]) == (4, None)


def test_a_nested_optimiser_keeps_what_is_not_set() -> None:
    same = outer_of(outer={"lr": 0.01})
    assert (same.name, same.settings["lr"], same.settings["momentum"]) == ("sgd", 0.01, 0.9)
    other = outer_of(outer={"name": "adam", "beta1": 0.8})
    assert (other.name, other.settings["lr"], other.settings["beta1"]) == ("adam", 1e-3, 0.8)
    assert outer_of(outer="adam").name == "adam"


@pytest.mark.parametrize("schedule", ["linear", {"name": "linear"}, {"name": "linear", "updates": 10, "end": 0.0}])
def test_a_nested_schedule_takes_the_run_s_length(schedule: object) -> None:
    """Linear over 10 updates: half the rate after 5."""
    factor = outer_of(outer={"schedule": schedule}).settings["schedule"]
    assert float(factor(torch.tensor(5.0))) == 0.5


def test_own_settings_go_before_the_context() -> None:
    factor = outer_of(outer={"schedule": {"name": "linear", "updates": 20}}).settings["schedule"]
    assert float(factor(torch.tensor(5.0))) == 0.75


def test_real_factories() -> None:
    params = {"w": torch.zeros(2)}
    algorithm = build_from_settings(fedavg, {"outer": {"name": "adam"}}, {"loss": lambda p, b: p["w"].sum()})
    assert set(algorithm.init(params).extra) == {"mean", "square", "updates"}
    assert "mu" in settable_parameters(fedprox)
    assert {"outer.lr", "outer.name", "scale"} <= set(settable_parameters(fed_proto))
    assert settable_parameters(fed_proto, {"loss": object(), "ways": 5}).count("ways") == 1  # a number: may be set
    assert "loss" not in settable_parameters(fed_proto, {"loss": object()})
    assert settable_parameters(optimizers.linear) == ["updates", "end", "warmup"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"stepps": 1}, ["'stepps'", "did you mean 'steps'"]),
        ({"loss": 1}, ["unknown setting 'loss'"]),
        ({"outer": {"lrr": 1}}, ["'outer.lrr'", "did you mean 'outer.lr'"]),
        ({"outer": {"schedule": {"name": "linear", "ende": 1}}}, ["'outer.schedule.ende'", "outer.schedule.end"]),
        ({"outer": "adm"}, ["outer='adm'", "did you mean 'adam'"]),
        ({"outer": 3}, ["outer=3", "sgd, adam"]),
        ({"outer": {"schedule": "cosin"}}, ["outer.schedule='cosin'", "did you mean 'cosine'"]),
        ({"outer": {"schedule": [1]}}, ["outer.schedule=[1]", "constant, linear, cosine"]),
        ({"steps": "many"}, ["steps='many'", "integer"]),
        ({"steps": 1.5}, ["steps=1.5", "integer"]),
        ({"steps": -1}, ["steps=-1", "from 0 up"]),
        ({"scale": float("nan")}, ["scale=nan", "from 0 up"]),
        ({"outer": {"lr": float("inf")}}, ["outer.lr=inf", "from 0 up"]),
        ({"evaluatoin": {"shots": 1}}, ["'evaluatoin.shots'", "did you mean 'evaluation.shots'"]),
    ],
)
def test_refusals(given: Given, words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        build_from_settings(taking, given, CONTEXT, also=["evaluation.shots", "evaluation.ways"])
    assert all(word in str(error.value) for word in words), str(error.value)
