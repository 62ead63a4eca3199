"""What the catalogue says of each algorithm is filled in, and is so."""

import re
from pathlib import Path

import pytest

from seedbed import tree
from seedbed.algorithms.catalogue import CATALOGUE
from seedbed.experiments.launch import plan_run

ROOT = Path(__file__).parents[1]
every_entry = pytest.mark.parametrize("name", CATALOGUE)


@every_entry
def test_every_entry_says_what_the_algorithm_computes_and_where_it_is_from(name: str) -> None:
    """An equation in the first paragraph of the factory's docstring; the full citation in its module's."""
    entry = CATALOGUE[name]
    assert re.search("[←=≈]", entry.equation), f"the docstring of {name} does not begin with its equation"
    assert len(entry.equation) <= 125
    assert entry.paper.startswith("baseline: ") or re.search(r"(19|20)\d\d", entry.paper)
    assert all(entry.axes)


def test_every_algorithm_is_a_point_of_its_own() -> None:
    """Nobody has left the coordinates at FedAvg's, or copied a neighbour's."""
    points = [(entry.items, entry.axes) for entry in CATALOGUE.values()]
    alike = [name for name, entry in CATALOGUE.items() if points.count((entry.items, entry.axes)) > 1]
    assert not alike, f"{alike} have the same coordinates"


@every_entry
def test_coordinates_are_what_the_algorithm_does(name: str) -> None:
    """Weight and memory, of a client run as the command line runs it: n is the client's examples, – is nothing."""
    experiment = plan_run({"algorithm": name, "data": "digits"}, ["model.name=mlp"], None)
    learner, axes = experiment.learner, CATALOGUE[name].axes
    model = learner.model(CATALOGUE[name])
    if CATALOGUE[name].takes("teacher"):
        learner = learner.with_teacher(learner.initial_teacher(CATALOGUE[name]))
    algorithm = learner.algorithm(name, model)
    task = tree.index(experiment.source(name, experiment.train, experiment.settings.options).tasks([0], 0), 0)
    sent = algorithm.send(algorithm.init(model.params), 0)
    message, kept = algorithm.client(sent, algorithm.remember(sent), task)
    says = {"1": 1.0, "n": float(task.examples)}.get(axes.weight.split(";")[0])
    assert says is None or says == float(message.weight)
    assert (axes.kept == "–") == (not tree.leaves(kept))


@every_entry
def test_every_oracle_is_there_and_is_about_the_algorithm(name: str) -> None:
    """The file imports the factory, and uses it."""
    entry = CATALOGUE[name]
    lines = (ROOT / "tests" / "oracles" / entry.oracle).read_text().splitlines()
    named = [line for line in lines if re.search(rf"\b{entry.factory.__name__}\b", line)]
    imports = [line for line in named if line.startswith(f"from {entry.factory.__module__} import ")]
    assert imports
    assert len(named) > len(imports)


@every_entry
def test_every_number_stands_in_the_results(name: str) -> None:
    """`number` is a heading of docs/results.md."""
    number, results = CATALOGUE[name].number, (ROOT / "docs" / "results.md").read_text()
    assert number is None or re.search(rf"^##+ {re.escape(number)}$", results, re.M)
