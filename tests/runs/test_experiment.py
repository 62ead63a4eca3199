"""From settings to clients and tasks: who trains, who is judged, and that nobody does both."""

from typing import Any

import numpy as np
import pytest
import torch

from seedbed import InputError, Population
from seedbed.algorithms.catalogue import CATALOGUE, entry
from seedbed.data.readers import read
from seedbed.experiments.builder import Shape
from seedbed.experiments.planning import divide, plan
from seedbed.experiments.presets import complete_settings
from seedbed.experiments.run_plan import RunPlan


def hospitals(sizes: dict[str, int], *, numbers: bool = False, **fields: Any) -> Population:
    """Two features, two classes; row i of all has x = (i, i)."""
    rows = sum(sizes.values())
    x = torch.arange(float(rows))[:, None].repeat(1, 2)
    y = x[:, 0] / rows if numbers else torch.arange(rows) % 2
    client = [name for name, size in sizes.items() for _ in range(size)]
    return Population.from_arrays(x, y, client, classes=() if numbers else ("no", "yes"), **fields)


EVEN = dict.fromkeys("abcdefghij", 20)


def experiment(population: Population, **given: Any) -> RunPlan:
    settings = complete_settings({"data": "here", "model": {"name": "mlp", "hidden": 4}, **given}, population)
    return plan(divide(settings, population))


def rows(population: Population | None) -> set[int]:
    assert population is not None
    return set(population.rows.tolist())


@pytest.mark.parametrize("seed", range(5))
def test_clients_and_rows_are_split_without_overlap(seed: int) -> None:
    made = experiment(hospitals(EVEN), seed=seed, unseen=3)
    assert len(made.unseen) == 3
    assert set(made.train.names) | set(made.unseen.names) == set(EVEN)
    assert not set(made.train.names) & set(made.unseen.names)
    assert not rows(made.train) & rows(made.unseen)
    assert not rows(made.train) & rows(made.held_out)
    assert rows(made.train) | rows(made.held_out) | rows(made.unseen) == set(range(200))
    rest, validation = made.validation()
    assert not rows(rest) & rows(validation)
    assert rows(rest) | rows(validation) == rows(made.train)


def test_the_same_seed_gives_the_same_split_and_another_another() -> None:
    def split(seed: int) -> tuple[object, ...]:
        made = experiment(hospitals(EVEN), seed=seed)
        return (made.train.names, made.train.rows.tolist(), made.unseen.names, made.validation()[1].names)

    assert split(3) == split(3)
    assert len({split(seed)[0] for seed in range(5)}) > 1


def test_support_and_query_never_meet() -> None:
    for population in (hospitals(EVEN), read("digits")):
        made = experiment(population, evaluation={"episodes": 5})
        for shots in made.shots:
            for source in (made.judged(made.unseen, shots, purpose="judge unseen"), made.seen(shots)):
                for client in source.clients:
                    support, query = source.draw(client, 0).items
                    for s, q in zip(support.rows, query.rows, strict=True):
                        assert not set(s.tolist()) & set(q.tolist())
                        assert set(q.tolist()) <= set(population.rows.tolist())


def test_several_numbers_of_shots_share_their_queries() -> None:
    made = experiment(hospitals(EVEN), evaluation={"shots": [2, 5]})
    drawn = [made.judged(made.unseen, shots, purpose="judge unseen").draw(0, 0).items for shots in (2, 5)]
    assert np.array_equal(drawn[0].query.rows, drawn[1].query.rows)
    assert np.array_equal(drawn[0].support.rows, drawn[1].support.rows[:, :2])


def test_the_set_s_own_unseen_clients_are_kept() -> None:
    made = experiment(read("digits"))
    assert made.unseen.names == ("writer11", "writer12", "writer13", "writer14")
    assert len(experiment(read("digits"), unseen=2).unseen) == 2


def test_shots_follow_what_unseen_clients_have() -> None:
    assert experiment(hospitals(EVEN)).shots == (5, 10)
    assert experiment(hospitals(dict.fromkeys("abcd", 5))).shots == (1, 2)
    assert experiment(hospitals(dict.fromkeys("abcd", 2))).shots == (1,)
    assert experiment(read("digits")).shots == (1, 5)
    assert experiment(hospitals(EVEN), evaluation={"shots": 3}).shots == (3,)


def test_small_clients_are_refused_or_left_out() -> None:
    population = hospitals({**EVEN, "tiny": 1, "wee": 1})
    with pytest.raises(InputError, match=r"client '(tiny|wee)' has 1 examples.*drop_short=true"):
        experiment(population)
    made = experiment(population, drop_short=True)
    assert {*made.train.names, *made.unseen.names} == set(EVEN)
    assert made.held_out is not None
    assert made.held_out.names == made.train.names
    assert len(made.notes) == 2
    assert all("left out: client" in note for note in made.notes)
    with pytest.raises(InputError, match=r"every client of here is too small"):
        experiment(hospitals(dict.fromkeys("abcd", 1)), drop_short=True)


@pytest.mark.parametrize(
    ("population", "words"),
    [
        (hospitals({"a": 20}), ["one client, 'a'"]),
        (Population.from_arrays(torch.zeros(4, 1), torch.zeros(4).long(), list("aabb"), classes=("x",)), ["class 'x'"]),
        (Population.from_arrays(torch.zeros(4, 1).long(), torch.arange(4) % 2, list("aabb"), classes=("x", "y")),
         ["tokens", "floats"]),
    ],
)  # fmt: skip
def test_hopeless_data(population: Population, words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        experiment(population)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_algorithm_is_checked_on_both_kinds_of_task(name: str) -> None:
    for population in (hospitals(EVEN), read("digits")):
        experiment(population, algorithm=name, model={"name": "mlp", "hidden": 4})


def test_a_generated_head_is_refused_where_labels_are_drawn_afresh() -> None:
    """pFedHN would make a head for the classes of training; with one of its own, a client learns the episode's."""
    net = {"name": "mlp", "hidden": 4}
    with pytest.raises(InputError, match=r"personal_head=false.* autoregressive"):
        experiment(read("digits"), algorithm="pfedhn", model=net, options={"personal_head": False})
    made = experiment(hospitals(EVEN), algorithm="pfedhn", model=net)
    model = made.learner.model(entry("pfedhn"))
    state = made.learner.algorithm("pfedhn", model).init(model.params)
    assert state.params["hyper:embeddings"].shape[0] == len(made.train) == made.shape.clients
    assert "head.weight" not in state.params


def test_steps_are_refused_where_clients_take_none() -> None:
    """`seedbed adapt --steps` and the curve over steps: fed_eb's clients take their posterior, in no steps."""
    made = experiment(hospitals(EVEN), algorithm="fed_eb", model={"name": "linear"})
    model = made.learner.model(entry("fed_eb"))
    with pytest.raises(InputError, match=r"steps=3 means nothing to fed_eb.*leave it out"):
        made.learner.algorithm("fed_eb", model, test_steps=3)
    assert not entry("fed_eb").takes_steps
    assert entry("fedavg").takes_steps
    assert entry("per_fedavg").takes_steps


def test_too_few_outputs_are_refused() -> None:
    made = experiment(read("digits"), algorithm="autoregressive", model={"name": "mlp", "hidden": 4})
    model = made.learner.model(entry("autoregressive"))
    for ways in (2, 5):
        made.learner.algorithm("autoregressive", model, ways=ways)
    with pytest.raises(InputError, match=r"5 outputs, too few for 7 classes.*evaluation.ways=7"):
        made.learner.algorithm("autoregressive", model, ways=7)
    made.learner.algorithm("fed_proto", model, ways=7)


def test_numbers_to_predict() -> None:
    made = experiment(hospitals(EVEN, numbers=True))
    assert made.shape == Shape((2,), 0, 1, False, clients=len(made.train))
    assert (made.learner.metric_name, made.learner.higher_is_better) == ("squared error", False)
    for name in ("fed_proto", "fed_ridge", "fed_lr", "fed_metaoptnet"):
        with pytest.raises(InputError, match=r"a target that is a number"):
            experiment(hospitals(EVEN, numbers=True), algorithm=name)


def test_a_manifest_s_shape_comes_back() -> None:
    told = {"inputs": [1, 8, 8], "classes": 10, "targets": 1, "episodic": True, "clients": 9}
    assert Shape.of(told) == Shape((1, 8, 8), 10, 1, True, 9)


def test_the_first_model_follows_from_the_seed() -> None:
    def weights(seed: int) -> torch.Tensor:
        return experiment(hospitals(EVEN), seed=seed).learner.model(entry("fedavg")).params["head.weight"]

    before = torch.random.get_rng_state()
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_rival_s_budget_is_what_the_algorithm_sees() -> None:
    """fedavg: every training row once (16 of 20 are kept); two epochs double it."""
    assert experiment(hospitals(EVEN), algorithm="fedavg").budget == 16
    assert experiment(hospitals(EVEN), algorithm="fedavg", task={"epochs": 2}).budget == 32
