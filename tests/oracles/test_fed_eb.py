"""Empirical Bayes: posteriors in closed form, and priors that are the maximum of the likelihood, found by other means.

The tables are read from SEEDBED_DATA, else from ../shared/data; without them their tests are skipped.
"""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from scipy import integrate, optimize, stats
from torch import Tensor
from torch.func import vmap

from seedbed import tree
from seedbed.algorithms.fed_eb import fed_eb, frozen, with_prior
from seedbed.algorithms.scaffold import scaffold
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, batches, fresh_support
from seedbed.data.types import Batch, Episode
from seedbed.engines import OneByOne, Vectorised
from seedbed.errors import InputError
from seedbed.evaluation import without_adaptation
from seedbed.federated import ServerState
from seedbed.learning.adaptations import unadapted
from seedbed.learning.effects import (
    COVARIANCE,
    column_effects,
    head_effects,
    likelihood,
    predictive_variance,
    with_effects,
)
from seedbed.learning.empirical_bayes import (
    FLOOR,
    Prior,
    Rows,
    Sums,
    effects_of,
    infer_classes,
    infer_number,
    infer_two_classes,
    sums_of,
    update,
)
from seedbed.learning.objectives import cross_entropy, squared_error, supervised
from seedbed.learning.optimizers import sgd
from seedbed.privacy.secure import FixedPointGrid, MaskedSums, PlainSums, SecureSumEngine, WeightedEncoding
from seedbed.rounds import synchronous

from .bench import Given, task

Array = NDArray[np.float64]
BESIDE = Path(__file__).parents[3] / "shared" / "data"


def prior_of(variance: list[float], noise: float = 1.0, mean: list[float] | None = None) -> Prior:
    tau = torch.tensor(variance)
    return Prior(torch.zeros_like(tau) if mean is None else torch.tensor(mean), tau, torch.tensor(noise))


def some_rows(seed: int, *, columns: int, size: int = 9, padding: int = 3, classes: int = 0) -> Rows:
    """Rows with padding of large numbers; of classes with scores [B, K], of two classes and numbers [B]."""
    g = torch.Generator().manual_seed(seed)
    count = size + padding
    mask = (torch.arange(count) < size).double()
    shape = (count, classes) if classes > 2 else (count,)
    z, phi = torch.randn(*shape, generator=g), torch.randn(count, columns, generator=g)
    phi[:, 0] = 1
    y = torch.randint(0, classes, (count,), generator=g) if classes else torch.randn(count, generator=g)
    away = torch.where(mask > 0, 1.0, 1e6)
    return Rows(z * (away[:, None] if classes > 2 else away), phi * away[:, None], y, mask)


# ---- one client's posterior -----------------------------------------------------------------------------------------


def test_the_effect_on_an_intercept_is_the_blup() -> None:
    """m = nτ²/(nτ² + σ²)·mean(y − z), its variance τ²σ²/(nτ² + σ²): Robinson, Statistical Science 1991."""
    rows = some_rows(0, columns=1)
    prior = prior_of([0.7], noise=1.3)
    mean, covariance = effects_of(infer_number(rows, prior), prior)
    n = 9
    shrink = n * 0.7 / (n * 0.7 + 1.3)
    assert abs(mean - shrink * (rows.y - rows.z)[:n].mean()) < 1e-12
    assert abs(covariance - 0.7 * 1.3 / (n * 0.7 + 1.3)) < 1e-12


def test_effects_on_columns_are_the_blups_of_hendersons_equations() -> None:
    """V = (Φ'Φ/σ² + Σ⁻¹)⁻¹ and m = V(Φ'(y − z)/σ² + Σ⁻¹μ); the evidence is N(y; z + Φμ, σ²I + ΦΣΦ')."""
    rows = some_rows(1, columns=4)
    prior = prior_of([0.5, 2.0, 0.1, 1.0], noise=0.6, mean=[0.3, -1.0, 0.2, 0.0])
    posterior = infer_number(rows, prior)
    mean, covariance = effects_of(posterior, prior)
    phi, z, y = rows.phi[:9], rows.z[:9], rows.y[:9]
    v = torch.linalg.inv(phi.T @ phi / 0.6 + torch.diag(1 / prior.variance))
    assert (covariance - v).abs().max() < 1e-10
    assert (mean - v @ (phi.T @ (y - z) / 0.6 + prior.mean / prior.variance)).abs().max() < 1e-10
    marginal = 0.6 * torch.eye(9) + phi @ torch.diag(prior.variance) @ phi.T
    want = stats.multivariate_normal((z + phi @ prior.mean).numpy(), marginal.numpy()).logpdf(y.numpy())
    assert abs(posterior.evidence - want) < 1e-10
    assert abs(posterior.error - ((y - z - phi @ mean) ** 2).sum()) < 1e-10


def test_a_variance_of_zero_gives_the_start() -> None:
    rows = some_rows(1, columns=2)
    for infer in (infer_number, infer_two_classes()):
        mean, covariance = effects_of(infer(rows, prior_of([0.0, 0.0])), prior_of([0.0, 0.0]))
        assert not mean.any()
        assert not covariance.any()


def test_two_classes_are_at_the_mode_of_their_posterior() -> None:
    """The gradient of log p(y | b) + log p(b) is 0 at the mean, and the covariance is minus its inverse Hessian, both
    by automatic differentiation."""
    rows = some_rows(2, columns=3, classes=2)
    prior = prior_of([0.5, 2.0, 1.0], mean=[0.4, 0.0, 0.0])
    mean, covariance = effects_of(infer_two_classes()(rows, prior), prior)

    def log_joint(b: Tensor) -> Tensor:
        eta = rows.z[:9] + rows.phi[:9] @ b
        fit = torch.distributions.Bernoulli(logits=eta).log_prob(rows.y[:9].double()).sum()
        return fit - ((b - prior.mean) ** 2 / prior.variance).sum() / 2

    assert torch.autograd.functional.jacobian(log_joint, mean).abs().max() < 1e-10
    assert (covariance + torch.linalg.inv(torch.autograd.functional.hessian(log_joint, mean))).abs().max() < 1e-10


def test_quadrature_gives_moments_and_evidence_of_one_effect() -> None:
    """Against scipy's integration of the same density."""
    rows = some_rows(3, columns=1, classes=2)
    prior = prior_of([2.5], mean=[0.4])
    posterior = infer_two_classes(nodes=31)(rows, prior)
    mean, covariance = effects_of(posterior, prior)
    z, y = rows.z[:9].numpy(), rows.y[:9].numpy()

    def density(b: float) -> float:
        eta = z + b
        return float(np.exp(np.sum(y * eta - np.logaddexp(0, eta))) * stats.norm.pdf(b, 0.4, math.sqrt(2.5)))

    def moment(k: int) -> float:
        return float(integrate.quad(lambda b: density(b) * b**k, -15, 15, epsabs=1e-14)[0])

    total, first, second = map(moment, range(3))
    assert abs(mean - first / total) < 1e-9
    assert abs(covariance - (second / total - (first / total) ** 2)) < 1e-9
    assert abs(posterior.evidence - math.log(total)) < 1e-9


def test_more_classes_are_at_the_mode_of_their_posterior() -> None:
    """As for two, with an effect of each column on each of four scores; a class that the client lacks is finite."""
    rows = some_rows(4, columns=2, classes=4)
    rows = rows._replace(y=rows.y.clamp_max(2))
    g = torch.Generator().manual_seed(9)
    prior = Prior(torch.randn(8, generator=g), 0.2 + torch.rand(8, generator=g), torch.tensor(1.0))
    mean, covariance = effects_of(infer_classes(rows, prior), prior)

    def log_joint(b: Tensor) -> Tensor:
        eta = rows.z[:9] + rows.phi[:9] @ b.reshape(2, 4)
        fit = eta.log_softmax(-1).gather(1, rows.y[:9, None]).sum()
        return fit - ((b - prior.mean) ** 2 / prior.variance).sum() / 2

    assert torch.autograd.functional.jacobian(log_joint, mean).abs().max() < 1e-9
    assert (covariance + torch.linalg.inv(torch.autograd.functional.hessian(log_joint, mean))).abs().max() < 1e-9


def test_certain_examples_and_wide_priors_stay_finite() -> None:
    """Separable classes, a variance of 1e4, scores of 30: Newton's steps are cut, and arrive."""
    rows = Rows(torch.full((6,), 30.0), torch.ones(6, 1), torch.zeros(6, dtype=torch.int64), torch.ones(6))
    prior = prior_of([1e4])
    mean, covariance = effects_of(infer_two_classes()(rows, prior), prior)
    p = torch.sigmoid(30 + mean)
    assert abs(-6 * p - mean / 1e4) < 1e-6
    assert covariance.isfinite().all()


# ---- the prior: maximum likelihood from sums ------------------------------------------------------------------------


def learned(rows: Rows, infer: Any, *, numbers: bool, rounds: int, start: float = 0.003) -> tuple[Prior, float]:
    """The prior after so many rounds over clients' rows [C, B, ...], and −2·log likelihood under the last one used."""
    columns = rows.phi.shape[-1]
    prior, free = prior_of([start] * columns), torch.arange(columns) == 0
    evidence = 0.0
    for _ in range(rounds):
        posterior = vmap(infer, in_dims=(0, None))(rows, prior)
        evidence = float(posterior.evidence.sum())
        sums = vmap(sums_of)(posterior, rows)
        prior = update(prior, Sums(*(each.mean(0) for each in sums)), free, numbers=numbers)
    return prior, -2 * evidence


def stacked_rows(table: pd.DataFrame, client: str, z: Array, y: Array, phi: Array | None = None) -> Rows:
    """A table's rows by client, padded: [C, B, ...]."""
    groups = list(table.groupby(client).indices.values())
    longest = max(map(len, groups))
    picks = torch.tensor(np.stack([np.resize(rows, longest) for rows in groups]))
    mask = torch.arange(longest) < torch.tensor([len(rows) for rows in groups])[:, None]
    columns = torch.ones(len(z), 1) if phi is None else torch.tensor(phi)
    return Rows(torch.tensor(z)[picks], columns[picks], torch.tensor(y)[picks], mask.double())


@pytest.fixture
def read() -> Callable[[str], pd.DataFrame]:
    def table(name: str) -> pd.DataFrame:
        path = Path(os.environ.get("SEEDBED_DATA") or BESIDE) / "tables" / f"{name}.csv"
        if not path.is_file():
            pytest.skip(f"no real data: {path} is missing (set SEEDBED_DATA to where it lies)")
        return pd.read_csv(path)

    return table


def test_the_prior_of_exam_is_that_of_maximum_likelihood(read: Callable[[str], pd.DataFrame]) -> None:
    """normexam ~ standLRT + (1 | school): the profile likelihood over the ratio τ²/σ², by scipy, generalised least
    squares inside; it gives the published fit. On its slope the fixed point finds its intercept, τ² and σ²."""
    exam = read("exam")
    x, y = exam.standLRT.to_numpy(), exam.normexam.to_numpy()
    design = np.stack([np.ones_like(x), x], 1)
    schools = list(exam.groupby("school").indices.values())

    def profile(log_ratio: float) -> tuple[float, Array, float]:
        ratio, xx, xy, logdet = math.exp(log_ratio), np.zeros((2, 2)), np.zeros(2), 0.0
        inverses = [np.eye(len(s)) - ratio / (1 + ratio * len(s)) for s in schools]
        for s, inverse in zip(schools, inverses, strict=True):
            xx, xy = xx + design[s].T @ inverse @ design[s], xy + design[s].T @ inverse @ y[s]
            logdet += math.log1p(ratio * len(s))
        beta = np.linalg.solve(xx, xy)
        left = [y[s] - design[s] @ beta for s in schools]
        noise = sum(r @ inverse @ r for r, inverse in zip(left, inverses, strict=True)) / len(y)
        return len(y) * (math.log(2 * math.pi * noise) + 1) + logdet, beta, noise

    best = optimize.minimize_scalar(lambda v: profile(v)[0], bounds=(-6, 2), method="bounded", options={"xatol": 1e-9})
    deviance, beta, noise = profile(best.x)
    assert abs(deviance - 9357.243) < 1e-3
    assert np.abs(beta - [0.002391, 0.563371]).max() < 1e-6
    prior, found = learned(stacked_rows(exam, "school", beta[1] * x, y), infer_number, numbers=True, rounds=15)
    assert abs(found - deviance) < 1e-5
    assert abs(prior.mean - beta[0]) < 1e-6
    assert abs(prior.variance - noise * math.exp(best.x)) < 1e-6
    assert abs(prior.noise - noise) < 1e-6


def test_the_prior_of_verbagg_is_that_of_maximum_likelihood(read: Callable[[str], pd.DataFrame]) -> None:
    """Y ~ Anger + Gender + btype + situ + mode + (1 | id), maximised over all eight numbers by scipy's BFGS.

    By Laplace's method and by 15 nodes it gives the published fits. On the second's coefficients the fixed point with
    15 nodes finds its τ². Under Laplace's method, whose mode is not a mean, it finds 1.573 instead of 1.709.
    """
    table = read("verbagg")
    y = (table.r2 == "Y").to_numpy().astype(float)
    flags = [
        table.Gender == "M",
        table.btype == "scold",
        table.btype == "shout",
        table.situ == "self",
        table["mode"] == "do",
    ]
    design = np.stack([np.ones(len(table)), table.Anger, *flags], 1).astype(float)
    clients = stacked_rows(table, "id", np.arange(len(table)).astype(float), y)
    places = clients.z.long()

    def deviance(theta: Array, nodes: int) -> tuple[float, Array]:
        given = torch.tensor(theta, requires_grad=True)
        rows = clients._replace(z=(torch.tensor(design) @ given[:-1])[places])
        prior = Prior(torch.zeros(1), given[-1:].exp(), torch.tensor(1.0))
        total = -2 * vmap(infer_two_classes(nodes), in_dims=(0, None))(rows, prior).evidence.sum()
        return float(total.detach()), torch.autograd.grad(total, given)[0].numpy()

    start = np.zeros(8)
    for nodes, want, tau in ((1, 8223.903, 1.7094), (15, 8219.297, 1.7257)):
        best = optimize.minimize(deviance, start, args=(nodes,), jac=True, method="BFGS", options={"gtol": 1e-3})
        start = best.x
        assert abs(best.fun - want) < 1e-3
        assert abs(math.exp(best.x[-1]) - tau) < 1e-3
    rows = clients._replace(z=torch.tensor(design @ best.x[:-1])[places])
    prior, found = learned(rows, infer_two_classes(15), numbers=False, rounds=20)
    assert abs(found - best.fun) < 1e-4
    assert abs(prior.variance - math.exp(best.x[-1])) < 1e-3
    assert abs(prior.mean) < 1e-3
    assert abs(learned(rows, infer_two_classes(), numbers=False, rounds=20)[0].variance - 1.573) < 1e-2


def simulated(seed: int, tau: float, *, clients: int = 40, noise: float = 1.0) -> Rows:
    """Clients of 6 to 12 examples whose effects on an intercept and a column have variances tau and 0.3."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(clients), rng.integers(6, 13, clients))
    phi = np.stack([np.ones(len(owner)), rng.normal(size=len(owner))], 1)
    b = rng.normal(size=(clients, 2)) * np.sqrt([tau, 0.3])
    y = (phi * b[owner]).sum(1) + rng.normal(size=len(owner)) * math.sqrt(noise)
    return stacked_rows(pd.DataFrame({"client": owner}), "client", np.zeros(len(y)), y, phi)


def test_variances_of_two_effects_are_those_of_maximum_likelihood() -> None:
    """Against Nelder and Mead's search over μ, log τ² and log σ² of the likelihood; one variance is far above where the
    prior starts."""
    rows = simulated(0, 4.0)

    def deviance(theta: Array) -> float:
        mean, *logs = theta
        prior = prior_of([math.exp(logs[0]), math.exp(logs[1])], math.exp(logs[2]), [mean, 0.0])
        return -2 * float(vmap(infer_number, in_dims=(0, None))(rows, prior).evidence.sum())

    options = {"xatol": 1e-6, "fatol": 1e-8, "maxiter": 4000}
    best = optimize.minimize(deviance, np.zeros(4), method="Nelder-Mead", options=options)
    prior, found = learned(rows, infer_number, numbers=True, rounds=60)
    assert abs(found - best.fun) < 1e-6
    assert (prior.variance - torch.tensor(np.exp(best.x[1:3]))).abs().max() < 1e-4
    assert abs(prior.mean[0] - best.x[0]) < 1e-4
    assert abs(prior.noise - math.exp(best.x[3])) < 1e-4
    assert prior.mean[1] == 0


def test_a_variance_of_zero_is_reached_in_a_few_rounds() -> None:
    """Where clients do not differ, plain EM still has more than .001 after 200 rounds; the fixed point is at its floor
    by the twentieth, or at the small maximum that the likelihood has."""
    rng = np.random.default_rng(1)
    y = rng.normal(size=(65, 20))
    y -= y.mean(1, keepdims=True)
    rows = Rows(torch.zeros(65, 20), torch.ones(65, 20, 1), torch.tensor(y), torch.ones(65, 20))
    prior, _ = learned(rows, infer_number, numbers=True, rounds=20)
    assert prior.variance == FLOOR


# ---- as an algorithm ------------------------------------------------------------------------------------------------


def linear(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return x @ params["head.weight"].T + params["head.bias"]


def inputs(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return x


def population(classes: int = 0, clients: int = 12) -> Population:
    rng = np.random.default_rng(5)
    owner = np.repeat(np.arange(clients), rng.integers(4, 15, clients))
    x = rng.normal(size=(len(owner), 2))
    effects = rng.normal(size=(clients, 3))[owner]
    eta = x @ np.array([1.0, -0.5]) + effects[:, 0] + (x * effects[:, 1:]).sum(1) + rng.normal(size=len(owner)) * 0.7
    y = torch.tensor((eta > 0).astype(int) if classes else eta)
    return Population.from_arrays(torch.tensor(x), y, owner)


def params_for(classes: int) -> dict[str, Tensor]:
    n = classes or 1
    return {"head.weight": torch.tensor([[1.0, -0.5]]).repeat(n, 1), "head.bias": torch.zeros(n)}


def made(classes: int = 0, **settings: Any) -> Any:
    loss = cross_entropy if classes else squared_error
    return fed_eb(supervised(linear, loss), linear, inputs, **settings)


def final(algorithm: Any, engine: Any, params: Any, count: int) -> ServerState:
    schedule = synchronous(algorithm, engine, algorithm.init(params))
    return [next(schedule).state for _ in range(count)][-1]


@pytest.mark.parametrize("kind", [OneByOne, Vectorised])
@pytest.mark.parametrize("items", [batches(None), batches(4), batches(4, epochs=3)], ids=["full", "batches", "epochs"])
def test_rounds_find_the_prior_that_the_sums_give(kind: Any, items: Any) -> None:
    """Twelve rounds on an engine, of a start that stays, are those of `learned`, however examples are batched."""
    people = population()
    frame = pd.DataFrame({"client": np.repeat(np.arange(12), people.sizes)})
    x, y = people.x[people.rows].numpy(), people.y[people.rows].numpy()
    phi = np.concatenate([np.ones((len(x), 1)), x], 1)
    rows = stacked_rows(frame, "client", x @ np.array([1.0, -0.5]), y, phi)
    want, _ = learned(rows, infer_number, numbers=True, rounds=12)
    effects = head_effects(inputs, "slopes")
    algorithm = with_prior(frozen(), linear, effects, lambda params: likelihood(squared_error, 1))
    state = final(algorithm, kind(Sampled(people, items)), params_for(0), 12)
    for found, right in zip(state.extra["prior"], want, strict=True):
        assert (found - right).abs().max() < 1e-10


def test_a_rate_of_zero_is_a_frozen_start() -> None:
    source = Sampled(population(), batches(None))
    still = final(made(local=sgd(0.0)), OneByOne(source), params_for(0), 3)
    effects = head_effects(inputs, "bias")
    algorithm = with_prior(frozen(), linear, effects, lambda params: likelihood(squared_error, 1))
    frozen_one = final(algorithm, OneByOne(source), params_for(0), 3)
    for a, b in zip(still.extra["prior"], frozen_one.extra["prior"], strict=True):
        assert (a - b).abs().max() < 1e-12


@pytest.mark.parametrize("classes", [0, 2])
def test_secure_sums_are_the_plain_ones_on_the_same_grid(classes: int) -> None:
    """Six rounds behind masks and without, bit for bit; and within the grid's steps of the floats' own."""
    source = Sampled(population(classes, clients=6), batches(None))
    algorithm, params = made(classes, columns="slopes"), params_for(classes)
    encoding = WeightedEncoding(FixedPointGrid(clip=8.0, bits=20, clients=6))
    plain, masked = (
        final(algorithm, SecureSumEngine(OneByOne(source), encoding, form), params, 6)
        for form in (PlainSums(), MaskedSums())
    )
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(plain), tree.leaves(masked), strict=True))
    floats = final(algorithm, OneByOne(source), params, 6)
    for a, b in zip(masked.extra["prior"], floats.extra["prior"], strict=True):
        assert ((a - b).abs() <= 2e-3 * (1 + b.abs())).all()


@pytest.mark.parametrize("classes", [0, 2])
@pytest.mark.parametrize("columns", ["bias", "slopes"])
def test_a_client_adapts_to_its_posterior(classes: int, columns: Any) -> None:
    """The personal model's scores are z + φ'm on new inputs, on both engines."""
    people = population(classes)
    algorithm, params = made(classes, columns=columns), params_for(classes)
    state = final(algorithm, OneByOne(Sampled(people, batches(None))), params, 5)
    sent = algorithm.send(state, -1)
    rows = people.rows_of(3)
    support = Batch(people.x[rows], people.y[rows], torch.ones(len(rows)))
    own = algorithm.personalise(sent, {}, support)
    phi = torch.cat([torch.ones(len(rows), 1), people.x[rows]], 1) if columns == "slopes" else torch.ones(len(rows), 1)
    outputs = linear(state.params, support.x)
    z = outputs[:, 0] if not classes else outputs[:, 1] - outputs[:, 0]
    infer = infer_two_classes() if classes else infer_number
    prior = state.extra["prior"]
    mean, covariance = effects_of(infer(Rows(z, phi, support.y, support.mask), prior), prior)
    moved = linear(own, support.x)
    score = moved[:, 0] if not classes else moved[:, 1] - moved[:, 0]
    assert (score - z - phi @ mean).abs().max() < 1e-10
    effects = head_effects(inputs, columns)
    variance = torch.einsum("bp,pq,bq->b", phi, covariance, phi)
    if classes:
        soft = with_effects(linear, effects)(own, support.x)
        want = (z + phi @ mean) / (1 + math.pi / 8 * variance).sqrt()
        assert (soft[:, 1] - soft[:, 0] - want).abs().max() < 1e-10
    else:
        assert (predictive_variance(own, effects, support.x) - prior.noise - variance).abs().max() < 1e-10
        assert torch.equal(with_effects(linear, effects)(own, support.x), moved)


def test_effects_of_columns_outside_the_model_are_those_of_its_head() -> None:
    """`column_effects` of a linear model's inputs, and `head_effects`: the same predictions."""
    people = population(2)
    source, params = Sampled(people, batches(None)), params_for(2)
    support = Batch(people.x[:6], people.y[:6], torch.ones(6))
    found = []
    for effects in (head_effects(inputs, "slopes"), column_effects(inputs, 2)):
        algorithm = with_prior(frozen(), linear, effects, lambda params: likelihood(cross_entropy, 2))
        state = final(algorithm, OneByOne(source), params, 4)
        own = algorithm.personalise(algorithm.send(state, -1), {}, support)
        found.append(with_effects(linear, effects)(own, people.x[6:12]).softmax(-1))
        assert torch.equal(with_effects(linear, effects)(params, support.x), linear(params, support.x))
    assert (found[0] - found[1]).abs().max() < 1e-12


def test_what_is_not_finite_adapts_to_the_start() -> None:
    algorithm = made(0)
    state = algorithm.init(params_for(0))
    support = Batch(torch.zeros(2, 2), torch.tensor([1.0, math.nan]), torch.ones(2))
    own = algorithm.personalise(algorithm.send(state, -1), {}, support)
    assert all(torch.equal(own[name], p) for name, p in state.params.items())
    assert not own[COVARIANCE].any()


def test_new_clients_gain_and_the_start_can_still_be_judged() -> None:
    """Clients that were not in training: their error with effects on all columns is lower than the start's, and
    `before_adapting` gives that of the start."""
    people = population(clients=60)
    known, unseen = people.only(range(40)), people.only(range(40, 60))
    algorithm = made(0, columns="slopes")
    state = final(algorithm, Vectorised(Sampled(known, batches(None))), params_for(0), 8)
    source = Sampled(unseen, fresh_support(3, draws=4), purpose="judge")
    metric = supervised(linear, squared_error)
    adapted = Vectorised(source).evaluate(algorithm, state, source, metric)
    start = Vectorised(source).evaluate(without_adaptation(algorithm, unadapted), state, source, metric)
    gains = torch.stack([start[c].mean() - adapted[c].mean() for c in start])
    assert gains.mean() > 2 * gains.std() / math.sqrt(len(gains))


def test_it_says_what_it_cannot_do() -> None:
    loss = supervised(linear, squared_error)
    with pytest.raises(InputError, match="broadcasts its params"):
        with_prior(scaffold(loss), linear, head_effects(inputs, "bias"), lambda params: likelihood(squared_error, 1))
    with pytest.raises(InputError, match="squared_error of 2 outputs"):
        made(0).init(params_for(2))
    with pytest.raises(InputError, match="need cross_entropy"):
        fed_eb(supervised(linear, lambda outputs, y: outputs[:, 0]), linear, inputs).init(params_for(0))
    with pytest.raises(InputError, match="give supervised"):
        fed_eb(lambda params, batch: torch.zeros(()), linear, inputs)
    one = Batch(torch.zeros(2, 2), torch.zeros(2), torch.ones(2))
    algorithm = made(0)
    with pytest.raises(InputError, match="not on episodes"):
        final(algorithm, OneByOne(Given([task(Episode(one, one))])), params_for(0), 1)
