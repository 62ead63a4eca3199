"""FedMeta with MAML: exact, first-order and Hessian-free meta-gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev

from seedbed import tree
from seedbed.algorithms.fedmeta import fedmeta
from seedbed.algorithms.fedsgd import fedsgd
from seedbed.data.types import Episode, Task
from seedbed.engines import Vectorised
from seedbed.federated import uniform
from seedbed.learning.adaptations import maml
from seedbed.learning.objectives import finite_hessian_vector, hessian_vector
from seedbed.learning.optimizers import adam, sgd

from .bench import (
    ENGINES,
    D,
    apart,
    batch,
    bowl,
    bowls,
    episode,
    final,
    loss,
    network,
    plain_loss,
    plain_maml,
    power,
    rounds,
    sent_by,
    start,
    task,
)

ORDERS = ["exact", "first", "hessian_free"]


def known(order: str, theta: Tensor, support: Any, query: Any, alpha: float, k: int) -> Tensor:
    """The closed form of `test_gradient_after_k_steps`."""
    shrink = power(torch.eye(D) - alpha * support["A"], k)
    phi = support["c"] + shrink @ (theta - support["c"])
    g = query["A"] @ (phi - query["c"])
    return g if order == "first" else shrink.T @ g


def objective(order: str, **settings: Any) -> Any:
    return maml(settings.pop("loss", bowl), order=order, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("order", ORDERS)
def test_gradient_after_k_steps(order: str, k: int) -> None:
    """Support ½(w−c)ᵀA(w−c), query ½(w−q)ᵀB(w−q): φ_k = c + (I − αA)^k(θ − c), so the chain rule gives
    ∇_θ L_B(φ_k) = (I − αA)^kᵀ B(φ_k − q). First order takes dφ/dθ = I: B(φ_k − q). Hessian-free multiplies by
    (I − αA) k times with differences of gradients, which on a quadratic are exact."""
    support, query = bowls(2)
    got = grad(objective(order, lr=0.2, steps=k))(start(), Episode(support, query))["w"]  # type: ignore[arg-type]
    error = apart(got, known(order, start()["w"], support, query, 0.2, k))
    assert error < (1e-11 if order == "hessian_free" else 1e-14)


@pytest.mark.parametrize("delta", [1e-4, 1e-2, 1.0, 100.0])
def test_hessian_free_is_exact_on_quadratics_for_any_delta(delta: float) -> None:
    """[∇L(w + δu) − ∇L(w − δu)]/2δ = A u for an affine gradient, whatever δ (up to rounding, ε/δ)."""
    support, query = bowls(2)
    got = grad(objective("hessian_free", lr=0.2, steps=3, delta=delta))(start(), Episode(support, query))  # type: ignore[arg-type]
    assert apart(got["w"], known("exact", start()["w"], support, query, 0.2, 3)) < 1e-14 / min(1.0, delta) + 1e-13


def test_hessian_free_errs_by_the_square_of_delta() -> None:
    """A central difference: ∇L(w ± δu) = ∇L ± δHu + δ²/2·T[u,u] ± δ³/6·Q[u,u,u] + …, so the quotient is
    Hu + δ²/6·Q + …: a tenth of δ gives a hundredth of the error, on a network that is not quadratic."""
    exact = grad(objective("exact", loss=loss, lr=0.3, steps=2))(network(), episode(1))
    errors = [
        apart(grad(objective("hessian_free", loss=loss, lr=0.3, steps=2, delta=d))(network(), episode(1)), exact)
        for d in (1e-1, 1e-2, 1e-3)
    ]
    assert 90 < errors[0] / errors[1] < 110
    assert 90 < errors[1] / errors[2] < 110
    assert errors[2] < 1e-6


def test_hessian_vector_products() -> None:
    """hessian_vector is ∇²L·v by jacrev of the gradient; the finite one agrees to δ² and, because the
    direction is normalised, its relative error does not depend on the length of v (a published difference:
    FL-bench's plain δ)."""
    params, v, b = network(), network(5), batch(0)
    rows = jacrev(grad(loss))(params, b)
    want = {n: sum(torch.tensordot(rows[n][m], v[m], dims=v[m].dim()) for m in params) for n in params}
    assert apart(hessian_vector(loss, params, b, v), want) < 1e-14
    for length in (1e-6, 1.0, 1e6):
        got = finite_hessian_vector(loss, params, b, tree.scale(length, v), delta=1e-4)
        assert apart(tree.scale(1 / length, got), want) < 1e-6
    nothing = finite_hessian_vector(loss, params, b, tree.zeros_like(v))
    assert apart(nothing, tree.zeros_like(v)) == 0


@pytest.mark.parametrize("order", ORDERS)
def test_the_value_is_the_query_loss_after_adapting(order: str) -> None:
    """Whatever the estimate of the gradient, the reported loss is L_B(φ_k)."""
    support, query = bowls(2)
    phi = support["c"] + power(torch.eye(D) - 0.2 * support["A"], 3) @ (start()["w"] - support["c"])
    got = objective(order, lr=0.2, steps=3)(start(), Episode(support, query))  # type: ignore[arg-type]
    assert abs(float(got - bowl({"w": phi}, query))) < 1e-14


def episodes() -> list[list[Episode]]:
    """Of three clients: one, two and three."""
    return [[episode(4 * c + k) for k in range(c + 1)] for c in range(3)]


def federated_gradient(order: str, params: dict[str, Tensor], steps: int, engine: Any) -> dict[str, Tensor]:
    """What one round of SGD(1) subtracts."""
    tasks = [task(*es, examples=7 * (c + 1)) for c, es in enumerate(episodes())]
    algorithm = fedmeta(loss, lr=0.3, steps=steps, order=order, outer=sgd(1.0))  # type: ignore[arg-type]
    moved: dict[str, Tensor] = tree.sub(params, final(algorithm, tasks, params, 1, engine).params)
    return moved


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("order", ["exact", "first"])
@pytest.mark.parametrize("engine", ENGINES)
def test_federated_gradient_is_mamls_computed_centrally(engine: Any, order: str, steps: int) -> None:
    """mean_i mean_k ∇_θ L(φ_ik; query_ik) over all clients' tasks, by torch.autograd with create_graph=True
    on the concatenated tasks (`plain_maml`, ten lines of ordinary PyTorch). Clients of unequal data count
    the same.

    A published defect (Flower's FedMeta): `param.data = param.data − a·g` cuts the graph, and "MAML" is
    first-order.
    """
    each = [plain_maml(network(), es, lr=0.3, steps=steps, second_order=order == "exact") for es in episodes()]
    want = tree.map(lambda *g: sum(g) / 3, *each)
    assert apart(federated_gradient(order, network(), steps, engine), want) < 1e-14


def test_the_graph_is_not_cut() -> None:
    """On a network exact and first-order gradients differ, and the exact one is that of the objective itself:
    central differences of L_B(φ(θ)) along a direction u agree with ⟨∇, u⟩ to O(h²)."""
    exact, first = (federated_gradient(o, network(), 2, ENGINES[0]) for o in ("exact", "first"))
    assert apart(exact, first) > 1e-2

    def value(params: Any) -> Tensor:
        f = objective("exact", loss=loss, lr=0.3, steps=2)
        return sum(sum(f(params, e) for e in es) / len(es) for es in episodes()) / 3  # type: ignore[no-any-return]

    u, h = tree.scale(0.1, network(3)), 1e-4
    slope = (value(tree.axpy(h, u, network())) - value(tree.axpy(-h, u, network()))) / (2 * h)
    assert abs(float(slope - tree.dot(exact, u))) < 1e-8
    assert abs(float(slope - tree.dot(first, u))) > 1e-3


def test_minimiser_when_support_is_query() -> None:
    """F_i(w) = L_i(w − αA_i(w − c_i)) = ½(w − c_i)ᵀ(I − αA_i)A_i(I − αA_i)(w − c_i) =: ½(w − c_i)ᵀH_i(w −
    c_i), so ΣF_i is least at (ΣH_i)⁻¹ΣH_ic_i; first order converges elsewhere, to (ΣA_i(I − αA_i))⁻¹ΣA_i(I
    − αA_i)c_i."""
    alpha, items = 0.25, bowls(3)
    keep = [torch.eye(D) - alpha * i["A"] for i in items]
    tasks = [task(Episode(i, i)) for i in items]  # type: ignore[arg-type]
    for order, h in (
        ("exact", [k @ i["A"] @ k for k, i in zip(keep, items, strict=True)]),
        ("first", [i["A"] @ k for k, i in zip(keep, items, strict=True)]),
    ):
        want = torch.linalg.solve(sum(h), sum(x @ i["c"] for x, i in zip(h, items, strict=True)))
        algorithm = fedmeta(bowl, lr=alpha, order=order, outer=sgd(1.0))  # type: ignore[arg-type]
        assert apart(final(algorithm, tasks, start(), 120, Vectorised).params["w"], want) < 1e-12


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("still", [{"lr": 0.0, "steps": 3}, {"lr": 0.3, "steps": 0}], ids=["alpha=0", "k=0"])
def test_without_inner_steps_it_is_joint_sgd(still: dict[str, Any], order: str) -> None:
    """α = 0 or k = 0: φ = θ, and FedMeta is uniform FedSGD on the query sets."""
    algorithm = fedmeta(loss, order=order, outer=sgd(0.5), **still)  # type: ignore[arg-type]
    a = final(algorithm, [task(*es) for es in episodes()], network(), 3)
    queries = [task(*[e.query for e in es]) for es in episodes()]
    b = final(uniform(fedsgd(loss, outer=sgd(0.5))), queries, network(), 3)
    assert apart(a.params, b.params) < 1e-15


def test_the_servers_adam_goes_on() -> None:
    """torch.optim.Adam over meta-gradients computed centrally for 5 rounds gives the same path: moments
    survive.

    A published defect (Flower's FedMeta): Adam made anew in each round.
    """
    want = {n: torch.nn.Parameter(p) for n, p in network().items()}
    reference = torch.optim.Adam(list(want.values()), 0.05)
    tasks: list[Task] = [task(*es) for es in episodes()]
    for got in rounds(fedmeta(loss, lr=0.3, steps=2, outer=adam(0.05)), tasks, network(), 5):
        now = {n: p.detach().clone() for n, p in want.items()}
        each = [plain_maml(now, es, lr=0.3, steps=2) for es in episodes()]
        for n, p in want.items():
            p.grad = sum(g[n] for g in each) / 3
        reference.step()
        assert apart(got.state.params, {n: p.detach() for n, p in want.items()}) < 1e-12


def test_a_client_adapts_by_gradient_steps() -> None:
    """personalise = test_steps of plain gradient descent on the support set, as torch does them; None: as
    trained."""
    for given, steps in ((None, 2), (4, 4), (0, 0)):
        algorithm = fedmeta(loss, lr=0.3, steps=2, test_steps=given)
        want = {n: p.clone().requires_grad_() for n, p in network().items()}
        step = torch.optim.SGD(list(want.values()), 0.3)
        for _ in range(steps):
            step.zero_grad()
            plain_loss(want, batch(0)).backward()
            step.step()
        got = algorithm.personalise(network(), {}, batch(0))
        assert apart(got, {n: p.detach() for n, p in want.items()}) < 1e-14


def test_messages_are_gradients_of_the_clients_own_tasks() -> None:
    """g_u = mean_k ∇_θ L(φ_k; query_k): not scaled by how much data the client has."""
    small = sent_by(fedmeta(loss, lr=0.3), task(*episodes()[2], examples=1), network())
    large = sent_by(fedmeta(loss, lr=0.3), task(*episodes()[2], examples=1000), network())
    assert apart(small, large) == 0
