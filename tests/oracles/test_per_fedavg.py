"""Per-FedAvg: local meta-steps from two or three batches, exact, first-order and Hessian-free."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad

from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedmeta import fedmeta
from seedbed.algorithms.per_fedavg import per_fedavg
from seedbed.data.types import Episode, Triple
from seedbed.federated import uniform
from seedbed.learning.objectives import three_batch
from seedbed.learning.optimizers import sgd
from seedbed.learning.training import mean_gradient

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
    plain_maml,
    sent_by,
    start,
    task,
)

ORDERS = ["exact", "first", "hessian_free"]
ALPHA, BETA = 0.2, 0.3


def items(count: int, batches: int) -> list[Any]:
    found = bowls(batches * count)
    kind: Any = Episode if batches == 2 else Triple
    return [kind(*found[batches * k : batches * (k + 1)]) for k in range(count)]


def meta_gradient(w: Tensor, item: Any, order: str) -> Tensor:
    """The closed form of `test_local_steps_in_closed_form`."""
    a, b = item.support, item.query
    adapted = w - ALPHA * a["A"] @ (w - a["c"])
    g = b["A"] @ (adapted - b["c"])
    curved = item.curvature if isinstance(item, Triple) else a
    return g if order == "first" else g - ALPHA * curved["A"] @ g  # type: ignore[no-any-return, index, call-overload]


@pytest.mark.parametrize("batches", [2, 3])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("engine", ENGINES)
def test_local_steps_in_closed_form(engine: Any, order: str, batches: int) -> None:
    """Algorithm 1 of Fallah et al.: w̃ = w − α∇L(w; D), then w ← w − β(I − α∇²L(w; D''))∇L(w̃; D'), once for
    each item (no epoch is doubled, as in PFLlib), and the *plain* mean of the clients' w (not by n_i, as
    in PFLlib). On quadratics ∇L(w; D) = A(w − c) and ∇²L(w; D'') = A''; D'' = D with two batches; first
    order drops the Hessian, and Hessian-free is exact because gradients are affine."""
    steps, all_items = [1, 4, 2], items(7, batches)
    mine = [all_items[:1], all_items[1:5], all_items[5:]]
    want = []
    for each in mine:
        w = start()["w"]
        for item in each:
            w = w - BETA * meta_gradient(w, item, order)
        want.append(w)
    algorithm = per_fedavg(bowl, alpha=ALPHA, order=order, batches=batches, local=sgd(BETA))  # type: ignore[arg-type]
    tasks = [task(*each, examples=50 * k) for each, k in zip(mine, steps, strict=True)]
    got = final(algorithm, tasks, start(), 1, engine).params["w"]
    assert apart(got, sum(want) / 3) < (1e-11 if order == "hessian_free" else 1e-14)


def test_three_batches_are_unbiased_and_two_are_not() -> None:
    """f = mean of L_1..L_4, and ∇F(w) = (I − α∇²f)∇f(w − α∇f(w)). With D, D', D'' independent and uniform
    over the four, ∇L(·; D') is affine, so E∇L(w − α∇L(w; D); D') = ∇f(w − α∇f(w)), and D'' is independent
    of it: the mean of the estimate over all 4³ triples is ∇F exactly (eq. 8). Over all 4² pairs the
    Hessian on D is correlated with the step on D: another number."""
    found, w = bowls(4), start()["w"]
    curvature = sum(i["A"] for i in found) / 4
    best = torch.linalg.solve(curvature, sum(i["A"] @ i["c"] for i in found) / 4)
    keep = torch.eye(D) - ALPHA * curvature
    want = keep @ curvature @ keep @ (w - best)
    three = task(*[Triple(*t) for t in product(found, repeat=3)])  # type: ignore[arg-type]
    got, _ = mean_gradient(three_batch(bowl, lr=ALPHA), start(), three)
    assert apart(got["w"], want) < 1e-14
    two = task(*[Triple(a, b, a) for a, b in product(found, repeat=2)])  # type: ignore[arg-type]
    biased, _ = mean_gradient(three_batch(bowl, lr=ALPHA), start(), two)
    assert apart(biased["w"], want) > 1e-4


@pytest.mark.parametrize("order", ORDERS)
def test_three_batches_with_the_third_the_first_are_two(order: str) -> None:
    """D'' = D: (I − α∇²L(w; D))∇L(w̃; D') is the chain rule of L(w − α∇L(w; D); D'), on a network as well."""
    tasks = [[episode(5 * c + k) for k in range(c + 1)] for c in range(3)]
    settings: dict[str, Any] = {"alpha": ALPHA, "order": order, "local": sgd(BETA)}
    a = final(per_fedavg(loss, batches=2, **settings), [task(*t) for t in tasks], network(), 2)
    doubled = [task(*[Triple(e.support, e.query, e.support) for e in t]) for t in tasks]
    b = final(per_fedavg(loss, batches=3, **settings), doubled, network(), 2)
    assert apart(a.params, b.params) < 1e-12


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("engine", ENGINES)
def test_one_local_step_is_fedmeta(engine: Any, order: str) -> None:
    """τ = 1, server rate 1: mean_i(θ − β∇F_i(θ)) = θ − β·mean_i ∇F_i(θ), FedMeta with server SGD(β)."""
    tasks = [task(episode(c), examples=c + 1) for c in range(3)]
    a = final(per_fedavg(loss, alpha=ALPHA, order=order, local=sgd(BETA)), tasks, network(), 3, engine)  # type: ignore[arg-type]
    b = final(fedmeta(loss, lr=ALPHA, order=order, outer=sgd(BETA)), tasks, network(), 3, engine)  # type: ignore[arg-type]
    assert apart(a.params, b.params) < 1e-12


def test_exact_local_steps_are_those_of_plain_pytorch() -> None:
    """w ← w − β∇_w L(w − α∇L(w; D); D') with autograd's create_graph=True, four steps, one client."""
    episodes, want = [episode(k) for k in range(4)], network()
    for e in episodes:
        g = plain_maml(want, [e], lr=ALPHA, steps=1)
        want = {n: p - BETA * g[n] for n, p in want.items()}
    algorithm = per_fedavg(loss, alpha=ALPHA, local=sgd(BETA))
    assert apart(final(algorithm, [task(*episodes)], network()).params, want) < 1e-14


@pytest.mark.parametrize("batches", [2, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_alpha_of_zero_is_fedavg_on_the_query_batches(order: str, batches: int) -> None:
    """α = 0: w̃ = w and I − α∇² = I: FedAvg on D', every client the same."""
    kinds = [[Triple(batch(k), batch(k + 50), batch(k + 99)) for k in range(3 * c, 4 * c + 2)] for c in range(3)]
    given = [task(*[t if batches == 3 else Episode(t.support, t.query) for t in ts]) for ts in kinds]
    algorithm = per_fedavg(loss, alpha=0.0, order=order, batches=batches, local=sgd(BETA))  # type: ignore[arg-type]
    a = final(algorithm, given, network(), 2)
    b = final(uniform(fedavg(loss, local=sgd(BETA))), [task(*[t.query for t in ts]) for ts in kinds], network(), 2)
    assert apart(a.params, b.params) < 1e-15


def test_hessian_free_errs_by_the_square_of_delta() -> None:
    """As for MAML, on the third batch: a tenth of δ, a hundredth of the error; and exact ≠ first on a
    network."""
    item = Triple(batch(1), batch(2), batch(3))
    exact = grad(three_batch(loss, lr=ALPHA))(network(), item)
    errors = [
        apart(grad(three_batch(loss, lr=ALPHA, order="hessian_free", delta=d))(network(), item), exact)
        for d in (1e-1, 1e-2)
    ]
    assert 90 < errors[0] / errors[1] < 110
    assert apart(grad(three_batch(loss, lr=ALPHA, order="first"))(network(), item), exact) > 1e-3


@pytest.mark.parametrize("batches", [2, 3])
def test_delta_reaches_the_estimate(batches: int) -> None:
    """per_fedavg(delta=) is the δ of the difference: a coarse one is off by what the objective's own is."""
    item: Any = Triple(batch(1), batch(2), batch(1)) if batches == 3 else Episode(batch(1), batch(2))
    sent = {
        d: sent_by(
            per_fedavg(loss, alpha=ALPHA, order="hessian_free", batches=batches, delta=d, local=sgd(1.0)),  # type: ignore[arg-type]
            task(item),
            network(),
        )
        for d in (1.0, 1e-4)
    }
    exact = grad(three_batch(loss, lr=ALPHA))(network(), Triple(batch(1), batch(2), batch(1)))
    assert apart(sent[1e-4], exact) < 1e-8
    assert apart(sent[1.0], exact) > 1e-5


def test_a_client_adapts_on_support_alone() -> None:
    """personalise takes test_steps gradient steps of rate α on the support batch it is given, and no other
    data (a published defect, pFedMe's repository: it adapts on a test batch)."""
    item = bowls(1)[0]
    got = per_fedavg(bowl, alpha=ALPHA, test_steps=1).personalise(start(), {}, item)["w"]  # type: ignore[arg-type]
    assert apart(got, start()["w"] - ALPHA * item["A"] @ (start()["w"] - item["c"])) < 1e-15
