"""The support vector machine's dual: its optimum, its derivatives, and what must not change it."""

from typing import Any

import pytest
import torch
from sklearn.svm import LinearSVC
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional as F

from seedbed.learning.svm_qp import interior_point, kkt_residual, svm_dual

C, EPSILON = 0.3, 0.5


def examples(count: int, width: int, ways: int, *, scale: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Non-negative features, as after a ReLU, with a little of their class in them: x [B, F], one-hot y [B, N]."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % ways
    x = torch.randn(count, width, generator=g) + 2 * torch.randn(ways, width, generator=g)[y]
    return scale * x.relu(), F.one_hot(y, ways).to(x.dtype)


def kernel(x: Tensor, epsilon: float = EPSILON) -> Tensor:
    return x @ x.mT + epsilon * torch.eye(x.shape[-2])


def everything(y: Tensor) -> Tensor:
    return torch.ones_like(y)


@pytest.mark.parametrize(("count", "width", "ways"), [(5, 64, 5), (25, 64, 5), (25, 8, 5), (30, 16, 10), (4, 3, 2)])
@pytest.mark.parametrize("c", [0.1, 1.0])
def test_the_optimality_conditions_hold(count: int, width: int, ways: int, c: float) -> None:
    """After 15 iterations each KKT condition holds to 1e-8, more or fewer examples than features, for a stack of tasks
    with features of scales 0.01 to 10, of which some converge sooner than others."""
    scales = enumerate((0.01, 1.0, 1.0, 10.0))
    stack = [examples(count, width, ways, scale=scale, seed=s) for s, scale in scales]
    x, y = (torch.stack(part) for part in zip(*stack, strict=True))
    point = interior_point(kernel(x, 1.0), y, everything(y), c=c, iterations=15)
    assert kkt_residual(kernel(x, 1.0), y, everything(y), point, c=c).max() < 1e-8
    assert torch.equal(svm_dual(kernel(x, 1.0), y, everything(y), c=c), point.alpha)


def test_going_on_breaks_nothing() -> None:
    """Ten times as many iterations: S and Z would underflow if a task that has converged were not left alone."""
    x, y = examples(6, 4, 3)
    point = interior_point(kernel(x), y, everything(y), c=C, iterations=150)
    assert kkt_residual(kernel(x), y, everything(y), point, c=C) < 1e-14


def test_the_residual_sees_what_is_wrong() -> None:
    """Each condition, broken by 0.01, shows as about as much."""
    x, y = examples(10, 6, 3)
    point = interior_point(kernel(x), y, everything(y), c=C, iterations=15)
    for wrong in (
        point._replace(alpha=point.alpha + 0.01),
        point._replace(nu=point.nu + 0.01),
        point._replace(slack=point.slack + 0.01),
        point._replace(z=point.z - 0.01),
    ):
        assert kkt_residual(kernel(x), y, everything(y), wrong, c=C) > 1e-3


@pytest.mark.parametrize(("count", "width", "ways"), [(12, 5, 3), (15, 40, 5), (8, 4, 2)])
def test_it_is_the_machine_that_scikit_learn_finds(count: int, width: int, ways: int) -> None:
    """LinearSVC minimises ½‖W‖² + C Σ_n max(0, 1 − margin_n) in Crammer and Singer's form, whose dual this is. The
    kernel XXᵀ + εI is that of x with √ε·e_n appended to the n-th example, so its W is that of LinearSVC on those; and
    so are the values: W, and the primal objective, which equals the dual's (strong duality).
    """
    x, y = examples(count, width, ways, seed=3)
    longer = torch.cat([x, EPSILON**0.5 * torch.eye(count)], 1)
    alpha = svm_dual(kernel(x), y, everything(y), c=C)
    w = longer.T @ alpha  # [F+B, N]
    theirs = LinearSVC(C=C, multi_class="crammer_singer", fit_intercept=False, tol=1e-10, max_iter=1_000_000)
    found = torch.as_tensor(theirs.fit(longer.numpy(), y.argmax(1).numpy()).coef_.T)
    if ways == 2:  # scikit-learn keeps one column of two that are each other's opposite: w_1 − w_0 up to its sign
        w, found = w[:, 1] - w[:, 0], found[:, 0] * (1 if found.shape[1] == 1 else 2)
    assert (w - found).abs().max() < 1e-5
    scores = longer @ (longer.T @ alpha)
    others = scores.masked_fill(y > 0, -torch.inf).amax(1)
    primal = 0.5 * ((longer.T @ alpha) ** 2).sum() + C * (1 - (scores * y).sum(1) + others).clamp_min(0).sum()
    dual = (alpha * y).sum() - 0.5 * (alpha * (kernel(x) @ alpha)).sum()
    assert (primal - dual).abs() < 1e-12


def test_two_examples_by_hand() -> None:
    """Two orthonormal examples of two classes and ε = 0: K = I, and α = [[a, −a], [−a, a]] by symmetry, so that the
    dual is 2a − ½·4a²: a = ½, or C where that is less."""
    y = torch.eye(2)
    for c in (0.1, 0.4, 1.0):
        a = min(c, 0.5)
        assert (svm_dual(torch.eye(2), y, everything(y), c=c) - a * (2 * y - 1)).abs().max() < 1e-12


def test_the_order_of_examples_and_classes_does_not_matter() -> None:
    """Permuted examples and classes have the permuted solution."""
    x, y = examples(20, 8, 4)
    rows, columns = torch.randperm(20, generator=torch.Generator().manual_seed(1)), torch.tensor([2, 0, 3, 1])
    plain = svm_dual(kernel(x), y, everything(y), c=C)
    other = svm_dual(kernel(x[rows]), y[rows][:, columns], everything(y), c=C)
    assert (other - plain[rows][:, columns]).abs().max() < 1e-13


def test_what_takes_no_part_changes_nothing() -> None:
    """Padding rows (in the kernel: large numbers) and classes that the task does not have: their α is 0, and the
    others' solution and derivative are those of the smaller task."""
    x, y = examples(12, 8, 3)
    more = torch.cat([x, 1e3 * torch.ones(4, 8)])
    labels = F.pad(y, (0, 2, 0, 4))
    real = F.pad(everything(y), (0, 2, 0, 4))
    plain, padded = svm_dual(kernel(x), y, everything(y), c=C), svm_dual(kernel(more), labels, real, c=C)
    assert (padded[:12, :3] - plain).abs().max() < 1e-13
    assert padded[12:].abs().max() == 0
    assert padded[:, 3:].abs().max() == 0

    def total(k: Tensor, y: Tensor, real: Tensor) -> Tensor:
        return (svm_dual(k, y, real, c=C)[:12, :3] ** 3).sum()

    one = grad(total)(kernel(x), y, everything(y))
    two = grad(total)(kernel(more), labels, real)
    assert (two[:12, :12] - one).abs().max() < 1e-12
    assert two[12:].abs().max() == two[:, 12:].abs().max() == 0


def some_of(x: Tensor, y: Tensor) -> Tensor:
    """A function of the solution that weighs all its entries, by example and class: []."""
    weights = torch.linspace(-1, 2, y.numel()).reshape(y.shape)
    return (weights * svm_dual(kernel(x), y, everything(y), c=C)).sum()


@pytest.mark.parametrize(("count", "width", "ways"), [(9, 5, 3), (10, 12, 5)])
def test_the_gradient_is_that_of_finite_differences(count: int, width: int, ways: int) -> None:
    """Central differences of step 1e-5 in each coordinate, whose own error is about 1e-10; the solutions have bounds
    that are active and bounds that are not."""
    x, y = examples(count, width, ways, seed=2)
    alpha = svm_dual(kernel(x), y, everything(y), c=C)
    free = (C * y - alpha > 1e-9).sum()
    assert count < free < count * ways
    away = 1e-5 * torch.eye(count * width).reshape(-1, count, width)
    beyond, before = (vmap(some_of, in_dims=(0, None))(x + sign * away, y) for sign in (1, -1))
    want = ((beyond - before) / 2e-5).reshape(count, width)
    assert (grad(some_of)(x, y) - want).abs().max() < 1e-6


def test_second_derivatives_are_right_too() -> None:
    """∇²f·u against differences of the gradient: who differentiates twice is not misled."""
    x, y = examples(9, 5, 3, seed=2)
    u = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
    got = grad(lambda z: (grad(some_of)(z, y) * u).sum())(x)
    want = (grad(some_of)(x + 1e-5 * u, y) - grad(some_of)(x - 1e-5 * u, y)) / 2e-5
    assert got.abs().max() > 1e-3
    assert (got - want).abs().max() < 1e-6


@pytest.mark.parametrize("of", [some_of, grad(some_of)], ids=["value", "gradient"])
def test_a_stack_is_each_of_its_tasks(of: Any) -> None:
    """vmap over tasks, of the solution and of its gradient, and tensors that are stacked already."""
    stack = [examples(9, 5, 3, seed=s) for s in range(4)]
    x, y = (torch.stack(part) for part in zip(*stack, strict=True))
    assert (vmap(of)(x, y) - torch.stack([of(*each) for each in stack])).abs().max() < 1e-12
    alone = torch.stack([svm_dual(kernel(a), b, everything(b), c=C) for a, b in stack])
    assert (svm_dual(kernel(x), y, everything(y), c=C) - alone).abs().max() < 1e-12


def test_single_precision_is_computed_in_double() -> None:
    """A kernel in float32 gives the float64 solution, rounded."""
    x, y = examples(12, 8, 3)
    k = kernel(x).float()
    got = svm_dual(k, y.float(), everything(y).float(), c=C)
    assert got.dtype == torch.float32
    assert torch.equal(got, svm_dual(k.double(), y, everything(y), c=C).float())
