"""Gradient steps of the linear layer in which a model ends, and of nothing else: the body runs once.

Where only the head adapts (ANIL: Raghu, Raghu, Bengio and Vinyals, ICLR 2020, arXiv 1909.09157, equation 2), the body
gives it the same features X in every step. With Z = XWᵀ + b and D_j the gradient of the mean loss at Z_j, a step
W ← W − αD_jᵀX, b ← b − αD_jᵀ1 moves Z by −αKD_j, where K = XXᵀ + 11ᵀ (XXᵀ, if the bias stays). So

    Z_{j+1} = Z_j − αKD_j,    W_k = W_0 − α(Σ_j D_j)ᵀX,    b_k = b_0 − α(Σ_j D_j)ᵀ1.

Of cross-entropy over n examples D = (softmax(Z) − Y)/n for one-hot labels Y; a row of its derivative, (diag p − ppᵀ)/n,
is what the Hessian of softmax regression, Σ (diag p − ppᵀ) ⊗ xxᵀ/n, is made of. So a meta-gradient differentiates once
what it would twice, is exact, and reaches the body through X.

Shapes: B rows of features (examples, or the places of a sequence in them), F features, N outputs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from seedbed import tree
from seedbed.data.types import Batch
from seedbed.learning.guarding import guarded_path
from seedbed.learning.objectives import Predict, Supervised, cross_entropy
from seedbed.learning.passes import passing
from seedbed.learning.training import Objective, Params, gradient
from seedbed.lowrank.factored_matrix import METADATA, UnformedMatrix
from seedbed.lowrank.fast_weights import FastWeights, is_fast


class NotALinearHead(Exception):
    """What moves is not just the linear layer in which the model ends, or its features are not known; why."""


def head_steps(
    loss: Objective, still: Params, moving: Params, support: Batch, *, lr: float, steps: int, first_order: bool = False
) -> Params:
    """What gradient steps on a support set make of the parameters that move: a weight [N, F], perhaps its bias [N].

    Args:
        still: the other parameters.
        lr: α.
        first_order: treat the gradients as constants.
    Raises:
        NotAHead: the steps must go through the whole model.
    """
    if not isinstance(loss, Supervised) or not steps:
        raise NotALinearHead("the loss is not supervised(predict, loss), or there are no steps")
    weight, *bias = _layer(moving)
    w = moving[weight]
    with torch.set_grad_enabled(torch.is_grad_enabled() and not first_order):
        x, z = _passed(loss.predict, {**still, **moving}, support, [moving[n] for n in (weight, *bias)])
    d = _summed_slopes(loss, support, x, z, lr=lr, steps=steps, one=float(len(bias)))
    g = {weight: FastWeights(w, None, ((1.0, x, d),)) if is_fast(w) else d.T @ x} | {n: d.sum(0) for n in bias}
    return tree.axpy(-lr, tree.detach(g) if first_order else g, moving)


def guarded_head_steps(
    loss: Objective, still: Params, moving: Params, support: Batch, *, lr: float, steps: int
) -> Params:
    """As `head_steps`, guarded (`guarding`): the points of the path are −Σ_j α_j D_j, [B, N].

    Raises:
        NotAHead: the steps must go through the whole model.
    """
    if not isinstance(loss, Supervised) or not steps:
        raise NotALinearHead("the loss is not supervised(predict, loss), or there are no steps")
    weight, *bias = _layer(moving)
    x, z = _passed(loss.predict, {**still, **moving}, support, [moving[n] for n in (weight, *bias)])
    (rows, _), (*places, outputs) = x.shape, z.shape
    slope, of_outputs = _slope(loss, support, z), replace(loss, predict=lambda z, x: z)

    def outputs_at(u: Tensor) -> Tensor:
        return z + (x @ (x.T @ u) + len(bias) * u.sum(0)).reshape(*places, outputs)

    def value(u: Tensor) -> Tensor:
        return of_outputs(outputs_at(u), support)

    def both(u: Tensor) -> tuple[Tensor, Tensor]:
        now = outputs_at(u)
        return slope(now).reshape(rows, outputs), of_outputs(now, support)

    start = torch.zeros_like(z).reshape(rows, outputs)
    u = guarded_path(both, value, start, lr=lr, steps=steps)[-1]
    return tree.add(moving, {weight: u.T @ x} | {n: u.sum(0) for n in bias})


def _layer(moving: Params) -> list[str]:
    """The names of the weight and, if it moves, the bias."""
    found = {p.ndim: n for n, p in moving.items() if isinstance(p, Tensor)}
    names = [found[ndim] for ndim in (2, 1) if ndim in found]
    if 2 not in found or len(names) < len(moving):
        raise NotALinearHead("what moves is not one weight, or one weight and one bias")
    if isinstance(moving[names[0]], UnformedMatrix) and not is_fast(moving[names[0]]):
        raise NotALinearHead("the weight is factored, and is not differentiated yet")
    return names


def _summed_slopes(
    loss: Supervised, support: Batch, x: Tensor, z: Tensor, *, lr: float, steps: int, one: float
) -> Tensor:
    """Σ_j D_j: [B, N].

    Args:
        x: [B, F].  z: Z_0, [..., N].
        one: 1 if the bias moves, else 0.
    """
    (rows, features), (*places, outputs) = x.shape, z.shape
    slope = _slope(loss, support, z)
    d = total = slope(z).reshape(rows, outputs)
    fewer = rows * (features + steps * outputs) < 2 * steps * features * outputs  # operations with K than without
    kernel = x @ x.T + one if fewer and steps > 1 else None
    z = z.reshape(rows, outputs)
    for _ in range(steps - 1):
        if kernel is not None:
            z = torch.addmm(z, kernel, d, alpha=-lr)
        else:
            z = torch.addmm(z - lr * one * d.sum(0), x, x.T @ d, alpha=-lr)
        d = slope(z.reshape(*places, outputs)).reshape(rows, outputs)
        total = total + d
    return total


def _slope(loss: Supervised, support: Batch, z: Tensor) -> Callable[[Tensor], Tensor]:
    """Z -> D, of its shape [..., N], in a form that can be differentiated."""
    if loss.loss is cross_entropy and z.ndim == 2 and z.shape[:1] == support.y.shape == support.mask.shape:
        share = (support.mask / support.mask.sum().clamp_min(1))[:, None].to(z.dtype)
        minus_y = torch.zeros_like(z).scatter(-1, support.y[:, None], -share)
        return lambda z: torch.addcmul(minus_y, z.softmax(-1), share)
    of_outputs = replace(loss, predict=lambda z, x: z)
    return lambda z: gradient(of_outputs, z, support)[0]


class _Watching(TorchFunctionMode):
    """Sees to it that a pass uses a layer's parameters in one call of `F.linear`, nowhere else, and ends there."""

    def __init__(self, layer: Sequence[Tensor]):
        super().__init__()
        self.layer = layer
        self.given: Tensor | None = None
        self.gave: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in METADATA:
            return func(*args, **kwargs)
        if self.gave is not None:
            raise NotALinearHead("something is computed after the layer that moves")
        kind = self.layer[0].device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            raise NotALinearHead("products are in another precision")
        uses = sum(any(part is p for p in self.layer) for part in _parts((args, kwargs)))
        if not uses:
            return func(*args, **kwargs)
        whole = len(args) > len(self.layer) and all(a is p for a, p in zip(args[1:], self.layer, strict=False))
        if func is not F.linear or not whole or uses != len(self.layer):
            raise NotALinearHead("what moves is used otherwise than as one linear layer")
        self.given, self.gave = args[0], func(*args, **kwargs)
        return self.gave


def _passed(predict: Predict, params: Params, batch: Batch, layer: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """What the layer is given [B, F], and what it and so the model gives [..., N]."""
    watching, before, x = _Watching(layer), _generators(batch.x), batch.x
    with passing(batch) as now, watching:
        z = predict(params, x)
    if now.drew:  # in each step other numbers
        raise NotALinearHead("the model draws at random")
    if not all(map(torch.equal, before, _generators(x))):  # so that features differ from step to step
        torch.set_rng_state(before[0])
        for state in before[1:]:
            torch.cuda.set_rng_state(state, x.device)
        raise NotALinearHead("the model draws random numbers")
    if watching.given is None or z is not watching.gave:
        raise NotALinearHead("the model does not end in the layer that moves")
    return watching.given.reshape(-1, watching.given.shape[-1]), z


def _generators(x: Tensor) -> list[Tensor]:
    """The states of the generators from which a model on this tensor's device may draw.

    While a GPU records it cannot be asked; but what draws there is not believed (`engines.recording`). Where
    tensors have no numbers, nor have states.
    """
    if x.is_meta:
        return []
    asked = x.is_cuda and not torch.cuda.is_current_stream_capturing()
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(x.device)] if asked else [])]


def _parts(given: Any) -> Iterator[Any]:
    """What is in tuples, lists and dicts."""
    if isinstance(given, tuple | list | dict):
        for part in given.values() if isinstance(given, dict) else given:
            yield from _parts(part)
    else:
        yield given
