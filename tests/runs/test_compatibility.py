"""The table of choices that do not work together: its advice leads out, and nothing is written before it is asked."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import torch

from seedbed import tree
from seedbed.algorithms import catalogue
from seedbed.data.population import Population
from seedbed.errors import InputError
from seedbed.experiments.compatibility import Case, Facts, Incompatible, Way, changed, check
from seedbed.experiments.compatibility_rows import ROWS
from seedbed.experiments.config import settings_from
from seedbed.experiments.planning import divide, plan
from seedbed.experiments.presets import complete_settings
from seedbed.experiments.secure_aggregation import one_message

Given = dict[str, Any]
SCHEDULES: tuple[Given, ...] = ({}, *({"schedule": {"name": n}} for n in ("synchronous", "asynchronous", "gossip")))
REDUCERS: tuple[Given, ...] = ({}, *({"reduce": {"name": n}} for n in ("mean", "median", "nnm+krum", "fltrust")))
PRIVACY: tuple[Given, ...] = (
    {},
    {"privacy": {"epsilon": 4.0}},
    {"privacy": {"epsilon": 4.0, "mechanism": "tree"}},
    {"privacy": {"epsilon": 4.0, "mechanism": "distributed", "clip": 0.5}},
    {"privacy": {"delta": 1e-6}},
)
SECURE: tuple[Given, ...] = ({}, {"secure": {"form": "masks"}}, {"secure": {"form": "shares", "groups": 3}})
ATTACKS: tuple[Given, ...] = ({}, *({"attack": {"name": n}} for n in ("sign_flip", "tailored", "after_adaptation")))
MOST_STEPS = 8  # of following advice


@cache
def people(*, episodic: bool = False, clients: int = 24) -> Population:
    """Clients with three classes, 12 examples each."""
    n, draws = clients * 12, torch.Generator().manual_seed(0)
    y = torch.arange(n) % 3
    x = torch.randn(n, 4, generator=draws) + y[:, None]
    return Population.from_arrays(x, y, [f"c{i // 12:02}" for i in range(n)], classes=tuple("abc"), episodic=episodic)


@cache
def _case(given: str, episodic: bool) -> Case:
    table, population = json.loads(given), people(episodic=episodic)
    settings = complete_settings(table, population)
    return Case(settings, Facts.of(population), table, lambda other: case(other, population))


def case(given: Mapping[str, Any], population: Population) -> Case:
    """As `case_of` makes it; each once."""
    return _case(json.dumps(given, sort_keys=True), population.episodic)


AXES = (SCHEDULES, REDUCERS, PRIVACY, SECURE, ATTACKS)


def unlike_algorithms() -> list[str]:
    """One algorithm of those that declare the same."""
    found = {}
    for name, entry in catalogue.CATALOGUE.items():
        takes = tuple(entry.takes(what) for what in ("public", "teacher", "assign"))
        declared = (entry.rounds, entry.pooled, entry.each_message, entry.like_params, entry.pushes, entry.normalises)
        found.setdefault((declared, takes), name)
    return list(found.values())


def sweep() -> Iterator[Given]:
    """Every algorithm with every other choice; those that declare unlike things with pairs of choices too."""
    for name in catalogue.CATALOGUE:
        yield from ({"algorithm": name, **choice} for axis in AXES for choice in axis)
    for name in unlike_algorithms():
        for first, second in pairwise((*AXES, AXES[0])):
            yield from ({"algorithm": name, **one, **other} for one, other in product(first[1:], second[1:]))
    yield from everything("fedavg", AXES[1:])


def everything(name: str, axes: Sequence[Sequence[Given]]) -> Iterator[Given]:
    for choices in product(*axes):
        yield {"algorithm": name} | {key: value for choice in choices for key, value in choice.items()}


def refusal(given: Mapping[str, Any], population: Population) -> Incompatible | None:
    try:
        check(case(given, population), ROWS)
    except Incompatible as error:
        return error
    return None


def given_keys(table: Mapping[str, Any], before: str = "") -> set[str]:
    """Dotted names of what is set."""
    return {
        key
        for name, value in table.items()
        for key in (given_keys(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}"})
    }


def assert_possible(way: Way, given: Given, population: Population, error: Incompatible) -> None:
    """It changes something that is there, and this clash is gone."""
    assert not isinstance(way, str)
    dropped = {key for key, value in way.items() if value == "drop"}
    assert dropped <= given_keys(given), (given, str(error))
    assert changed(given, way) != given, (given, str(error))
    assert not error.row.clashes(case(changed(given, way), population)), (given, str(error))


def follow(given: Given, population: Population) -> int:
    """Take the first advice of each refusal until there is none; how many were needed."""
    seen: list[Given] = []
    while (error := refusal(given, population)) is not None:
        assert error.ways, (given, str(error))
        for way in error.ways:
            assert_possible(way, given, population, error)
        assert given not in seen, (given, str(error))
        seen.append(given)
        assert len(seen) <= MOST_STEPS, seen
        first = error.ways[0]
        assert not isinstance(first, str)
        given = changed(given, first)
    return len(seen)


def test_advice_is_possible_and_leads_to_a_run() -> None:
    """About 2,000 combinations, by planning only: each is accepted, or every way out takes its clash away."""
    population = people()
    taken = [follow(given, population) for given in sweep()]
    assert len(taken) > 1900
    assert 0.2 < sum(map(bool, taken)) / len(taken) < 0.95


@pytest.mark.slow
def test_advice_is_possible_for_all_combinations() -> None:
    """1,200 for each algorithm that declares something of its own."""
    for name in ("auto", *unlike_algorithms()):
        for given in everything(name, AXES):
            follow(given, people())


def test_every_refusal_has_one_form() -> None:
    population = people(episodic=True)
    for given in list(sweep())[::7]:
        error = refusal(given, population)
        if error is not None:
            what, _, rest = str(error).partition(": ")
            assert " does not work with" in what, str(error)
            assert rest.count(". ") == 1, str(error)
            assert not str(error).endswith(". "), str(error)


@pytest.mark.parametrize("name", catalogue.CATALOGUE)
def test_an_algorithm_declares_what_it_sends(name: str) -> None:
    """`each_message` and `like_params` of the catalogue are those of the algorithm as it is built."""
    entry, population = catalogue.entry(name), people(clients=8)
    given = {"algorithm": name, "executor": "loop", **({"public": 0.2} if entry.takes("public") else {})}
    made = plan(divide(complete_settings(given, population), population))
    learner = made.learner
    if entry.takes("teacher"):
        learner = learner.with_teacher(learner.initial_teacher(entry))
    model = learner.model(entry)
    algorithm = learner.algorithm(name, model)
    assert algorithm.reduce.linear is not entry.each_message
    message = one_message(made.engine(made.source(name, made.train, {}), model), algorithm, model.params)
    state = algorithm.init(model.params)
    like = tree.structure_of(message.value) == tree.structure_of(state.params)
    assert like is entry.like_params or (name == "pfedhn" and entry.like_params)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"algorithm": "fedgkt", "privacy": {"epsilon": 4.0}}, ["--epsilon 4 does not work with fedgkt", "Use fedavg"]),
        ({"algorithm": "auto", "privacy": {"epsilon": 4.0}, "reduce": {"name": "krum"}}, ["reduce=krum", "--epsilon"]),
        ({"algorithm": "fedbuff", "privacy": {"epsilon": 4.0}}, ["schedule.name=asynchronous", "Use fedavg, or drop"]),
        ({"evaluation": {"shots": [5, "half"]}}, ["evaluation.shots", "without start=exact", "Drop evaluation.shots"]),
    ],
)
def test_words(given: Given, words: list[str]) -> None:
    error = refusal(given, people())
    assert error is not None
    for word in words:
        assert word in str(error)


def test_advice_never_drops_what_a_recipe_chose() -> None:
    """fedbuff's schedule is its own, so that dropping schedule.name is no way out."""
    error = refusal({"algorithm": "fedbuff", "privacy": {"epsilon": 4.0}}, people())
    assert error is not None
    assert "drop schedule" not in str(error).lower()
    error = refusal({"algorithm": "fedbuff", "secure": {"form": "masks"}}, people())
    assert error is not None
    assert "drop schedule" not in str(error).lower()


@pytest.mark.parametrize("words", ["fedgkt --epsilon 4", "pfedhn --epsilon 4", "scaffold --set reduce.momentum=0.9"])
def test_a_refusal_leaves_nothing_on_disk(words: str, tmp_path: Path) -> None:
    """These were found only in the first round, when the folder, the key and the ledger were there."""
    from typer.testing import CliRunner

    from seedbed.cli.commands import app

    name, *more = words.split()
    out = tmp_path / "run"
    ended = CliRunner().invoke(app, ["run", "--algorithm", name, *more, "--rounds", "1", "--out", str(out)])
    assert isinstance(ended.exception, InputError)
    assert not out.exists()


def test_settings_of_unknown_origin_get_advice_too() -> None:
    settings = settings_from({"algorithm": "fedgkt", "schedule": {"name": "gossip"}})
    with pytest.raises(Incompatible, match=r"fedgkt does not work with schedule.name=gossip.*Use fedavg"):
        check(Case.of(settings, Facts()), ROWS)
