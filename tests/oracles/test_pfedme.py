"""pFedMe: the Moreau envelope's gradient, the inner steps, the server's interpolation, and nothing hidden."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad

from seedbed.algorithms.pfedme import pfedme
from seedbed.engines import OneByOne, Vectorised
from seedbed.errors import InputError
from seedbed.learning.optimizers import sgd

from .bench import D, Given, apart, batch, bowl, bowls, final, loss, network, plain_loss, power, sent_by, start, task

EXACT: dict[str, Any] = {"inner": sgd(0.3), "steps": 40}  # A + λI of 2 to 4.5 at λ = 1.5: 40 factors of at most .4


def prox(item: Any, w: Tensor, lam: float) -> Tensor:
    """θ̂(w) = argmin ½(θ − c)ᵀA(θ − c) + (λ/2)‖θ − w‖² = (A + λI)⁻¹(Ac + λw)."""
    return torch.linalg.solve(item["A"] + lam * torch.eye(D), item["A"] @ item["c"] + lam * w)


def test_the_message_is_the_gradient_of_the_moreau_envelope() -> None:
    """F(w) = L(θ̂(w)) + (λ/2)‖θ̂(w) − w‖² has the gradient λ(w − θ̂) by the envelope theorem; differentiating F
    through the closed form of θ̂ gives the same. With one item the message is η times it."""
    eta, lam = 0.3, 1.5
    for item in bowls(4):
        w = start()["w"]
        want = lam * (w - prox(item, w, lam))

        def envelope(w: Tensor, item: Any = item) -> Tensor:
            theta = prox(item, w, lam)
            return bowl({"w": theta}, item) + lam / 2 * (theta - w) @ (theta - w)

        assert apart(grad(envelope)(w), want) < 1e-13
        got = sent_by(pfedme(bowl, lam=lam, eta=eta, **EXACT), task(item), start())["w"]
        assert apart(got, eta * want) < 1e-13


def test_inner_steps_in_closed_form() -> None:
    """K gradient steps of rate η_p from w: θ_K − θ̂ = (I − η_p(A + λI))^K (w − θ̂). With R items, w moves after
    each and θ goes on from where it was."""
    eta, lam, rate, steps = 0.1, 2.0, 0.15, 3
    w = theta = start()["w"]
    for item in bowls(4):
        best = prox(item, w, lam)
        theta = best + power(torch.eye(D) - rate * (item["A"] + lam * torch.eye(D)), steps) @ (theta - best)
        w = w - eta * lam * (w - theta)
    algorithm = pfedme(bowl, lam=lam, eta=eta, inner=sgd(rate), steps=steps)
    message, kept = algorithm.client(start(), start(8), task(*bowls(4)))
    assert apart(message.value["w"], start()["w"] - w) < 1e-14
    assert apart(kept["w"], theta) < 1e-14


def test_the_fixed_point_is_that_of_the_envelopes() -> None:
    """Σ∇F_i(w) = 0: with λ(w − θ̂_i) = λ(A_i + λI)⁻¹A_i(w − c_i) =: R_i(w − c_i), w = (ΣR_i)⁻¹ΣR_ic_i: plain sums,
    whatever the clients' sizes."""
    lam = 1.5
    r = [torch.linalg.solve(i["A"] + lam * torch.eye(D), lam * i["A"]) for i in bowls(3)]
    want = torch.linalg.solve(sum(r), sum(a @ i["c"] for a, i in zip(r, bowls(3), strict=True)))  # type: ignore[call-overload]
    tasks = [task(i, examples=n) for i, n in zip(bowls(3), (3.0, 1.0, 9.0), strict=True)]
    got = final(pfedme(bowl, lam=lam, eta=1 / lam, **EXACT), tasks, start(), 90, Vectorised).params["w"]
    assert apart(got, want) < 1e-12


def test_a_large_lambda_is_plain_sgd() -> None:
    """λ → ∞: θ̂ → w, ‖w − θ̂‖ ≤ ‖A(w − c)‖/λ; and λ(w − θ̂) → ∇L(w), so that w takes plain steps of η."""
    item, w = bowls(1)[0], start()["w"]
    slope = item["A"] @ (w - item["c"])
    for lam in (1e2, 1e4, 1e6):
        algorithm = pfedme(bowl, lam=lam, eta=0.1, inner=sgd(1 / (lam + 1)), steps=20)
        message, theta = algorithm.client(start(), start(), task(item))
        assert (w - theta["w"]).norm() <= slope.norm() / lam
        assert apart(message.value["w"], 0.1 * slope) < 10 / lam


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 2.0])
def test_beta_interpolates(beta: float) -> None:
    """w ← (1 − β)w + β·mean_i w_i, the mean being what β = 1 gives."""
    tasks = [task(*bowls(3)[: i + 1], examples=i + 1) for i in range(3)]
    mean = final(pfedme(bowl, lam=2.0, eta=0.1), tasks, start()).params["w"]
    alone = [start()["w"] - sent_by(pfedme(bowl, lam=2.0, eta=0.1), t, start())["w"] for t in tasks]
    assert apart(mean, torch.stack(alone).mean(0)) < 1e-15
    got = final(pfedme(bowl, lam=2.0, eta=0.1, beta=beta), tasks, start()).params["w"]
    assert apart(got, (1 - beta) * start()["w"] + beta * mean) < 1e-14


def test_no_hidden_weight_decay() -> None:
    """A loss without a slope moves nothing, wherever w is: the authors' code decays θ by 1e-3 a step beside it."""
    algorithm = pfedme(lambda p, item: 0 * p["w"].sum())
    message, theta = algorithm.client(start(), start(), task(*bowls(3)))
    assert apart(message.value, {"w": torch.zeros(D)}) == 0
    assert apart(theta, start()) == 0
    assert apart(algorithm.personalise(start(), start(), bowls(1)[0]), start()) == 0


def test_rounds_as_in_plain_pytorch() -> None:
    """Algorithm 1 with loops and autograd on the network: three rounds, two clients, states and memories."""
    eta, lam, rate, steps = 0.05, 3.0, 0.1, 4
    batches = [[batch(0), batch(1), batch(2)], [batch(3), batch(4)]]
    w, kept = network(), {}
    for _ in range(3):
        ends = []
        for i, mine in enumerate(batches):
            local, theta = dict(w), dict(w)
            for b in mine:
                for _ in range(steps):
                    at = {n: p.clone().requires_grad_() for n, p in theta.items()}
                    pull = sum(((at[n] - local[n]) ** 2).sum() for n in at)
                    slopes = torch.autograd.grad(plain_loss(at, b) + lam / 2 * pull, list(at.values()))
                    theta = {n: theta[n] - rate * s for n, s in zip(at, slopes, strict=True)}
                local = {n: local[n] - eta * lam * (local[n] - theta[n]) for n in local}
            ends.append(local)
            kept[i] = theta
        w = {n: (ends[0][n] + ends[1][n]) / 2 for n in w}
    tasks = [task(*mine, examples=n) for mine, n in zip(batches, (1.0, 5.0), strict=True)]
    algorithm = pfedme(loss, lam=lam, eta=eta, inner=sgd(rate), steps=steps)
    for kind in (OneByOne, Vectorised):
        engine = kind(Given(tasks))
        assert apart(final(algorithm, tasks, network(), 3, lambda _, engine=engine: engine).params, w) < 1e-13
        assert apart(dict(engine.memory()), kept) < 1e-13


def test_adapting_is_the_same_steps_around_the_model_that_is_sent() -> None:
    """A newcomer: K steps of θ̂ around w from w on the support set; one who took part goes on from its θ̂, and
    test_steps=0 takes that as it is. Many steps: θ̂(w), wherever they begin."""
    item, lam, rate = bowls(1)[0], 2.0, 0.15
    best, shrink = prox(item, start()["w"], lam), torch.eye(D) - rate * (item["A"] + lam * torch.eye(D))
    algorithm = pfedme(bowl, lam=lam, inner=sgd(rate), steps=3)
    for begun in (algorithm.remember(start()), start(8)):
        got = algorithm.personalise(start(), begun, item)["w"]
        assert apart(got, best + power(shrink, 3) @ (begun["w"] - best)) < 1e-14
        long = pfedme(bowl, lam=lam, inner=sgd(rate), test_steps=200).personalise(start(), begun, item)["w"]
        assert apart(long, best) < 1e-13
        assert apart(pfedme(bowl, test_steps=0).personalise(start(), begun, item), begun) == 0


@pytest.mark.parametrize("curvature", [0.0, 5.0, 20.0, 50.0])
def test_default_inner_steps_approach_the_envelopes_minimiser(curvature: float) -> None:
    """On L = (h/2)(θ − c)² an inner step multiplies the error by 1 − η_p(h + λ): below 1 in size up to h = 51, where
    the authors' η_p = .1 and λ = 15 diverge from h = 5 on."""
    c, w = torch.tensor([3.0]), torch.tensor([-1.0])
    best = (curvature * c + 15.0 * w) / (curvature + 15.0)
    task_of = task({"A": torch.tensor([[curvature]]), "c": c})
    _, theta = pfedme(bowl).client({"w": w}, {"w": w}, task_of)
    assert apart(theta["w"], best) <= abs(1 - 0.03 * (curvature + 15)) ** 5 * apart(w, best) + 1e-12
    assert apart(theta["w"], best) <= apart(w, best)


def test_inner_steps_that_must_diverge_are_refused() -> None:
    """η_pλ ≥ 2 diverges whatever the loss; momentum ρ bears 2(1 + ρ)."""
    with pytest.raises(InputError, match=r"inner.lr=0.1 with lam=20 diverges: .* set inner.lr below 0.1$"):
        pfedme(bowl, lam=20.0, inner=sgd(0.1))
    pfedme(bowl, lam=20.0, inner=sgd(0.1, momentum=0.5))
