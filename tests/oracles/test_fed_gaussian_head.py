"""The two-level Gaussian head: prototypes are best linear unbiased predictors, the prior of maximum likelihood."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor

from seedbed.algorithms.fed_gaussian_head import fed_gaussian_head
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, batches
from seedbed.data.types import Batch
from seedbed.engines import OneByOne, Vectorised
from seedbed.federated import ServerState
from seedbed.learning.gaussian_head import ClassPrior, prototypes
from seedbed.learning.heads import one_hot
from seedbed.rounds import synchronous

CLASSES = 3


def inputs(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return x


def population(clients: int = 30) -> Population:
    """Two features; a client's prototypes vary by .5 and 1.5 around those of all; it may lack a class."""
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(clients), rng.integers(5, 16, clients))
    y = rng.integers(0, CLASSES, len(owner))
    y[owner % 5 == 0] %= 2
    centres = 3 * rng.normal(size=(CLASSES, 2)) + rng.normal(size=(clients, CLASSES, 2)) * np.sqrt([0.5, 1.5])
    x = centres[owner, y] + rng.normal(size=(len(owner), 2)) * np.sqrt([1.0, 0.4])
    return Population.from_arrays(torch.tensor(x), torch.tensor(y), owner)


def final(people: Population, engine: Any, rounds: int) -> tuple[Any, ServerState]:
    algorithm = fed_gaussian_head(inputs, ways=CLASSES)
    start = algorithm.init({"head.weight": torch.zeros(CLASSES, 2), "head.bias": torch.zeros(CLASSES)})
    for round in synchronous(algorithm, engine(Sampled(people, batches(4))), start):
        if round.number == rounds:
            return algorithm, round.state
    raise AssertionError


def test_prototypes_are_shrunken_means() -> None:
    """c = μ + nT/(nT + S)·(mean − μ); a class without examples is at μ; padding changes nothing."""
    f = torch.tensor([[1.0, 2.0], [3.0, 0.0], [5.0, 5.0], [1e6, 1e6]])
    hot = one_hot(torch.tensor([0, 0, 2, 1]), CLASSES, f.dtype) * torch.tensor([1.0, 1, 1, 0])[:, None]
    prior = ClassPrior(
        torch.tensor([[0.5, 0.5], [7.0, 8.0], [1.0, 1.0]]), torch.tensor([2.0, 0.5]), torch.tensor([1.0, 3.0])
    )
    c, sums = prototypes(f, hot, prior)
    for k, (n, mean) in enumerate([(2, torch.tensor([2.0, 1.0])), (0, prior.mean[1]), (1, f[2])]):
        gain = n * prior.between / (n * prior.between + prior.within)
        assert (c[k] - prior.mean[k] - gain * (mean - prior.mean[k])).abs().max() < 1e-12
        assert (sums.gain[k] - gain).abs().max() < 1e-12


@pytest.mark.parametrize("engine", [OneByOne, Vectorised])
def test_the_prior_is_that_of_maximum_likelihood(engine: Any) -> None:
    """For each feature, a random intercept of every (client, class): −2 log L over μ_1…μ_K, log T, log S by Nelder and
    Mead is no lower than the fixed point's, and its variances are the same."""
    people = population()
    _, state = final(people, engine, 60)
    owner = np.repeat(np.arange(len(people)), people.sizes)
    x, y = people.x[people.rows].numpy(), people.y[people.rows].numpy()
    for feature in range(2):
        groups = [(k, x[(owner == c) & (y == k), feature]) for c in range(len(people)) for k in range(CLASSES)]
        groups = [(k, values) for k, values in groups if len(values)]

        def deviance(theta: Any, groups: Any = groups) -> float:
            between, within = math.exp(theta[-2]), math.exp(theta[-1])
            total = 0.0
            for k, values in groups:
                n, r = len(values), values - theta[k]
                wide = n * between + within
                total += (n - 1) * math.log(within) + math.log(wide)
                total += (r @ r - between / wide * r.sum() ** 2) / within
            return total

        prior = state.extra
        found = [*prior.mean[:, feature].tolist(), math.log(prior.between[feature]), math.log(prior.within[feature])]
        best = optimize.minimize(deviance, found, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-9})
        assert deviance(found) - best.fun < 1e-6
        assert np.abs(best.x - found).max() < 1e-3


def test_a_client_with_few_examples_gains_over_its_own_means() -> None:
    """Five examples of a new client: fewer errors than the prototypes of all, and than nearest own means."""
    people = population(60)
    known, unseen = people.only(range(40)), people.only(range(40, 60))
    algorithm, state = final(known, Vectorised, 15)
    sent, right = algorithm.send(state, -1), np.zeros(3)
    narrow = state.extra._replace(between=torch.full((2,), 1e-8))
    wide = state.extra._replace(between=torch.full((2,), 1e8))
    for c in range(20):
        rows = unseen.rows_of(c)
        support = Batch(unseen.x[rows[:5]], unseen.y[rows[:5]], torch.ones(len(rows[:5])))
        for i, prior in enumerate((state.extra, narrow, wide)):
            own = algorithm.personalise(sent._replace(extra=prior), {}, support)
            outputs = unseen.x[rows[5:]] @ own["head.weight"].T + own["head.bias"]
            right[i] += int((outputs.argmax(1) == unseen.y[rows[5:]]).sum())
    assert right[0] > right[1]
    assert right[0] > right[2]
