"""What is minimised: an objective maps (params, item) to a loss. Meta-learning is an objective too.

Shapes: B examples of a batch, N classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, vjp
from torch.nn import functional as F

from seedbed import tree
from seedbed.data.types import Batch, Episode, Triple
from seedbed.errors import InputError
from seedbed.learning.passes import at_step, predictions, unrecorded
from seedbed.learning.torch_losses import LEAST_WEIGHT, PerExample, class_map_loss, per_example_loss
from seedbed.learning.training import ExplicitGradient, Item, Objective, Params, functional_gradient, gradient

Adapt = Callable[[Params, Batch], Params]  # how a model adapts to a support set
Predict = Callable[[Params, Tensor], Tensor]  # (params, x [B, ...]) -> predictions [B, ...]
Loss = Callable[[Tensor, Tensor], Tensor]  # (predictions [B, ...], y [B, ...]) -> one loss per example [B]
Metric = Callable[[Params, Batch], Tensor]  # -> score []

EXCLUDED = -1e9  # a logit that stands for −∞: of a class that a task does not have


@dataclass(frozen=True)
class Supervised:
    """What `supervised` gives: an objective that executors can look into."""

    predict: Predict
    loss: Loss

    def __call__(self, params: Params, batch: Batch) -> Tensor:
        each = self.loss(predictions(self.predict, params, batch), batch.y)
        if each.shape != batch.mask.shape:
            raise InputError(
                f"the loss returned shape {tuple(each.shape)} for a batch of {tuple(batch.mask.shape)}: it must give "
                "one number per example (in PyTorch: reduction='none', then the mean over all but the first dimension)"
            )
        if isinstance(self.loss, PerExample):
            return (each * batch.mask).sum() / (self.loss.weight(batch.y) * batch.mask).sum().clamp_min(LEAST_WEIGHT)
        return masked_mean(each, batch.mask)


def supervised(predict: Predict, loss: Loss) -> Objective:
    """The mean loss over a batch's real examples.

    Args:
        predict: the model.
        loss: one number per example, [B]. PyTorch's own, such as nn.CrossEntropyLoss() or F.mse_loss, count example by
            example here, in the mean that they give over real examples. Any other loss that averages by itself (a
            scalar) is refused, because padding would be counted.
    """
    return Supervised(predict, per_example_loss(loss))


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Σ mask·values / Σ mask, 0 where nothing is real: []."""
    return (values * mask).sum() / mask.sum().clamp_min(1)


def cross_entropy(predictions: Tensor, y: Tensor) -> Tensor:
    """−log softmax(predictions)[y], natural logarithm: [B, N], [B] -> [B].

    Of class maps the mean over places: [B, N, ...], [B, ...] -> [B].
    """
    if predictions.ndim > 2:
        return class_map_loss(predictions, y)
    # Under vmap this takes a fifth less time of a small model's whole step than F.cross_entropy.
    return torch.logsumexp(predictions, -1) - predictions.gather(-1, y[:, None])[:, 0]


def squared_error(predictions: Tensor, y: Tensor) -> Tensor:
    """(prediction − y)², averaged over all but the first dimension: [B, ...] or [B, 1] against [B] -> [B]."""
    return ((predictions.reshape(y.shape) - y) ** 2).reshape(len(y), -1).mean(1)


def smoothed_cross_entropy(smoothing: float) -> Loss:
    """Cross-entropy against softened labels: 1 − ε for the right class, the rest in equal shares for the others.

    As in MetaOptNet (Lee et al., CVPR 2019, section 4.1). Excluded classes have no share. [B, N], [B] -> [B].
    """

    def loss(predictions: Tensor, y: Tensor) -> Tensor:
        log_p = predictions.log_softmax(-1)
        right = y[:, None] == torch.arange(predictions.shape[-1], device=y.device)
        others = ~right & (predictions > EXCLUDED / 2)
        mean = torch.where(others, log_p, 0.0).sum(-1) / others.sum(-1).clamp_min(1)
        return -(1 - smoothing) * torch.where(right, log_p, 0.0).sum(-1) - smoothing * mean

    return loss


def correct(predictions: Tensor, y: Tensor) -> Tensor:
    """1 where the most probable class is the right one: [B, N], [B] -> [B]. Of class maps, the share of places."""
    if predictions.ndim > 2:
        return (predictions.argmax(1) == y).to(predictions.dtype).flatten(1).mean(1)
    return (predictions.argmax(-1) == y).to(predictions.dtype)


def softmax_regression(*, weight: str = "weight", bias: str = "bias") -> Objective:
    """The mean cross-entropy of logits xWᵀ + b over a batch's real examples, with its gradient in closed form.

    With P = softmax(xWᵀ + b) − Y for one-hot labels Y, a row of it for each of B real examples: ∇_W = Pᵀx/B and
    ∇_b = Σ P/B. On the vectorised engine a step takes half to two thirds of the time of the derived gradient.

    Args:
        weight, bias: the names of W [N, F] and b [N]; the params hold nothing else. x is [B, F], flat.
    """

    def logits(params: Params, x: Tensor) -> Tensor:
        return F.linear(x, params[weight], params[bias])

    def slope(params: Params, batch: Batch) -> tuple[Params, Tensor]:
        scores = logits(params, batch.x)
        norm = torch.logsumexp(scores, -1, keepdim=True)
        hot = (batch.y[:, None] == torch.arange(scores.shape[-1], device=scores.device)).to(scores.dtype)
        share = batch.mask[:, None] / batch.mask.sum().clamp_min(1)  # of each example in the mean, [B, 1]
        p = ((scores - norm).exp() - hot) * share
        value = ((norm - (scores * hot).sum(-1, keepdim=True)) * share).sum()
        return {weight: p.T @ batch.x, bias: p.sum(0)}, value.detach()

    return ExplicitGradient(supervised(logits, cross_entropy), slope)


@dataclass(frozen=True)
class Proximal(ExplicitGradient):
    """What `near` gives: an objective that executors can look into."""

    objective: Objective
    anchor: Params
    mu: float | Tensor

    def pulled(self, params: Params, slope: Params, value: Tensor) -> tuple[Params, Tensor]:
        """The gradient and the value [] at `params`, from those of `objective`."""
        away = tree.sub(params, self.anchor)
        return tree.axpy(self.mu, away, slope), value + self.mu / 2 * tree.squared_norm(tree.detach(away))


def proximal(objective: Objective, anchor: Params, mu: float | Tensor) -> Proximal:
    """objective + (μ/2)·‖params − anchor‖²: FedProx's, Ditto's and pFedMe's pull, of gradient μ(params − anchor)."""

    def value(params: Params, item: Item) -> Tensor:
        return objective(params, item) + mu / 2 * tree.squared_norm(tree.sub(params, anchor))

    def slope(params: Params, item: Item) -> tuple[Params, Tensor]:
        return made.pulled(params, *gradient(objective, params, item))

    made = Proximal(value, slope, objective, anchor, mu)
    return made


def with_linear_term(objective: Objective, direction: Params) -> Objective:
    """The objective with `direction` added to its gradient, and its value as it was: SCAFFOLD's correction."""

    def tilt(params: Params, item: Item) -> Tensor:
        along = tree.dot(tree.detach(direction), params)
        return objective(params, item) + (along - along.detach())

    return tilt


def meta_objective(adapt: Adapt, loss: Objective) -> Objective:
    """The meta-learning objective: the loss on the query set, after adapting to the support set."""

    def objective(params: Params, episode: Episode) -> Tensor:
        return loss(adapt(params, episode.support), episode.query)

    return objective


def answerable(episode: Episode) -> Batch:
    """The query set without examples of a class that the support set lacks.

    A head solved from the support set excludes such a class, so that a query of it has a loss of 1e9 that nothing can
    lower.
    """
    support, query = episode.support, episode.query
    same = (query.y[:, None] == support.y[None, :]).to(support.mask.dtype)  # [B of query, B of support]
    has = (same * support.mask).sum(1) > 0
    return query._replace(mask=query.mask * has.to(query.mask.dtype))


def solved_head_objective(solve: Adapt, loss: Objective) -> Objective:
    """The loss on the `answerable` queries, under the head that the support set gives."""
    return lambda params, episode: loss(solve(params, episode.support), answerable(episode))


def with_gradient(value: Tensor, params: Params, direction: Params) -> Tensor:
    """A loss whose value is `value` and whose gradient with respect to `params` is `direction`.

    value + ⟨direction, params − stop(params)⟩: how an estimate of a gradient (Hessian-free, implicit) becomes an
    objective like any other.
    """
    return value.detach() + tree.dot(tree.detach(direction), tree.sub(params, tree.detach(params)))


def _slope(loss: Objective) -> Callable[[Params, Batch], Params]:
    """∇L, to be differentiated again; what the pass writes is dropped."""
    return grad(unrecorded(loss))


def hessian_vector(loss: Objective, params: Params, batch: Batch, vector: Params) -> Params:
    """∇²L(params; batch)·vector, exact."""
    pullback = vjp(lambda p: _slope(loss)(p, batch), params)[1]
    product: Params = pullback(vector)[0]
    return product


def finite_hessian_vector(
    loss: Objective, params: Params, batch: Batch, vector: Params, *, delta: float = 1e-2
) -> Params:
    """[∇L(w + δu) − ∇L(w − δu)]·‖v‖/2δ with u = v/‖v‖: ∇²L·v up to O(δ²).

    Fallah et al., NeurIPS 2020, eq. 9; the direction is normalised so that δ means the same length at any gradient.
    A small δ is not a safe one: where a ReLU's kink lies between the two points, the error grows as 1/δ (on the
    sinusoid benchmark 1e-3 does worse than first order, 1e-2 as well as exact).
    """
    length = tree.squared_norm(vector).sqrt()
    step = delta / length.clamp_min(torch.finfo(length.dtype).tiny)
    ahead = _slope(loss)(tree.axpy(step, vector, params), batch)
    behind = _slope(loss)(tree.axpy(-step, vector, params), batch)
    return tree.scale(1 / (2 * step), tree.sub(ahead, behind))


def hessian_free(loss: Objective, *, lr: float, steps: int, delta: float = 1e-2) -> Objective:
    """The MAML objective with each Hessian-vector product by two gradients instead of backward through the steps.

    Value: L_B(φ_K). Gradient: Π_k (I − α∇²L_A(φ_k))·∇L_B(φ_K), the factors from the last step to the first.
    """

    def objective(params: Params, episode: Episode) -> Tensor:
        path = [tree.detach(params)]
        for k in range(steps):
            path.append(tree.axpy(-lr, _slope(loss)(path[-1], at_step(episode.support, k)), path[-1]))
        direction, value = functional_gradient(loss, path[-1], episode.query)
        for k in reversed(range(steps)):
            support = at_step(episode.support, k)
            curvature = finite_hessian_vector(loss, path[k], support, direction, delta=delta)
            direction = tree.axpy(-lr, curvature, direction)
        return with_gradient(value, params, direction)

    return objective


def recompute_forward(loss: Objective, *, lr: float, steps: int) -> Objective:
    """The MAML objective with its exact gradient, in memory that does not grow with the steps.

    Value: L_B(φ_K). Gradient: Π_k (I − α∇²L_A(φ_k))·∇L_B(φ_K), the factors from the last step to the first, each by an
    exact Hessian-vector product. No step is kept: φ_k is computed anew from the start, K(K − 1)/2 gradients more than
    K steps take.
    """

    def objective(params: Params, episode: Episode) -> Tensor:
        def point(k: int) -> Params:
            phi = tree.detach(params)
            for j in range(k):
                phi = tree.axpy(-lr, _slope(loss)(phi, at_step(episode.support, j)), phi)
            return phi

        direction, value = functional_gradient(loss, point(steps), episode.query)
        for k in reversed(range(steps)):
            curvature = hessian_vector(loss, point(k), at_step(episode.support, k), direction)
            direction = tree.axpy(-lr, curvature, direction)
        return with_gradient(value, params, direction)

    return objective


def three_batch(loss: Objective, *, lr: float, order: str = "exact", delta: float = 1e-2) -> Objective:
    """Per-FedAvg's unbiased estimate (I − α∇²L(w; D''))·∇L(w − α∇L(w; D); D') as an objective over triples.

    Fallah et al., NeurIPS 2020, eq. 8. order: exact, or recomputed, which is the same for one step | first (no Hessian)
    | hessian_free (two gradients on D'').
    """

    def objective(params: Params, item: Triple) -> Tensor:
        w = tree.detach(params)
        adapted = tree.axpy(-lr, _slope(loss)(w, item.support), w)
        direction, value = functional_gradient(loss, adapted, item.query)
        if order in ("exact", "recomputed"):
            direction = tree.axpy(-lr, hessian_vector(loss, w, item.curvature, direction), direction)
        elif order == "hessian_free":
            product = finite_hessian_vector(loss, w, item.curvature, direction, delta=delta)
            direction = tree.axpy(-lr, product, direction)
        return with_gradient(value, params, direction)

    return objective
