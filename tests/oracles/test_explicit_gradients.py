"""Objectives that come with their gradient: it is the derived one, and can itself be differentiated."""

from typing import Any

import pytest
import torch
from torch.func import grad, grad_and_value, vmap

from seedbed import tree
from seedbed.learning.objectives import cross_entropy, proximal, softmax_regression, supervised
from seedbed.learning.training import gradient

from .bench import CLASSES, INPUTS, apart, batch, bowl, bowls, start


def line(seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {"weight": torch.randn(CLASSES, INPUTS, generator=g), "bias": torch.randn(CLASSES, generator=g)}


@pytest.mark.parametrize("padding", [0, 3])
def test_softmax_regression(padding: int) -> None:
    """Pᵀx/B and ΣP/B against the gradient that autograd derives from the same loss, padding of 1e6 and all."""
    derived = supervised(lambda p, x: x @ p["weight"].T + p["bias"], cross_entropy)
    item = batch(1, 6, padding)
    got, value = gradient(softmax_regression(), line(), item)
    want, same = grad_and_value(derived)(line(), item)
    assert apart(got, want) < 1e-14
    assert apart([value, softmax_regression()(line(), item)], [same, same]) < 1e-14


def test_large_logits_do_not_overflow() -> None:
    """exp of a logit of 1e4 is infinite; the softmax is 0 or 1."""
    params = tree.scale(1e4, line())
    slope, value = gradient(softmax_regression(), params, batch(0))
    assert tree.is_finite([slope, value])


def test_near_adds_mu_times_the_distance() -> None:
    """∇[L + (μ/2)‖w − θ‖²] = ∇L + μ(w − θ) and its value, against autograd on the sum itself."""
    w, theta, item = start(2), start(1), bowls(1)[0]
    pulled = proximal(bowl, theta, 0.7)
    got, value = gradient(pulled, w, item)
    want, same = grad_and_value(lambda p: pulled(p, item))(w)
    assert apart([got, value], [want, same]) < 1e-14


def test_both_under_vmap_and_through_each_other() -> None:
    """Five clients of softmax regression at once, pulled to anchors of their own: as one after another."""
    params, anchors = (tree.stack([line(s + k) for k in range(5)]) for s in (0, 10))
    items = tree.stack([batch(k) for k in range(5)])

    def slope(p: Any, anchor: Any, item: Any) -> Any:
        return gradient(proximal(softmax_regression(), anchor, 0.3), p, item)

    at_once = vmap(slope)(params, anchors, items)
    singly = tree.stack([slope(*(tree.index(part, k) for part in (params, anchors, items))) for k in range(5)])
    assert apart(at_once, singly) < 1e-14


def test_the_gradient_can_be_differentiated() -> None:
    """½‖∇L + μ(w − θ)‖² has the gradient (A + μI)(A(w − c) + μ(w − θ)): what differentiating through an inner step
    needs."""
    item, theta, w, mu = bowls(1)[0], start(1), start(2), 0.4

    def half_square(p: Any) -> torch.Tensor:
        return 0.5 * tree.squared_norm(gradient(proximal(bowl, theta, mu), p, item)[0])

    slope = item["A"] @ (w["w"] - item["c"]) + mu * (w["w"] - theta["w"])
    assert apart(grad(half_square)(w)["w"], item["A"] @ slope + mu * slope) < 1e-13
