"""FedProx: the proximal term, unequal work, fixed points."""

from typing import Any

import pytest
import torch
from torch.func import grad

from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedprox import fedprox
from seedbed.engines import Vectorised
from seedbed.learning.objectives import proximal
from seedbed.learning.optimizers import adam, sgd

from .bench import D, apart, batch, bowl, bowls, final, loss, network, power, sent_by, start, task

STEPS, EXAMPLES = [1, 5, 8], [3.0, 1.0, 2.0]


def clients(steps: list[int] = STEPS) -> list[Any]:
    return [task(*[i] * k, examples=n) for i, k, n in zip(bowls(3), steps, EXAMPLES, strict=True)]


def test_the_term_is_the_squared_distance() -> None:
    """∇[L + (μ/2)‖w − θ‖²] = ∇L(w) + μ(w − θ), and its value at w is L(w) + (μ/2)‖w − θ‖².

    A published defect of several libraries: the norm without its square, whose gradient is μ(w − θ)/(2‖w −
    θ‖).
    """
    item, theta = bowls(1)[0], start(1)
    objective, w = proximal(bowl, theta, 0.7), start(2)
    away = w["w"] - theta["w"]
    assert apart(grad(objective)(w, item)["w"], item["A"] @ (w["w"] - item["c"]) + 0.7 * away) < 1e-14
    assert abs(float(objective(w, item) - bowl(w, item) - 0.35 * away @ away)) < 1e-14


@pytest.mark.parametrize("local", [sgd(0.1), sgd(0.1, momentum=0.9), adam(0.01)], ids=repr)
def test_mu_of_zero_is_fedavg(local: Any) -> None:
    """The term vanishes with its gradient, whatever the local optimiser."""
    tasks = [task(*[batch(9 * c + k) for k in range(c + 1)], examples=c + 1) for c in range(3)]
    a = final(fedprox(loss, mu=0.0, local=local), tasks, network(), 3)
    b = final(fedavg(loss, local=local), tasks, network(), 3)
    assert apart(a.params, b.params) < 1e-15


def test_partial_work_in_closed_form() -> None:
    """A client of any number τ of steps from θ on A, c: w_τ − ŵ = (I − η(A + μI))^τ (θ − ŵ) with ŵ = (A +
    μI)⁻¹ (Ac + μθ), so the message θ − w_τ is (I − (I − η(A + μI))^τ)(A + μI)⁻¹A(θ − c). Its weight is
    n_i, whatever τ."""
    eta, mu = 0.15, 0.8
    for item, steps in zip(bowls(3), STEPS, strict=True):
        curved = item["A"] + mu * torch.eye(D)
        moved = torch.eye(D) - power(torch.eye(D) - eta * curved, steps)
        want = moved @ torch.linalg.solve(curved, item["A"] @ (start()["w"] - item["c"]))
        got = sent_by(fedprox(bowl, mu=mu, local=sgd(eta)), task(*[item] * steps), start())["w"]
        assert apart(got, want) < 1e-14


def test_fixed_point_with_unequal_steps() -> None:
    """Σp_iR_i(w − c_i) = 0 with R_i = (I − (I − η(A_i + μI))^τ_i)(A_i + μI)⁻¹A_i, from the message above."""
    eta, mu, p = 0.3, 0.5, torch.tensor(EXAMPLES) / sum(EXAMPLES)
    total, pulls = torch.zeros(D, D), torch.zeros(D)
    for q, item, steps in zip(p, bowls(3), STEPS, strict=True):
        curved = item["A"] + mu * torch.eye(D)
        moved = torch.eye(D) - power(torch.eye(D) - eta * curved, steps)
        r = q * moved @ torch.linalg.solve(curved, item["A"])
        total, pulls = total + r, pulls + r @ item["c"]
    got = final(fedprox(bowl, mu=mu, local=sgd(eta)), clients(), start(), 70, Vectorised).params["w"]
    assert apart(got, torch.linalg.solve(total, pulls)) < 1e-12


def test_many_steps_solve_the_proximal_problem() -> None:
    """τ → ∞: w_i = (A + μI)⁻¹(Ac + μθ); and then μ → ∞ holds the client at θ: ‖θ − w_i‖ ≤ ‖A(θ − c)‖/μ."""
    item = bowls(1)[0]
    pull = item["A"] @ (start()["w"] - item["c"])
    for mu in (0.5, 50.0, 5000.0):
        moved = sent_by(fedprox(bowl, mu=mu, local=sgd(0.7 / (2 + mu))), task(*[item] * 120), start())["w"]
        assert apart(moved, torch.linalg.solve(item["A"] + mu * torch.eye(D), pull)) < 1e-12
        assert moved.norm() <= pull.norm() / mu


def test_the_anchor_is_the_rounds_model() -> None:
    """One step from θ never feels the term (w = θ), in any round: μ changes nothing when τ = 1."""
    ones = clients([1, 1, 1])
    a = final(fedprox(bowl, mu=3.0, local=sgd(0.2)), ones, start(), 4)
    b = final(fedavg(bowl, local=sgd(0.2)), ones, start(), 4)
    assert apart(a.params, b.params) < 1e-15
