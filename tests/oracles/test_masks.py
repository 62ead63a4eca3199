"""Padding changes nothing: losses, gradients, heads, adaptations, whatever stands in the padded places."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad

from seedbed import tree
from seedbed.data.types import Batch, Episode, Task, Triple
from seedbed.learning.adaptations import chain_adaptations, gradient_steps, learned_steps, maml, rates_for
from seedbed.learning.heads import (
    LOGISTIC,
    RIDGE,
    SVM,
    dual_ridge_head,
    learned_scalars,
    logistic_head,
    prototype_head,
    ridge_head,
    svm_head,
)
from seedbed.learning.objectives import (
    Adapt,
    correct,
    cross_entropy,
    masked_mean,
    meta_objective,
    squared_error,
    supervised,
    three_batch,
)
from seedbed.learning.optimizers import adam, sgd
from seedbed.learning.training import mean_gradient, train

from .bench import CLASSES, apart, batch, episode, features, loss, network, predict, task


def padded(seed: int) -> Batch:
    """The batch of this seed with four more examples of mask 0, whose x is about a million."""
    b = batch(seed)
    more = batch(seed + 500, 4)
    return Batch(torch.cat([b.x, 1e6 * more.x]), torch.cat([b.y, more.y]), torch.cat([b.mask, 0 * more.mask]))


def params_of(name: str) -> dict[str, Tensor]:
    """The network's, with what this adaptation learns beside it."""
    if name == "learned_steps":
        return network() | rates_for(network(), 0.3)
    return network() | learned_scalars(RIDGE | LOGISTIC | SVM, torch.ones(1))


def regression(params: Any, x: Tensor) -> Tensor:
    return predict(params, x)[:, 0]


@pytest.mark.parametrize(
    "objective",
    [
        loss,
        supervised(predict, correct),
        supervised(regression, lambda p, y: squared_error(p, y.to(p.dtype))),
    ],
    ids=["cross_entropy", "correct", "squared_error"],
)
def test_losses_and_their_gradients(objective: Callable[..., Tensor]) -> None:
    """Σ mask·ℓ / Σ mask: examples of mask 0 have weight 0 in the loss and in its gradient."""
    assert apart(objective(network(), padded(0)), objective(network(), batch(0))) < 1e-15
    assert apart(grad(objective)(network(), padded(0)), grad(objective)(network(), batch(0))) < 1e-14


ADAPTATIONS: dict[str, Adapt] = {
    "gradient_steps": gradient_steps(loss, lr=0.3, steps=3),
    "learned_steps": learned_steps(loss, steps=2),
    "prototype_head": prototype_head(features, ways=CLASSES),
    "ridge_head": ridge_head(features, ways=CLASSES),
    "logistic_head": logistic_head(features, ways=CLASSES),
    "svm_head": svm_head(features, ways=CLASSES),
    "dual_ridge_head": dual_ridge_head(features, ways=CLASSES),
    "ridge_head, then steps": chain_adaptations(
        ridge_head(features, ways=CLASSES), gradient_steps(loss, lr=0.1, steps=2)
    ),
}


@pytest.mark.parametrize("name", ADAPTATIONS)
def test_adaptations_and_meta_gradients(name: str) -> None:
    """adapt(p, padded) = adapt(p, plain), and so is the gradient of the query loss through it."""
    adapt = ADAPTATIONS[name]
    assert apart(adapt(params_of(name), padded(0)), adapt(params_of(name), batch(0))) < 1e-13
    through = grad(meta_objective(adapt, loss))
    plain = through(params_of(name), Episode(batch(0), batch(1)))
    assert apart(through(params_of(name), Episode(padded(0), padded(1))), plain) < 1e-12


@pytest.mark.parametrize("order", ["exact", "recomputed", "first", "hessian_free"])
def test_meta_objectives(order: Any) -> None:
    """Likewise each estimate of MAML's and Per-FedAvg's gradient."""
    two = grad(maml(loss, lr=0.2, steps=2, order=order))
    three = grad(three_batch(loss, lr=0.2, order=order))
    plain, more = [batch(k) for k in range(3)], [padded(k) for k in range(3)]
    assert apart(two(network(), Episode(*more[:2])), two(network(), Episode(*plain[:2]))) < 1e-11
    assert apart(three(network(), Triple(*more)), three(network(), Triple(*plain))) < 1e-11


def longer(plain: Task) -> Task:
    """The task with two more items, which are not real and hold large numbers, one of them in the middle."""
    items = tree.map(
        lambda x: torch.cat([x[:1], x[:1] * 1000 if x.is_floating_point() else x[:1], x[1:], x[-1:]]),
        plain.items,
    )
    ones = plain.real
    return Task(items, torch.cat([ones[:1], 0 * ones[:1], ones[1:], 0 * ones[:1]]), plain.examples)


@pytest.mark.parametrize("optimizer", [sgd(0.2, momentum=0.9), adam(0.05)], ids=["momentum", "adam"])
def test_training_skips_items_that_are_not_real(optimizer: Any) -> None:
    """Parameters, the optimiser's state (Adam's count too) and the mean loss are those of the real items
    alone."""
    plain = task(batch(0), batch(1), batch(2))
    a, b = (train(loss, optimizer, network(), t) for t in (plain, longer(plain)))
    assert apart(a, b) == 0
    assert apart(a.state, b.state) == 0


def test_mean_gradients_skip_items_that_are_not_real() -> None:
    """Σ over the real items / how many they are."""
    plain = task(episode(0), episode(1))
    objective = maml(loss, lr=0.2, steps=2)
    assert apart(mean_gradient(objective, network(), plain), mean_gradient(objective, network(), longer(plain))) == 0


def test_items_that_are_not_real_may_hold_anything() -> None:
    """Even what makes the loss infinite or NaN: it is computed, and thrown away."""
    plain = task(batch(0), batch(1))
    worse = longer(plain)
    worse = worse._replace(
        items=worse.items._replace(
            x=torch.where(worse.real[:, None, None] > 0, worse.items.x, torch.tensor(float("nan")))
        )
    )
    assert apart(train(loss, sgd(0.2), network(), plain), train(loss, sgd(0.2), network(), worse)) == 0


def test_a_mean_over_nothing_is_zero() -> None:
    """No division by zero where a batch has no real example, and no gradient."""
    nothing = batch(0)._replace(mask=torch.zeros(6))
    assert float(masked_mean(torch.ones(6), nothing.mask)) == 0
    assert apart(grad(loss)(network(), nothing), tree.zeros_like(network())) == 0


def test_a_loss_that_averages_by_itself_is_refused() -> None:
    """It would count padding; the message says what to give instead."""
    with pytest.raises(ValueError, match="reduction='none'"):
        supervised(predict, lambda p, y: cross_entropy(p, y).mean())(network(), batch(0))
