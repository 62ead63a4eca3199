"""Heads that a client solves for itself: prototypes and ridge regression."""

from typing import Any

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor
from torch.nn import functional as F

from seedbed import tree
from seedbed.algorithms.fed_proto import fed_proto
from seedbed.algorithms.fed_ridge import fed_ridge
from seedbed.learning.heads import RIDGE, fresh_head, learned_numbers, prototype_head, ridge_head
from seedbed.learning.objectives import cross_entropy, supervised
from seedbed.learning.optimizers import sgd
from seedbed.tasks.types import Batch, Episode

from .bench import (
    CLASSES,
    ENGINES,
    apart,
    batch,
    episode,
    features,
    final,
    loss,
    network,
    predict,
    sent_by,
    task,
)

BODY = ("body.weight", "body.bias")


def body() -> dict[str, Tensor]:
    return {n: network()[n] for n in BODY}


def flat(x: Any) -> Tensor:
    """[B, CLASSES] logits without what is common to all classes of an example."""
    centred: Tensor = x - x.mean(-1, keepdim=True)
    return centred


def centres(params: Any, b: Batch) -> Tensor:
    """The classes' mean features, [N, F], one class at a time."""
    f = features(params, b.x)
    return torch.stack([f[b.y == k].mean(0) for k in range(CLASSES)])


# ---- prototypes ------------------------------------------------------------------------------------------


def test_prototype_logits_are_squared_distances() -> None:
    """logits_k = 2f·c_k − ‖c_k‖² = −‖f − c_k‖² + ‖f‖², the same up to ‖f‖², which is common to all classes:
    the same softmax. Squared distances, as in eq. 2 of Snell et al."""
    support, query = batch(0, 8), batch(1, 10)
    got = predict(prototype_head(features, ways=CLASSES)(body(), support), query.x)
    f, c = features(body(), query.x), centres(body(), support)
    distances = -((f[:, None] - c[None]) ** 2).sum(-1)
    assert apart(flat(got), flat(distances)) < 1e-14
    assert apart(got.softmax(-1), distances.softmax(-1)) < 1e-14


def test_a_class_without_examples_is_never_chosen() -> None:
    """Its prototype would be 0/0: its probability is 0, the others' are those of an episode of two."""
    b = batch(0, 6)
    support = Batch(b.x, torch.tensor([0, 1, 0, 1, 0, 1]), b.mask)
    got = predict(prototype_head(features, ways=3)(body(), support), batch(1).x).softmax(-1)
    two = predict(prototype_head(features, ways=2)(body(), support), batch(1).x).softmax(-1)
    assert torch.isfinite(got).all()
    assert got[:, 2].abs().max() == 0
    assert apart(got[:, :2], two) < 1e-15


def plain_proto(params: dict[str, Tensor], e: Episode) -> Tensor:
    f = torch.tanh(F.linear(e.query.x, params["body.weight"], params["body.bias"]))
    s = torch.tanh(F.linear(e.support.x, params["body.weight"], params["body.bias"]))
    c = torch.stack([s[e.support.y == k].mean(0) for k in range(CLASSES)])
    return F.cross_entropy(-((f[:, None] - c) ** 2).sum(-1), e.query.y)


def plain_ridge(params: dict[str, Tensor], e: Episode) -> Tensor:
    """In the primal form: W = (XᵀX + λI)⁻¹XᵀY."""
    x, f = (F.pad(torch.tanh(F.linear(b.x, params["body.weight"], params["body.bias"])), (0, 1), value=1.0) for b in e)
    gram = x.T @ x + params["ridge:log_lambda"].exp() * torch.eye(x.shape[1])
    w = torch.linalg.solve(gram, x.T @ F.one_hot(e.support.y, CLASSES).to(x.dtype))
    logits = params["ridge:log_scale"].exp() * (f @ w) + params["ridge:bias"]
    return F.cross_entropy(logits, e.query.y)


ALGORITHMS = {"fed_proto": (fed_proto, plain_proto), "fed_ridge": (fed_ridge, plain_ridge)}


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("engine", ENGINES)
def test_federated_gradient_is_that_of_plain_pytorch(engine: Any, name: str) -> None:
    """∇ of the mean query loss through the solved head, by torch.autograd on all clients' tasks, with
    distances (prototypes) and the primal normal equations (ridge) written out. The gradient flows into the
    support features too; for ridge also into log λ, log a and b."""
    make, plain = ALGORITHMS[name]
    algorithm = make(loss, features, ways=CLASSES, outer=sgd(1.0))
    begin = algorithm.init(network()).params
    episodes = [[episode(4 * c + k, 5 + c, 7) for k in range(c + 1)] for c in range(3)]
    theta = {n: p.clone().requires_grad_() for n, p in begin.items()}
    total = sum(sum(plain(theta, e) for e in es) / len(es) for es in episodes) / 3
    grads = torch.autograd.grad(total, list(theta.values()), allow_unused=True)
    want = {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(theta.items(), grads, strict=True)}
    # Clients' supports are of unequal size: in stacks they are padded with examples of mask 0.
    padded = [[padded_to(e, 7, 7) for e in es] for es in episodes]
    tasks = [task(*es, examples=c + 1) for c, es in enumerate(padded)]
    got = tree.sub(begin, final(algorithm, tasks, network(), 1, engine).params)
    assert apart(got, want) < 1e-13


def padded_to(e: Episode, support: int, query: int) -> Episode:
    def pad(b: Batch, size: int) -> Batch:
        missing = size - len(b.mask)
        return Batch(
            torch.cat([b.x, torch.full((missing, b.x.shape[1]), 1e6)]),
            torch.cat([b.y, b.y[:1].expand(missing)]),
            torch.cat([b.mask, torch.zeros(missing)]),
        )

    return Episode(pad(e.support, support), pad(e.query, query))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_only_the_body_is_federated(name: str) -> None:
    """Neither the state nor a message holds the head, and what the head was to begin with changes nothing."""
    algorithm = ALGORITHMS[name][0](loss, features, ways=CLASSES)
    learned = set(RIDGE) if name == "fed_ridge" else set()
    sent = sent_by(algorithm, task(episode(0)), network())
    assert set(algorithm.init(network()).params) == set(sent) == set(BODY) | learned
    other = {**network(), "head.weight": torch.ones(CLASSES, 8)}
    assert apart(sent, sent_by(algorithm, task(episode(0)), other)) == 0


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_client_solves_its_head_then_may_fine_tune(name: str) -> None:
    """personalise = the solved head, and with test_steps gradient steps of test_lr over all parameters after
    it."""
    make, _ = ALGORITHMS[name]
    begin = make(loss, features, ways=CLASSES).init(network()).params
    solve = (prototype_head if name == "fed_proto" else ridge_head)(features, ways=CLASSES)
    want = {n: p.clone().requires_grad_() for n, p in solve(begin, batch(0)).items()}
    assert apart(make(loss, features, ways=CLASSES).personalise(begin, {}, batch(0)), tree.detach(want)) == 0
    for _ in range(2):
        grads = torch.autograd.grad(loss(want, batch(0)), list(want.values()), allow_unused=True)
        want = {n: p if g is None else p - 0.05 * g for (n, p), g in zip(want.items(), grads, strict=True)}
    tuned = make(loss, features, ways=CLASSES, test_steps=2, test_lr=0.05).personalise(begin, {}, batch(0))
    assert apart(tuned, tree.detach(want)) < 1e-13


# ---- ridge -----------------------------------------------------------------------------------------------


def solved(support: Batch, **learned: float) -> Tensor:
    """[F+1, N] of the head that ridge_head gives, at the scale and bias asked for."""
    params = body() | {n: torch.tensor(learned.get(n.split(":")[1], v)) for n, v in RIDGE.items()}
    got = ridge_head(features, ways=CLASSES)(params, support)
    return torch.cat([got["head.weight"].T, got["head.bias"][None]])


@pytest.mark.parametrize("log_lambda", [-4.0, 0.0, 3.0])
def test_dual_is_primal(log_lambda: float) -> None:
    """Xᵀ(XXᵀ + λI)⁻¹Y = (XᵀX + λI)⁻¹XᵀY (multiply both by XᵀX + λI from the left): the minimiser of
    ‖XW − Y‖² + λ‖W‖², which scikit-learn's Ridge without an intercept finds too."""
    support, strength = batch(0, 11), torch.tensor(log_lambda).exp()
    x = F.pad(features(body(), support.x), (0, 1), value=1.0)
    y = F.one_hot(support.y, CLASSES).to(x.dtype)
    got = solved(support, log_lambda=log_lambda)
    assert apart(got, torch.linalg.solve(x.T @ x + strength * torch.eye(9), x.T @ y)) < 1e-12
    theirs = Ridge(alpha=float(strength), fit_intercept=False).fit(x.numpy(), y.numpy())
    assert apart(got, torch.as_tensor(theirs.coef_.T)) < 1e-11


def test_scale_and_bias() -> None:
    """logits = a·(fW) + b: the head is aW, and b is added to the bias of each class, unscaled."""
    support = batch(0)
    want = 3 * solved(support)
    want[-1] += 0.7
    assert apart(solved(support, log_scale=float(torch.tensor(3.0).log()), bias=0.7), want) < 1e-14


def test_large_lambda_points_to_the_nearest_mean() -> None:
    """λ → ∞: λW = XᵀY − XᵀXW → XᵀY, whose k-th column is n_k times the mean of class k: λW − XᵀY = O(1/λ)."""
    support = batch(0, 9)
    x = F.pad(features(body(), support.x), (0, 1), value=1.0)
    sums = torch.cat([3 * centres(body(), support), torch.full((3, 1), 3.0)], 1).T  # 3 examples a class
    assert apart(x.T @ F.one_hot(support.y, CLASSES).to(x.dtype), sums) < 1e-14
    errors = [
        apart(strength * solved(support, log_lambda=float(torch.tensor(strength).log())), sums)
        for strength in (1e4, 1e6, 1e8)
    ]
    assert errors[2] < 1e-5
    assert 90 < errors[0] / errors[1] < 110


def test_where_the_learned_numbers_start() -> None:
    """λ = a = 1 and b = 0, in the model's own precision."""
    got = learned_numbers(RIDGE, torch.ones(1, dtype=torch.float32))
    assert [float(got[n]) for n in RIDGE] == [0.0, 0.0, 0.0]
    assert {p.dtype for p in got.values()} == {torch.float32}


def test_a_fresh_head_is_zero_for_any_number_of_classes() -> None:
    """Logits 0, the uniform distribution: where fine-tuning to new classes starts."""
    got = fresh_head(ways=5, width=8)(network(), batch(0))
    assert predict(got, batch(1).x).abs().max() == 0
    assert predict(got, batch(1).x).shape == (6, 5)
    assert apart({n: got[n] for n in BODY}, body()) == 0


def test_the_loss_is_that_of_the_logits() -> None:
    """supervised(predict, cross_entropy) is torch's cross-entropy, natural logarithm, mean over examples."""
    b = batch(0)
    want = F.cross_entropy(predict(network(), b.x), b.y)
    assert apart(supervised(predict, cross_entropy)(network(), b), want) < 1e-15
