"""The honest choice: its rule by hand, who judges whom, and what cross-fitting mends."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seedbed import tree
from seedbed.algorithms.cross_fitted import cross_fitted
from seedbed.algorithms.fed_eb import frozen, with_prior
from seedbed.algorithms.fed_lbfgs import flat
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, batches, support_query
from seedbed.engines import Vectorised
from seedbed.evaluation import per_example
from seedbed.experiments.honest_choice import BIAS, NONE, Way, choose, fold_of, is_better, judge, learn
from seedbed.experiments.linear_base import Remembered, fit, fit_chosen
from seedbed.learning.effects import head_effects, likelihood, with_effects
from seedbed.learning.objectives import squared_error, supervised


@pytest.fixture(autouse=True)
def in_double_precision(float64: None) -> None:
    """See the fixture float64."""


def linear(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return x @ params["head.weight"].T + params["head.bias"]


def inputs(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return x


def zeros(columns: int) -> dict[str, Tensor]:
    return {"head.weight": torch.zeros(1, columns), "head.bias": torch.zeros(1)}


def population(
    *, clients: int = 24, intercept: float = 1.0, columns: int = 2, each: int = 8, seed: int = 0
) -> Population:
    """Clients whose intercepts have this standard deviation."""
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(clients), 8)
    x = rng.normal(size=(len(owner), 2))
    y = x[:, 0] + intercept * rng.normal(size=clients)[owner] + rng.normal(size=len(owner)) * 0.5
    return Population.from_arrays(torch.tensor(x), torch.tensor(y), owner)


def halved(people: Population) -> Sampled:
    return Sampled(people, support_query(0.5))


def ways() -> dict[str, Way]:
    effects = head_effects(inputs, "bias")
    eb = with_prior(frozen(), linear, effects, lambda params: likelihood(squared_error, 1))
    return {
        NONE: Way(frozen(), per_example(linear, squared_error)),
        BIAS: Way(eb, per_example(with_effects(linear, effects), squared_error), rounds=8),
    }


# ---- the rule -------------------------------------------------------------------------------------------------------


def losses(**means: list[float]) -> dict[str, dict[int, float]]:
    return {name: dict(enumerate(each)) for name, each in means.items()}


def test_bias_is_taken_for_any_mean_gain_and_others_for_more_than_one_standard_error() -> None:
    none, bias = [1.0, 1.0, 1.0, 1.0], [0.9, 1.05, 0.9, 1.1]
    assert choose(losses(none=none, bias=bias)) == "bias"
    assert choose(losses(none=none, bias=[1.2, 1.0, 1.0, 1.0])) == "none"
    small = [0.0, 1.0, 0.9, 1.2]  # gains .9, .05, 0, −.1 over bias: mean .2125, one standard error .231
    assert choose(losses(none=none, bias=bias, slopes=small)) == "bias"
    clear = [0.7, 0.9, 0.8, 1.0]
    assert choose(losses(none=none, bias=bias, slopes=clear)) == "slopes"
    assert choose(losses(none=none, bias=bias, slopes=clear, all=[0.0, 0.9, 0.8, 1.5])) == "slopes"  # all: less sure
    assert choose(losses(none=none, bias=bias, slopes=[math.nan] * 4, all=[math.inf] * 4)) == "bias"
    assert choose(losses(none=none, head=clear)) == "head"


def test_one_standard_error_is_of_paired_gains() -> None:
    one, other = {0: 0.0, 1: 10.0, 2: 20.0}, {0: 0.1, 1: 10.1, 2: 20.1}
    assert is_better(one, other)
    assert not is_better(other, one)
    assert not is_better({0: 0.0}, {0: 1.0})


# ---- who judges whom ------------------------------------------------------------------------------------------------


def test_folds_are_of_equal_size_and_follow_from_the_seed() -> None:
    folds = fold_of(range(23), 5, seed=3)
    sizes = [list(folds.values()).count(f) for f in range(5)]
    assert sorted(sizes) == [4, 4, 5, 5, 5]
    assert folds == fold_of(range(23), 5, seed=3) != fold_of(range(23), 5, seed=4)


def test_a_client_works_on_the_start_of_its_fold() -> None:
    """Each client's sums are those of the algorithm on the start that was trained without it."""
    people, folds = population(clients=6), {0: 1, 1: 0, 2: 1, 3: 0, 4: 2, 5: 2}
    starts = [{"head.weight": torch.full((1, 2), float(f)), "head.bias": torch.zeros(1)} for f in range(3)]
    plain = ways()[BIAS].algorithm
    crossed, engine = cross_fitted(plain, folds), Vectorised(Sampled(people, batches(None)))
    state = crossed.init(tree.stack(starts))
    sent = {c: crossed.send(state, c) for c in range(6)}
    [group] = engine.ask(crossed, sent, 0)
    for place, c in enumerate(group.clients):
        alone = Vectorised(Sampled(people, batches(None)))
        [want] = alone.ask(plain, {c: plain.send(plain.init(starts[folds[c]]), c)}, 0)
        for a, b in zip(tree.leaves(group.messages.value), tree.leaves(want.messages.value), strict=True):
            assert (a[place] - b[0]).abs().max() < 1e-12


def test_the_prior_that_judges_a_client_has_not_seen_it() -> None:
    """A client of wild numbers changes the losses of the other half, whose prior it is in, and not one of its own
    half's but its own."""
    people = population(clients=12)
    wild = Population(people.x, people.y.clone(), people.rows, people.offsets, people.names)
    wild.y[wild.rows_of(3)] += 50
    starts, folds = tree.stack([zeros(2), zeros(2)]), fold_of(range(12), 2)
    found = [
        judge(ways(), Vectorised(Sampled(p, batches(None))), starts, folds, {"half": halved(p)})["half"]
        for p in (people, wild)
    ]
    halves = fold_of(range(12), 2, seed=0)
    changed = {c for c in range(12) if abs(found[0][BIAS][c] - found[1][BIAS][c]) > 1e-9}
    assert changed == {3, *(c for c in range(12) if halves[c] != halves[3])}
    assert {c for c in range(12) if found[0][NONE][c] != found[1][NONE][c]} == {3}


def test_where_clients_differ_bias_is_chosen_and_where_they_do_not_it_harms_little() -> None:
    for intercept, wanted in ((1.0, {BIAS}), (0.0, {BIAS, NONE})):
        people = population(intercept=intercept)
        engine = Vectorised(Sampled(people, batches(None)))
        starts = tree.stack([{"head.weight": torch.tensor([[1.0, 0.0]]), "head.bias": torch.zeros(1)}])
        found = judge(ways(), engine, starts, dict.fromkeys(range(24), 0), {"half": halved(people)})
        assert choose(found["half"]) in wanted
        mean = {name: np.mean(list(each.values())) for name, each in found["half"].items()}
        assert mean[BIAS] < mean[NONE] + 0.02


def test_cross_fitted_scores_show_the_variance_that_scores_of_the_fit_hide() -> None:
    """Eight clients, twelve columns that are constant within a client: the fit explains its own clients' intercepts
    away. Learned on its scores τ² is near 0; on cross-fitted ones it is not. It is 1 in truth."""
    rng = np.random.default_rng(2)
    owner = np.repeat(np.arange(8), 30)
    x = rng.normal(size=(8, 12))[owner]
    y = rng.normal(size=8)[owner] + 0.3 * rng.normal(size=len(owner))
    people = Population.from_arrays(torch.tensor(x), torch.tensor(y), owner)
    loss, way = supervised(linear, squared_error), ways()[BIAS]

    def fitted(some: Population) -> dict[str, Tensor]:
        engine = Vectorised(Remembered(Sampled(some, batches(None))))
        return dict(fit(loss, engine, zeros(12), [1e-4], newton=True)[0][0])

    folds = fold_of(range(8), 4)
    parts = [fitted(people.only([c for c in folds if folds[c] != f])) for f in range(4)]
    engine = Vectorised(Remembered(Sampled(people, batches(None))))

    def variance(starts: Any, who: Mapping[int, int]) -> float:
        algorithm = cross_fitted(way.algorithm, who)
        state = learn(algorithm, engine, algorithm.init(starts), range(8), 10)
        return float(state.extra["prior"].variance)

    inside = variance(tree.stack([fitted(people)]), dict.fromkeys(range(8), 0))
    assert inside < 0.02
    assert variance(tree.stack(parts), folds) > 0.3


# ---- the linear base ------------------------------------------------------------------------------------------------


def test_the_strength_is_chosen_by_validation_and_the_path_widens_at_its_edge() -> None:
    """A validation loss that is least at a strength far below the path: it is followed three times, each ten times
    lower; one inside the path is left."""
    engine = Vectorised(Remembered(Sampled(population(), batches(None))))
    loss = supervised(linear, squared_error)
    reached = []

    def like_small(params: Mapping[str, Tensor]) -> float:
        reached.append(float(flat(params).norm()))
        return -reached[-1]

    found = fit_chosen(loss, engine, zeros(2), like_small, strengths=(30.0, 3.0), newton=True)
    assert sorted(found.tried) == pytest.approx([0.003, 0.03, 0.3, 3.0, 30.0])
    assert found.strength == pytest.approx(0.003)
    assert reached == sorted(reached)

    def like_second(params: Mapping[str, Tensor]) -> float:
        return abs(float(flat(params).norm()) - reached[1])

    inside = fit_chosen(loss, engine, zeros(2), like_second, strengths=(30.0, 3.0, 0.3), newton=True)
    assert inside.strength == 3.0
    assert len(inside.tried) == 3
