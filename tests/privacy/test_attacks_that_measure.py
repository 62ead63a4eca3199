"""The attacks of the audit, each on a case whose answer is known."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.func import grad

from seedbed import Model, conv, cross_entropy, mlp, read, seeded_init, sgd, supervised, tree
from seedbed.audit.attacks import canary_bound, gradient_matching, label_leak, layer_inversion, membership_inference
from seedbed.data.types import Batch, Task
from seedbed.learning.training import train

SHAPE = (1, 8, 8)


def victim(examples: int, *, seed: int = 0) -> tuple[Model, Batch]:
    g = torch.Generator().manual_seed(seed)
    with seeded_init(seed):
        model = Model(mlp(SHAPE, 10))
    x, y = torch.rand(examples, *SHAPE, generator=g), torch.randint(10, (examples,), generator=g)
    return model, Batch(x, y, torch.ones(examples))


@pytest.mark.parametrize("steps", [1, 5])
def test_one_example_is_read_off_exactly(steps: int) -> None:
    """x = (∂L/∂W)_i/(∂L/∂b)_i, and the same of a sum over steps, as every step has the same x: over 100 dB in
    float32. Guessing the mean of other inputs gives about 11."""
    model, batch = victim(1)
    loss = supervised(model.predict, cross_entropy)
    items = tree.map(lambda v: v.expand(steps, *v.shape), batch)
    after = train(loss, sgd(0.1), model.params, Task(items, torch.ones(steps), torch.tensor(1.0))).params
    update = {n: p - after[n] for n, p in model.params.items()}
    layer = layer_inversion.first_dense(model.params, 64)
    assert layer is not None
    found, ratio = layer_inversion.best_match(layer_inversion.candidates(update, layer), batch.x.flatten(1))
    assert ratio > 100
    assert found.float() == pytest.approx(batch.x.flatten(), abs=1e-5)
    others = torch.rand(100, 64, generator=torch.Generator().manual_seed(5))
    assert 9 < layer_inversion.mean_guess(batch.x.flatten(1), others) < 14


def test_a_model_without_a_dense_first_layer_has_no_closed_form() -> None:
    assert (
        layer_inversion.first_dense({"conv.weight": torch.zeros(4, 1, 3, 3), "head.weight": torch.zeros(2, 9)}, 64)
        is None
    )
    silent = {"a.weight": torch.ones(2, 3), "a.bias": torch.tensor([0.0, 2.0])}
    assert layer_inversion.candidates(silent, "a").tolist() == [[0, 0, 0], [0.5, 0.5, 0.5]]


def test_psnr_by_hand() -> None:
    """An error of 0.1 everywhere is 20 dB."""
    assert layer_inversion.psnr(torch.full((4,), 0.6), torch.full((4,), 0.5)).item() == pytest.approx(20, abs=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_the_label_of_one_example_is_exact(seed: int) -> None:
    model, batch = victim(1, seed=seed)
    g = grad(supervised(model.predict, cross_entropy))(model.params, batch)
    found = label_leak.present_classes(g["head.bias"])
    assert found.nonzero().flatten().tolist() == batch.y.tolist()
    assert label_leak.agreement(found, batch.y) == 1
    assert label_leak.agreement(~found, batch.y) == 0


@pytest.mark.slow
def test_matching_gradients_finds_the_input() -> None:
    """A convolutional net, where nothing can be read off: from the gradient of one digit, 150 steps come near enough
    to see it, and far nearer than to its mirror image."""
    with seeded_init(0):
        model = Model(conv(SHAPE, 10, channels=16))
    digits = read("digits")
    x, y = digits.x[200:201] / digits.x.max(), digits.y[200:201]
    loss = supervised(model.predict, cross_entropy)
    g = grad(loss)(model.params, Batch(x, y, torch.ones(1)))

    def imitate(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return grad(loss)(model.params, Batch(x, y, torch.ones(1)))

    found = gradient_matching.match_gradient(imitate, g, (1, *SHAPE), steps=150, starts=2).flatten(1)
    right, mirrored = (layer_inversion.psnr(found, image.flatten(1)).item() for image in (x, x.flip(-1)))
    assert right > 18
    assert right > mirrored + 5


def test_total_variation_by_hand() -> None:
    """Rows 0 1 / 0 1: no change downwards, 1 across."""
    assert gradient_matching.total_variation(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])).item() == 1


# ---- canaries --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "epsilon"), [(100, 3.49), (200, 4.19), (500, 5.11), (1000, 5.81), (2000, 6.50)])
def test_all_guesses_right(m: int, epsilon: float) -> None:
    """qᵐ = 0.05 at q = eᵉ/(1+eᵉ): the published table."""
    assert canary_bound.lower_bound(canary_bound.CanaryGuesses(m, m, m), 0.0) == pytest.approx(epsilon, abs=5e-3)
    q = 0.05 ** (1 / m)
    assert canary_bound.lower_bound(canary_bound.CanaryGuesses(m, m, m), 0.0) == pytest.approx(
        np.log(q / (1 - q)), abs=1e-6
    )


def test_a_coin_refutes_nothing() -> None:
    """Guesses by chance give a bound of 0 but for one time in twenty; and a δ never raises the bound."""
    rng = np.random.default_rng(0)
    bounds = []
    for _ in range(200):
        found = canary_bound.guess_canaries(rng.normal(size=400), rng.random(400) < 0.5, part=0.5)
        assert found.guessed == 200
        bounds.append(canary_bound.lower_bound(found, 0.0))
        assert canary_bound.lower_bound(found, 1e-5) <= bounds[-1]
    assert sum(b > 0 for b in bounds) <= 20  # 10 expected; P[more than 20] < 1e-3


def test_randomised_response_is_never_refuted_and_is_found_at_ten_times() -> None:
    """ε-randomised response of the coin itself is exactly ε: the bound exceeds it at most one time in twenty."""
    rng, epsilon = np.random.default_rng(1), 1.0
    q = np.exp(epsilon) / (1 + np.exp(epsilon))
    over = 0
    for _ in range(200):
        coins = rng.random(1000) < 0.5
        answers = np.where(rng.random(1000) < q, coins, ~coins) + 1e-3 * rng.random(1000)
        found = canary_bound.guess_canaries(answers, coins)
        over += canary_bound.lower_bound(found, 0.0) > epsilon
    assert over <= 20


def test_directions_have_length_one() -> None:
    drawn = canary_bound.directions(5, 1000, np.random.default_rng(0))
    assert np.linalg.norm(drawn, axis=1) == pytest.approx(np.ones(5))
    assert abs(drawn @ drawn.T - np.eye(5)).max() < 0.15


# ---- membership ------------------------------------------------------------------------------------------


def test_the_likelihood_ratio_of_two_normals() -> None:
    """Members N(2, 1), others N(0, 1): the ratio is 2x − 2; and its rate at 1 % false positives is
    Φ(2 − Φ⁻¹(0.99)) = 0.372."""
    rng = np.random.default_rng(0)
    included = rng.random((4000, 500)) < 0.5
    shadows = rng.normal(size=included.shape) + 2 * included
    member = rng.random(500) < 0.5
    own = rng.normal(size=500) + 2 * member
    scores = membership_inference.likelihood_ratio(own, shadows, included)
    assert scores == pytest.approx(2 * own - 2, abs=0.6)
    many = rng.random(40_000) < 0.5  # so many that the threshold itself is known well
    found = membership_inference.true_positive_rate(rng.normal(size=40_000) + 2 * many, many)
    assert found.rate == pytest.approx(stats.norm.cdf(2 - stats.norm.ppf(0.99)), abs=0.04)


def test_nobody_is_found_where_nothing_is_told() -> None:
    rng = np.random.default_rng(0)
    member = rng.random(4000) < 0.5
    found = membership_inference.true_positive_rate(rng.normal(size=4000), member)
    assert found.low < 0.01 < found.high
    assert membership_inference.dp_ceiling(0.01, 1.0, 0.0) == pytest.approx(np.e / 100)
    assert membership_inference.dp_ceiling(0.5, 5.0, 0.0) == pytest.approx(1 - 0.5 * np.exp(-5))  # of non-members too


def test_logits_are_finite() -> None:
    assert membership_inference.logit(np.array([0.5])) == 0
    assert np.isfinite(membership_inference.logit(np.array([0.0, 1.0]))).all()
