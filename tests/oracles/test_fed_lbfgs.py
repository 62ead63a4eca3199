"""The fit by summed gradients is the pooled one: ridge regression in closed form, logistic and softmax regression by
another optimiser on everybody's examples together; and the path of strengths costs less than fits from zero."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor

from seedbed import tree
from seedbed.algorithms.fed_lbfgs import PATH, fed_lbfgs, flat, penalised, solutions, unflat
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, batches
from seedbed.engines import OneByOne, Vectorised
from seedbed.errors import InputError
from seedbed.federated import ServerState
from seedbed.learning.lbfgs import Evaluation, begin, is_done, observe
from seedbed.learning.objectives import Loss, cross_entropy, squared_error, supervised
from seedbed.privacy.secure import FixedPointGrid, MaskedSums, SecureSumEngine, WeightedEncoding
from seedbed.rounds import synchronous

METHODS: Any = ["lbfgs", "newton"]
ENGINES = [OneByOne, Vectorised]


def linear(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return x @ params["head.weight"].T + params["head.bias"]


def zeros(outputs: int) -> dict[str, Tensor]:
    return {"head.weight": torch.zeros(outputs, 4), "head.bias": torch.zeros(outputs)}


def population(classes: int) -> Population:
    """Eight clients of 5 to 30 examples; columns of scales from .3 to 3, two of them alike."""
    rng = np.random.default_rng(3)
    owner = np.repeat(np.arange(8), rng.integers(5, 31, 8))
    x = rng.normal(size=(len(owner), 4)) * [0.3, 1, 1, 3]
    x[:, 2] = x[:, 1] + 0.5 * x[:, 2]
    eta = x @ rng.normal(size=(4, max(classes, 1))) * 0.5 + rng.normal(size=(len(owner), max(classes, 1)))
    y = torch.tensor(eta.argmax(1) if classes else eta[:, 0])
    return Population.from_arrays(torch.tensor(x), y, owner)


def fitted(loss: Loss, classes: int, engine: Any = OneByOne, **settings: Any) -> tuple[ServerState, int]:
    """The state once all strengths are solved, and after how many rounds."""
    algorithm = fed_lbfgs(supervised(linear, loss), **{"tolerance": 1e-15, **settings})
    source = Sampled(population(classes), batches(None))
    for round in synchronous(algorithm, engine(source), algorithm.init(zeros(max(classes, 1)))):
        if is_done(round.state.extra):
            return round.state, round.number
    raise AssertionError


@pytest.mark.parametrize(("method", "engine"), [("lbfgs", OneByOne), *(("newton", engine) for engine in ENGINES)])
def test_of_squared_error_it_is_pooled_ridge_regression(engine: Any, method: Any) -> None:
    """mean (y − xw − b)² + (λ/2)‖w‖² is least where (2/n)X'X + λD is solved, D without the intercept."""
    people = population(0)
    state, _ = fitted(squared_error, 0, engine, method=method, strengths=PATH)
    x = torch.cat([people.x, torch.ones(len(people.x), 1)], 1)
    for lam, found in zip(PATH, solutions(state), strict=True):
        left = 2 * x.T @ x / len(x) + lam * torch.diag(torch.tensor([1.0, 1, 1, 1, 0]))
        want = torch.linalg.solve(left, 2 * x.T @ people.y / len(x))
        assert (flat(found) - want).abs().max() < (1e-10 if method == "newton" else 1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("classes", [2, 4])
def test_of_cross_entropy_it_is_pooled_softmax_regression(classes: int, method: Any) -> None:
    """Against scipy's BFGS over the pooled examples."""
    people, params = population(classes), zeros(classes)
    state, _ = fitted(cross_entropy, classes, method=method, strengths=(0.03,))

    def objective(x: Any) -> tuple[float, Any]:
        given = torch.tensor(x, requires_grad=True)
        value = cross_entropy(linear(unflat(given, params), people.x), people.y).mean()
        total = value + 0.015 * (penalised(params) * given**2).sum()
        return float(total.detach()), torch.autograd.grad(total, given)[0].numpy()

    best = optimize.minimize(objective, np.zeros(5 * classes), jac=True, method="BFGS", options={"gtol": 1e-10})
    found = flat(solutions(state)[0])
    assert objective(found.numpy())[0] <= best.fun + 1e-12
    point = linear(solutions(state)[0], people.x).softmax(-1) - linear(
        unflat(torch.tensor(best.x), params), people.x
    ).softmax(-1)
    assert point.abs().max() < 1e-5


def test_newton_needs_one_evaluation_a_strength_more_than_it_has_strengths() -> None:
    """A square error's Hessian is the same everywhere: what the first round sums gives every strength's solution, and
    the others see whether it is one."""
    _, rounds = fitted(squared_error, 0, method="newton", strengths=PATH)
    assert rounds <= len(PATH) + 1


def test_a_path_costs_less_than_fits_from_zero() -> None:
    """The slope's past changes serve every strength, of which they know all."""
    people, params = population(4), zeros(4)

    def evaluations(strengths: tuple[float, ...]) -> int:
        search = begin(flat(params), strengths, newton=False)
        while not is_done(search):
            at = search.trial.detach().requires_grad_()
            value = cross_entropy(linear(unflat(at, params), people.x), people.y).mean()
            found = Evaluation(value.detach(), torch.autograd.grad(value, at)[0])
            search = observe(search, found, strengths, penalised(params), 1e-9)
        assert int(search.evaluations.sum()) >= len(strengths)
        return int(search.evaluations.sum())

    assert evaluations(PATH) < sum(evaluations((lam,)) for lam in PATH)


def test_a_search_that_was_stopped_goes_on_as_if_it_was_not() -> None:
    """The state after every round, put into a new schedule, ends in the same solutions in the same number of rounds."""
    algorithm = fed_lbfgs(supervised(linear, cross_entropy), strengths=PATH[:2], tolerance=1e-5)
    source = Sampled(population(3), batches(None))
    state, rounds = algorithm.init(zeros(3)), 0
    while not is_done(state.extra):
        state = next(synchronous(algorithm, OneByOne(source), tree.map(torch.clone, state), done=rounds)).state
        rounds += 1
    whole, count = fitted(cross_entropy, 3, strengths=PATH[:2], tolerance=1e-5)
    assert rounds == count
    assert torch.equal(state.extra.solutions, whole.extra.solutions)
    later = next(synchronous(algorithm, OneByOne(source), state, done=rounds)).state
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(later), tree.leaves(state), strict=True))


def test_steps_that_raise_the_objective_are_shortened() -> None:
    """Rosenbrock's valley, in which full steps overshoot: its minimum is (1, 1)."""

    def rosenbrock(x: Tensor) -> Tensor:
        return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2

    search = begin(torch.tensor([-1.2, 1.0]), (0.0,), newton=False)
    shortened = 0
    for _ in range(200):
        at = search.trial.detach().requires_grad_()
        value = rosenbrock(at)
        found = Evaluation(value.detach(), torch.autograd.grad(value, at)[0])
        search = observe(search, found, (0.0,), torch.ones(2), 1e-16)
        shortened += int(search.halvings > 0)
    assert is_done(search)
    assert (search.solutions[0] - 1).abs().max() < 1e-6
    assert shortened > 0


def test_sums_on_a_grid_end_near_the_optimum() -> None:
    """Under secure aggregation numbers are rounded to the grid: the search ends, within its steps of the fit."""
    want, _ = fitted(cross_entropy, 2, strengths=(0.03,))

    def secure(source: Any) -> SecureSumEngine:
        return SecureSumEngine(
            OneByOne(source), WeightedEncoding(FixedPointGrid(clip=8.0, bits=24, clients=8, cap=30.0)), MaskedSums()
        )

    found, rounds = fitted(cross_entropy, 2, secure, strengths=(0.03,), tolerance=1e-6)
    x = population(2).x
    apart = linear(solutions(found)[0], x).softmax(-1) - linear(solutions(want)[0], x).softmax(-1)
    assert apart.abs().max() < 1e-2
    assert rounds < 40


def test_what_cannot_be_a_strength_is_refused() -> None:
    for strengths in ((), (-1.0,), (float("nan"),)):
        with pytest.raises(InputError, match="strengths="):
            fed_lbfgs(supervised(linear, squared_error), strengths=strengths)
