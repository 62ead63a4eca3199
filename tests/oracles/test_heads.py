"""Heads that a client solves for itself: prototypes, ridge and softmax regression, support vector machines."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor
from torch.func import grad
from torch.nn import functional as F

from seedbed import tree
from seedbed.algorithms.fed_lr import fed_lr
from seedbed.algorithms.fed_metaoptnet import fed_metaoptnet
from seedbed.algorithms.fed_proto import fed_proto
from seedbed.algorithms.fed_ridge import fed_ridge
from seedbed.data.types import Batch, Episode
from seedbed.federated import Algorithm
from seedbed.learning.heads import (
    LOGISTIC,
    RIDGE,
    SVM,
    dual_ridge_head,
    fresh_head,
    learned_scalars,
    logistic_head,
    prototype_head,
    ridge_head,
    svm_head,
)
from seedbed.learning.objectives import EXCLUDED, cross_entropy, smoothed_cross_entropy, supervised
from seedbed.learning.optimizers import sgd
from seedbed.learning.svm_qp import svm_dual

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


def body_features(params: Any, b: Batch) -> Tensor:
    return torch.tanh(F.linear(b.x, params["body.weight"], params["body.bias"]))


def labels(b: Batch) -> Tensor:
    return F.one_hot(b.y, CLASSES).to(b.x.dtype)


def plain_lr(params: dict[str, Tensor], e: Episode) -> Tensor:
    """Newton's method on W [F+1, N] itself, with the whole Hessian Σ_n (diag p_n − p_n p_nᵀ) ⊗ x_n x_nᵀ + λI."""
    x, f = (F.pad(body_features(params, b), (0, 1), value=1.0) for b in e)
    size, strength = x.shape[1] * CLASSES, params["logistic:log_lambda"].exp()
    w = torch.zeros(x.shape[1], CLASSES)
    for _ in range(5):
        p = (x @ w).softmax(1)
        curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        hessian = torch.einsum("nij,na,nb->aibj", curvature, x, x).reshape(size, size) + strength * torch.eye(size)
        slope = x.T @ (p - labels(e.support)) + strength * w
        w = w - torch.linalg.solve(hessian, slope.flatten()).reshape(w.shape)
    return F.cross_entropy(f @ w, e.query.y)


def plain_svm(params: dict[str, Tensor], e: Episode, c: float = 0.1) -> Tensor:
    """The free variables of the dual by the whole system [[K ⊗ I, A'], [A, 0]] of NW + N unknowns, given which bounds
    are active; the others are at their bounds."""
    x, y = body_features(params, e.support), labels(e.support)
    count = len(x)
    kernel = torch.kron(x @ x.T + torch.eye(count), torch.eye(CLASSES))
    sums = torch.kron(torch.eye(count), torch.ones(1, CLASSES))
    at = svm_dual((x @ x.T + torch.eye(count)).detach(), y, torch.ones_like(y), c=c).flatten()
    bound = c * y.flatten()
    free = (bound - at > 1e-8).nonzero()[:, 0]
    held = torch.where(bound - at > 1e-8, 0.0, bound)
    zero = torch.zeros(count, count)
    system = torch.cat([torch.cat([kernel[free][:, free], sums[:, free].T], 1), torch.cat([sums[:, free], zero], 1)])
    right = torch.cat([y.flatten()[free] - kernel[free] @ held, -sums @ held])
    alpha = held.index_add(0, free, torch.linalg.solve(system, right)[: len(free)]).reshape(count, CLASSES)
    logits = params["svm:log_scale"].exp() * body_features(params, e.query) @ x.T @ alpha
    return F.cross_entropy(logits, e.query.y)


def plain_dual_ridge(params: dict[str, Tensor], e: Episode) -> Tensor:
    """In the primal form: W = 2(XᵀX + λI)⁻¹XᵀY with λ = 50."""
    x = body_features(params, e.support)
    w = 2 * torch.linalg.solve(x.T @ x + 50 * torch.eye(x.shape[1]), x.T @ labels(e.support))
    return F.cross_entropy(params["svm:log_scale"].exp() * body_features(params, e.query) @ w, e.query.y)


class Solved(NamedTuple):
    """An algorithm, its query loss written out in plain PyTorch, its head, and its learned numbers."""

    make: Callable[..., Algorithm]
    plain: Callable[..., Tensor]
    head: Callable[..., Any]
    learned: Mapping[str, float]


ALGORITHMS = {
    "fed_proto": Solved(fed_proto, plain_proto, prototype_head, {}),
    "fed_ridge": Solved(fed_ridge, plain_ridge, ridge_head, RIDGE),
    "fed_lr": Solved(fed_lr, plain_lr, logistic_head, LOGISTIC),
    "fed_metaoptnet": Solved(fed_metaoptnet, plain_svm, svm_head, SVM),
    "fed_metaoptnet, ridge": Solved(partial(fed_metaoptnet, form="ridge"), plain_dual_ridge, dual_ridge_head, SVM),
}


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("engine", ENGINES)
def test_federated_gradient_is_that_of_plain_pytorch(engine: Any, name: str) -> None:
    """∇ of the mean query loss through the solved head, by torch.autograd on all clients' tasks, with
    distances (prototypes), the primal normal equations (ridge), the primal Newton steps (softmax regression) and the
    whole KKT system (support vector machine) written out. The gradient flows into the support features too, and into
    each head's learned numbers."""
    make, plain, _, _ = ALGORITHMS[name]
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
    assert apart(got, want) < 1e-12


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
    algorithm, learned = ALGORITHMS[name].make(loss, features, ways=CLASSES), set(ALGORITHMS[name].learned)
    sent = sent_by(algorithm, task(episode(0)), network())
    assert set(algorithm.init(network()).params) == set(sent) == set(BODY) | learned
    other = {**network(), "head.weight": torch.ones(CLASSES, 8)}
    assert apart(sent, sent_by(algorithm, task(episode(0)), other)) == 0


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_client_solves_its_head_then_may_fine_tune(name: str) -> None:
    """personalise = the solved head, and with test_steps gradient steps of test_lr over all parameters after
    it."""
    make, _, head, _ = ALGORITHMS[name]
    begin = make(loss, features, ways=CLASSES).init(network()).params
    solve = head(features, ways=CLASSES)
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
    got = learned_scalars(RIDGE, torch.ones(1, dtype=torch.float32))
    assert [float(got[n]) for n in RIDGE] == [0.0, 0.0, 0.0]
    assert {p.dtype for p in got.values()} == {torch.float32}


# ---- softmax regression ----------------------------------------------------------------------------------


def logistic(support: Batch, *, steps: int, log_lambda: float = 0.0, ways: int = CLASSES) -> Tensor:
    """[F+1, N] of the head after so many Newton steps."""
    params = body() | {"logistic:log_lambda": torch.tensor(log_lambda)}
    got = logistic_head(features, ways=ways, steps=steps)(params, support)
    return torch.cat([got["head.weight"].T, got["head.bias"][None]])


@pytest.mark.parametrize("log_lambda", [-5.0, 0.0, 2.0])
def test_newton_s_steps_reach_the_regularised_optimum(log_lambda: float) -> None:
    """∇[Σ CE + λ/2‖W‖²] = Xᵀ(P − Y) + λW = 0 at the minimum: it falls quadratically, to rounding within ten steps and
    to a hundredth of where it began within the paper's five."""
    support = batch(0, 12)
    x, strength = F.pad(features(body(), support.x), (0, 1), value=1.0), torch.tensor(log_lambda).exp()

    def slope(steps: int) -> float:
        w = logistic(support, steps=steps, log_lambda=log_lambda)
        return float((x.T @ ((x @ w).softmax(1) - labels(support)) + strength * w).abs().max())

    assert slope(10) < 1e-12
    assert slope(5) < 1e-2 * slope(0)


def test_for_two_classes_it_is_the_paper_s_at_half_lambda() -> None:
    """With w_1 = −w_0 = w/2 softmax regression is logistic regression of w, and its penalty λ/2(‖w_0‖² + ‖w_1‖²) is
    λ/4‖w‖²; Newton's method does not feel a linear change of variables. The paper's step, LR-D2: with s = μ(1 − μ) and
    z = Xw + (y − μ)/s, w ← Xᵀ(XXᵀ + λ' diag(s)⁻¹)⁻¹z, at λ' = λ/2."""
    b = batch(0, 10)
    support = b._replace(y=b.y % 2)
    x, y = F.pad(features(body(), support.x), (0, 1), value=1.0), support.y.to(b.x.dtype)
    w = torch.zeros(x.shape[1])
    for _ in range(5):
        mean = (x @ w).sigmoid()
        s = mean * (1 - mean)
        w = x.T @ torch.linalg.solve(x @ x.T + 0.35 * torch.diag(1 / s), x @ w + (y - mean) / s)
    got = logistic(support, steps=5, log_lambda=float(torch.tensor(0.7).log()), ways=2)
    assert apart(got[:, 1] - got[:, 0], w) < 1e-12
    assert apart(got[:, 1], -got[:, 0]) < 1e-12


def test_softmax_regression_stays_finite_where_it_is_certain() -> None:
    """Features of about 1e3 and λ = 1e-4: probabilities underflow; values and the meta-gradient must not."""
    b = batch(0, 9)
    support = b._replace(x=1e3 * b.x)

    def linear(params: Any, x: Tensor) -> Tensor:
        return x * params["w"]

    def total(params: dict[str, Tensor]) -> Tensor:
        return logistic_head(linear, ways=CLASSES)(params, support)["head.weight"].square().sum()

    params = {"w": torch.ones(4), "logistic:log_lambda": torch.tensor(-9.0)}
    assert all(torch.isfinite(g).all() for g in (total(params), *grad(total)(params).values()))


# ---- support vector machines (the dual itself: test_svm_dual) ----------------------------------------------


def test_metaoptnet_s_ridge_is_twice_r2d2_s() -> None:
    """W = 2Xᵀ(XXᵀ + λI)⁻¹Y against R2D2's W at the same λ, without its column of ones."""
    support = batch(0, 9)
    x = features(body(), support.x)
    r2d2 = x.T @ torch.linalg.solve(x @ x.T + 3 * torch.eye(9), labels(support))
    got = dual_ridge_head(features, ways=CLASSES, lam=3.0)(body() | learned_scalars(SVM, x), support)
    assert apart(got["head.weight"].T, 2 * r2d2) < 1e-14
    assert got["head.bias"].abs().max() == 0


def test_the_svm_s_scale_multiplies_its_logits() -> None:
    support, params = batch(0), body() | {"svm:log_scale": torch.tensor(3.0).log()}
    one = svm_head(features, ways=CLASSES)(body() | learned_scalars(SVM, support.x), support)
    assert apart(svm_head(features, ways=CLASSES)(params, support)["head.weight"], 3 * one["head.weight"]) < 1e-14


@pytest.mark.parametrize("head", [logistic_head, svm_head])
def test_a_class_without_examples_is_no_rival(head: Any) -> None:
    """The head of three classes, of which one has no examples, is that of the two: the third's probability is 0."""
    b = batch(0, 8)
    support = b._replace(y=2 * (b.y % 2))
    params = body() | learned_scalars(LOGISTIC | SVM, b.x)
    got = predict(head(features, ways=3)(params, support), batch(1).x).softmax(-1)
    two = predict(head(features, ways=2)(params, b._replace(y=b.y % 2)), batch(1).x).softmax(-1)
    assert got[:, 1].abs().max() == 0
    assert apart(got[:, [0, 2]], two) < 1e-13


def test_label_smoothing() -> None:
    """−(1 − ε)·log p_y − ε·mean of log p over the other classes; PyTorch's, which shares ε among all N classes, is this
    with ε(N−1)/N. An excluded class has no share: without it the loss is the same. ε = 0 is cross-entropy."""
    logits, y = predict(network(), batch(0, 9).x), batch(0, 9).y
    got = smoothed_cross_entropy(0.1 * 2 / 3)(logits, y)
    assert apart(got, F.cross_entropy(logits, y, reduction="none", label_smoothing=0.1)) < 1e-15
    more = torch.cat([logits, torch.full((9, 1), EXCLUDED)], 1)
    assert apart(smoothed_cross_entropy(0.2)(more, y), smoothed_cross_entropy(0.2)(logits, y)) < 1e-15
    assert apart(smoothed_cross_entropy(0.0)(logits, y), cross_entropy(logits, y)) < 1e-15


def test_fed_metaoptnet_trains_on_softened_labels_if_asked() -> None:
    """Its message's loss is the smoothed one of the query set under the solved head."""
    algorithm, e = fed_metaoptnet(loss, features, ways=CLASSES, smoothing=0.1), episode(0)
    begin = algorithm.init(network()).params
    assert abs(begin["svm:log_scale"].exp() - 10) < 1e-12
    solved = svm_head(features, ways=CLASSES)(begin, e.support)
    want = smoothed_cross_entropy(0.1)(predict(solved, e.query.x), e.query.y).mean()
    assert apart(algorithm.client(begin, {}, task(e))[0].info["loss"], want) < 1e-14
    assert abs(want - loss(solved, e.query)) > 1e-3


# ---- new heads -------------------------------------------------------------------------------------------


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


MAKERS = {
    "prototypes": fed_proto,
    "ridge": fed_ridge,
    "logistic": fed_lr,
    "svm": fed_metaoptnet,
    "svm, ridge form": partial(fed_metaoptnet, form="ridge"),
    "svm, smoothed": partial(fed_metaoptnet, smoothing=0.1),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("absent", [0, 2])
@pytest.mark.parametrize("engine", ENGINES)
def test_queries_of_absent_classes_do_not_count(name: str, absent: int, engine: Any) -> None:
    """The support set has no example of a class, the query set some: loss and gradient are those of the other queries,
    and finite. A query set of only that class gives a loss and a gradient of 0."""
    e = episode(0)
    lacks = e.support._replace(mask=e.support.mask * (e.support.y != absent))
    others = e.query._replace(mask=e.query.mask * (e.query.y != absent))
    only = e.query._replace(mask=e.query.mask * (e.query.y == absent))
    assert others.mask.sum() > 0
    assert only.mask.sum() > 0
    algorithm = MAKERS[name](loss, features, ways=CLASSES, outer=sgd(1.0))  # type: ignore[operator]

    def moved(query: Batch) -> Any:
        begun = algorithm.init(network())
        return tree.sub(begun.params, final(algorithm, [task(Episode(lacks, query))], network(), 1, engine).params)

    assert apart(moved(e.query), moved(others)) < 1e-12
    assert max(float(leaf.abs().max()) for leaf in tree.leaves(moved(e.query))) < 1e3
    assert all(not leaf.any() for leaf in tree.leaves(moved(only)))
