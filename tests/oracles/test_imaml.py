"""iMAML: the implicit meta-gradient, its conjugate gradients, and what it stores."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad

from seedbed import tree
from seedbed.algorithms.imaml import imaml
from seedbed.data.types import Batch, Episode
from seedbed.errors import InputError
from seedbed.learning.adaptations import maml
from seedbed.learning.implicit import conjugate_gradients, implicit_gradient, proximal_steps
from seedbed.learning.optimizers import sgd

from .bench import ENGINES, D, apart, batch, bowl, bowls, episode, final, loss, network, start, task

LAM = 1.5


@pytest.mark.parametrize("engine", ENGINES)
def test_the_gradient_on_quadratics(engine: Any) -> None:
    """L_A = ½(φ − c)ᵀA(φ − c): φ* = (A + λI)⁻¹(Ac + λθ), and the gradient is (I + A/λ)⁻¹B(φ* − q), here the mean over
    three clients. 400 inner steps of rate .2 reach φ* to rounding; conjugate gradients are exact after D = 3 steps."""
    pairs = [Episode(*bowls(2, seed)) for seed in range(3)]  # type: ignore[arg-type]
    theta, eye = start()["w"], torch.eye(D)
    want = torch.zeros(D)
    for a, b in pairs:
        phi = torch.linalg.solve(a["A"] + LAM * eye, a["A"] @ a["c"] + LAM * theta)  # type: ignore[call-overload]
        want += torch.linalg.solve(eye + a["A"] / LAM, b["A"] @ (phi - b["c"])) / 3  # type: ignore[call-overload]
    algorithm = imaml(bowl, lam=LAM, lr=0.2, steps=400, cg_steps=D, outer=sgd(1.0))
    got = tree.sub(start(), final(algorithm, [task(e) for e in pairs], start(), 1, engine).params)
    assert apart(got["w"], want) < 1e-12


def test_clients_adapt_by_the_inner_steps() -> None:
    """personalise: φ ← φ − α(∇L(φ) + λ(φ − θ)), as in training or so many as asked for."""
    phi = {n: p.clone() for n, p in network().items()}
    for _ in range(3):
        slope = grad(loss)(phi, batch(0))
        phi = {n: p - 0.1 * (slope[n] + LAM * (p - network()[n])) for n, p in phi.items()}
    for algorithm in (imaml(loss, lam=LAM, steps=3), imaml(loss, lam=LAM, test_steps=3)):
        assert apart(algorithm.personalise(network(), {}, batch(0)), phi) < 1e-14


def test_on_a_network_it_is_the_gradient_of_the_minimum() -> None:
    """Where the inner problem is solved and so is the linear system, it is the derivative of θ ↦ L_B(φ*(θ)): central
    differences along random directions, φ* from 200 inner steps. λ = 1.5 makes the inner problem convex here."""
    e, objective = episode(0), implicit_gradient(loss, lam=LAM, lr=0.3, steps=200, cg_steps=60)
    g = torch.Generator().manual_seed(0)
    along = {n: torch.randn(p.shape, generator=g) for n, p in network().items()}
    slope = tree.dot(grad(objective)(network(), e), along)

    def value(step: float) -> Tensor:
        theta = tree.axpy(step, along, network())
        return loss(proximal_steps(loss, lam=LAM, lr=0.3, steps=200)(theta, e.support), e.query)

    assert abs(slope - (value(1e-4) - value(-1e-4)) / 2e-4) < 1e-7
    assert abs(slope) > 1e-2
    assert abs(objective(network(), e) - value(0.0)) < 1e-15


def system(eigenvalues: list[float]) -> tuple[Tensor, Tensor]:
    """A symmetric matrix of these eigenvalues, and a right side."""
    g = torch.Generator().manual_seed(3)
    q = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=g)).Q
    return q @ torch.diag(torch.tensor(eigenvalues)) @ q.T, torch.randn(len(eigenvalues), generator=g)


def solved(matrix: Tensor, b: Tensor, steps: int) -> Tensor:
    """By conjugate gradients over a tree of two tensors."""

    def product(u: Any) -> Any:
        image = matrix @ torch.cat([u["a"], u["b"]])
        return {"a": image[:2], "b": image[2:]}

    x = conjugate_gradients(product, {"a": b[:2], "b": b[2:]}, steps=steps)
    return torch.cat([x["a"], x["b"]])


def test_conjugate_gradients_are_exact_after_as_many_steps_as_eigenvalues() -> None:
    """Five dimensions with three distinct eigenvalues: three steps; more change nothing."""
    matrix, b = system([1.0, 1.0, 2.0, 5.0, 5.0])
    want = torch.linalg.solve(matrix, b)
    assert (solved(matrix, b, 2) - want).abs().max() > 1e-3
    for steps in (3, 5, 50):
        assert (solved(matrix, b, steps) - want).abs().max() < 1e-12


def test_conjugate_gradients_do_not_follow_negative_curvature() -> None:
    """A negative definite system is taken for the identity; an indefinite one stops short and stays finite; the
    solution for zero is zero."""
    matrix, b = system([1.0, 2.0, 3.0, 4.0, 5.0])
    assert torch.equal(solved(-matrix, b, 5), b)
    assert torch.equal(solved(matrix, torch.zeros(5), 5), torch.zeros(5))
    assert solved(system([1.0, 2.0, -3.0, 4.0, 5.0])[0], b, 5).abs().max() < 1e3


def peak(objective: Any) -> int:
    """The most bytes that its gradient holds at once, of a network of about 80 kB in double precision."""
    g = torch.Generator().manual_seed(0)
    params = {"w": 0.01 * torch.randn(100, 100, generator=g)}
    x = torch.randn(5, 100, generator=g)
    e = Episode(Batch(x, x.roll(1, 0), torch.ones(5)), Batch(x.roll(2, 0), x, torch.ones(5)))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        grad(objective)(params, e)
    held = most = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def test_memory_does_not_grow_with_the_inner_steps() -> None:
    """Peak bytes of the meta-gradient after 4 and after 40 steps, as PyTorch's allocator reports them: the same, where
    differentiating through the steps holds what each of them needs."""

    def squares(params: Any, b: Batch) -> Tensor:
        return ((torch.tanh(b.x @ params["w"]) - b.y) ** 2).mean()

    few, many = (peak(implicit_gradient(squares, lam=1.0, lr=0.1, steps=steps, cg_steps=3)) for steps in (4, 40))
    assert many <= 1.01 * few
    few, many = (peak(maml(squares, lr=0.1, steps=steps)) for steps in (4, 40))
    assert many > 4 * few


def test_without_a_pull_it_is_refused() -> None:
    with pytest.raises(InputError, match=r"lam=0.0 must be above 0.*fedmeta"):
        imaml(loss, lam=0.0)


def test_the_operator_of_the_authors_code() -> None:
    """(1 + r)I + A/(λ + δ) is solved instead of I + A/λ; the authors' code has r = 1 and δ = 10."""
    a, b = bowls(2)
    theta, eye = start()["w"], torch.eye(D)
    phi = torch.linalg.solve(a["A"] + LAM * eye, a["A"] @ a["c"] + LAM * theta)
    want = torch.linalg.solve(2 * eye + a["A"] / (LAM + 10), b["A"] @ (phi - b["c"]))
    algorithm = imaml(bowl, lam=LAM, lr=0.2, steps=400, cg_steps=D, ridge=1.0, damping=10.0, outer=sgd(1.0))
    got = tree.sub(start(), final(algorithm, [task(Episode(a, b))], start(), 1).params)  # type: ignore[arg-type]
    assert apart(got["w"], want) < 1e-12
