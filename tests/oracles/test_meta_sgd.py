"""Meta-SGD: learned rates and their gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad

from seedbed import tree
from seedbed.algorithms.fedmeta import fedmeta
from seedbed.algorithms.meta_sgd import meta_sgd
from seedbed.data.types import Episode
from seedbed.learning.adaptations import DONE, RATE, learned_rates_path, learned_steps, multi_step, rates_for
from seedbed.learning.objectives import meta_objective
from seedbed.learning.optimizers import sgd

from .bench import (
    ENGINES,
    D,
    apart,
    bowl,
    bowls,
    episode,
    final,
    loss,
    network,
    plain_loss,
    plain_maml,
    sent_by,
    start,
    task,
)


def test_a_rate_has_its_own_gradient() -> None:
    """φ = θ − a⊙∇L_A(θ), so ∂L_B(φ)/∂a = −∇L_A(θ)⊙∇L_B(φ), and ∂L_B(φ)/∂θ = (I − A·diag(a))∇L_B(φ) since
    ∂φ/∂θ = I − diag(a)A.

    A published defect (Flower's FedMeta): `alphas.grad = grad_θ`, the rates receive θ's gradient.
    """
    support, query = bowls(2)
    a = torch.tensor([0.1, 0.3, 0.2])
    inner = support["A"] @ (start()["w"] - support["c"])
    outer = query["A"] @ (start()["w"] - a * inner - query["c"])
    params = {**start(), RATE + "w": a}
    got = grad(meta_objective(learned_steps(bowl), bowl))(params, Episode(support, query))  # type: ignore[arg-type]
    assert apart(got[RATE + "w"], -inner * outer) < 1e-15
    assert apart(got["w"], (torch.eye(D) - support["A"] * a) @ outer) < 1e-14
    assert apart(got[RATE + "w"], got["w"]) > 1e-2


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("engine", ENGINES)
def test_federated_gradient_is_that_of_plain_pytorch(engine: Any, steps: int) -> None:
    """φ ← φ − a⊙∇L_A(φ), the same rates in each step; torch.autograd with create_graph=True on all clients'
    tasks."""
    episodes = [[episode(4 * c + k) for k in range(c + 1)] for c in range(3)]
    theta = {n: p.requires_grad_() for n, p in network().items()}
    rates = {n: torch.full_like(p, 0.3).requires_grad_() for n, p in network().items()}
    total: Tensor = torch.zeros(())
    for es in episodes:
        for e in es:
            phi = dict(theta)
            for _ in range(steps):
                grads = torch.autograd.grad(plain_loss(phi, e.support), list(phi.values()), create_graph=True)
                phi = {n: phi[n] - rates[n] * g for n, g in zip(phi, grads, strict=True)}
            total = total + plain_loss(phi, e.query) / len(es) / 3
    total.backward()
    want = {n: p.grad for n, p in theta.items()} | {RATE + n: a.grad for n, a in rates.items()}
    tasks = [task(*es, examples=c + 1) for c, es in enumerate(episodes)]
    algorithm = meta_sgd(loss, lr=0.3, steps=steps, outer=sgd(1.0))
    begin = algorithm.init(network()).params
    assert apart(tree.sub(begin, final(algorithm, tasks, network(), 1, engine).params), want) < 1e-14


def test_frozen_equal_rates_are_maml() -> None:
    """With a = α everywhere and only θ stepped, Meta-SGD is MAML: the same meta-gradient of θ."""
    tasks = task(episode(0), episode(1))
    ours = sent_by(meta_sgd(loss, lr=0.3, steps=2), tasks, network())
    mamls = sent_by(fedmeta(loss, lr=0.3, steps=2), tasks, network())
    assert apart({n: g for n, g in ours.items() if not n.startswith(RATE)}, mamls) < 1e-15
    assert apart(mamls, plain_maml(network(), [episode(0), episode(1)], lr=0.3, steps=2)) < 1e-14


def test_rates_start_where_told_and_are_learned() -> None:
    """init adds a rate of `lr` for each number of the model, and a server step moves each by its own
    gradient."""
    algorithm = meta_sgd(bowl, lr=0.1, outer=sgd(0.5))
    begin = algorithm.init(start()).params
    assert apart(begin, {**start(), **rates_for(start(), 0.1)}) == 0
    support, query = bowls(2)
    inner = support["A"] @ (start()["w"] - support["c"])
    outer = query["A"] @ (start()["w"] - 0.1 * inner - query["c"])
    got = final(algorithm, [task(Episode(support, query))], start()).params  # type: ignore[arg-type]
    assert apart(got[RATE + "w"], 0.1 + 0.5 * inner * outer) < 1e-14


def test_the_product_is_a_model_without_rates() -> None:
    """personalise takes the learned step and hands out the model's own parameters: φ = θ − a⊙∇L(θ)."""
    item, a = bowls(1)[0], torch.tensor([0.1, 0.0, -0.2])
    got = meta_sgd(bowl).personalise({**start(), RATE + "w": a}, {}, item)  # type: ignore[arg-type]
    assert apart(got, {"w": start()["w"] - a * (item["A"] @ (start()["w"] - item["c"]))}) < 1e-15


def test_rates_of_tensors_in_steps_have_their_own_gradients() -> None:
    """MAML++: φ_{k+1} = φ_k − a_k·g_k with g_k = A(φ_k − c). So ∂L_B/∂a_k = −⟨g_k, u_{k+1}⟩, with what comes from above
    u_K = ∇L_B(φ_K) and u_k = (I − a_k A)u_{k+1}; and ∂L_B/∂θ = u_0."""
    support, query = bowls(2)
    a = torch.tensor([0.1, 0.3, 0.2])
    points, slopes = [start()["w"]], []
    for rate in a:
        slopes.append(support["A"] @ (points[-1] - support["c"]))
        points.append(points[-1] - rate * slopes[-1])
    above, want = query["A"] @ (points[-1] - query["c"]), torch.zeros(3)
    for k in (2, 1, 0):
        want[k] = -slopes[k] @ above
        above = above - a[k] * support["A"] @ above
    adapt = learned_steps(bowl, steps=3, each="tensor_and_step")
    got = grad(meta_objective(adapt, bowl))({**start(), RATE + "w": a}, Episode(support, query))  # type: ignore[arg-type]
    assert apart(got[RATE + "w"], want) < 1e-14
    assert apart(got["w"], above) < 1e-14


def test_steps_beyond_those_with_rates_go_on_with_the_last() -> None:
    params, support = start(), bowls(1)[0]
    longer = learned_steps(bowl, steps=4, each="tensor_and_step")(
        {**params, RATE + "w": torch.tensor([0.1, 0.3])}, support
    )  # type: ignore[arg-type]
    told = {**params, RATE + "w": torch.tensor([0.1, 0.3, 0.3, 0.3])}
    assert apart(longer, learned_steps(bowl, steps=4, each="tensor_and_step")(told, support)) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(("done", "early"), [(0, 1 / 3), (5, 1 / 6), (9.9, 0.01), (10, 0.0), (30, 0.0)])
def test_the_multi_step_loss_weighs_the_steps(done: float, early: float) -> None:
    """Over 10 rounds the two earlier of three steps weigh (1 − t/10)/3 each, at least .01, then nothing; the last has
    the rest."""
    path = learned_rates_path(bowl, steps=3, each="tensor_and_step")
    support, query = bowls(2)
    params = {**start(), RATE + "w": torch.tensor([0.1, 0.3, 0.2])}
    losses = [bowl(phi, query) for phi in path(params, support)[1:]]  # type: ignore[arg-type]
    want = early * (losses[0] + losses[1]) + (1 - 2 * early) * losses[2]
    got = multi_step(path, bowl, rounds=10)({**params, DONE: torch.tensor(float(done))}, Episode(support, query))  # type: ignore[arg-type]
    assert apart(got, want) < 1e-15


def test_the_server_counts_the_rounds_whatever_its_optimiser_does() -> None:
    """The counter has no gradient; weight decay must not shrink it."""
    decaying = sgd(0.1, weight_decay=0.5)
    algorithm = meta_sgd(loss, steps=2, each="tensor_and_step", multi_step_rounds=2, outer=decaying)
    params = final(algorithm, [task(episode(0))], network(), 3).params
    assert params[DONE] == 3
    assert params[RATE + "head.bias"].shape == (2,)
    assert set(algorithm.personalise(params, {}, episode(0).support)) == set(network())


def test_with_rates_that_stay_it_is_maml() -> None:
    """Rates of tensors in steps, all at .3: the gradient of the parameters is MAML's."""
    algorithm = meta_sgd(loss, lr=0.3, steps=2, each="tensor_and_step")
    got = sent_by(algorithm, task(episode(0)), network())
    want = plain_maml(network(), [episode(0)], lr=0.3, steps=2)
    assert apart({n: got[n] for n in want}, want) < 1e-13
