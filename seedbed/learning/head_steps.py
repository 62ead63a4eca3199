"""Gradient steps of a model's last linear layer alone, for which the body runs once.

Where only the head adapts (ANIL: Raghu, Raghu, Bengio and Vinyals, ICLR 2020, arXiv 1909.09157, equation 2), the body
gives the head the same features X in every step. With Z = XWᵀ + b and D the gradient of the mean loss with respect to
Z, a step W ← W − αDᵀX, b ← b − α·Dᵀ1 moves Z by −αKD with K = XXᵀ + 11ᵀ. So, without forming W on the way,

    Z_{j+1} = Z_j − αKD_j,    W_k = W_0 − α(Σ_j D_j)ᵀX,    b_k = b_0 − α(Σ_j D_j)ᵀ1,

and of cross-entropy over n real examples D = (softmax(Z) − Y)/n, whose derivative (diag p − ppᵀ)/n makes the Hessian
of softmax regression, Σ (diag p − ppᵀ) ⊗ xxᵀ/n. It is what steps through the whole model come to, but it is
differentiated once and not twice; the outer gradient reaches the body through X.

Shapes: B rows of features (examples, or their places), F features, N outputs.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from seedbed import tree
from seedbed.factored import METADATA, Lazy
from seedbed.fast import Fast, is_fast
from seedbed.learning.objectives import Predict, Supervised, cross_entropy
from seedbed.learning.training import Objective, Params, gradient
from seedbed.tasks.types import Batch


class NotAHead(Exception):
    """What moves is not just the linear layer in which the model ends; why."""


def head_steps(
    loss: Objective, still: Params, moving: Params, support: Batch, *, lr: float, steps: int, first_order: bool = False
) -> Params:
    """What gradient steps on a support set make of the parameters that move: a weight [N, F], perhaps its bias [N].

    Args:
        still: the other parameters.
        lr: α.
        steps: k, 1 or more.
        first_order: treat the gradients as constants.
    Raises:
        NotAHead: the steps must go through the whole model.
    """
    weight, bias = _layer(moving)
    if not isinstance(loss, Supervised):
        raise NotAHead("the loss is not a mean over examples of what the model predicts")
    if not steps:
        return moving
    with torch.set_grad_enabled(torch.is_grad_enabled() and not first_order):
        watching = _Watching(moving[weight], moving[bias] if bias else None)
        x, z = watching.passed(loss.predict, {**still, **moving}, support.x)
        d = _summed_slopes(loss, support, x, z, bias=bool(bias), lr=lr, steps=steps)
        w = moving[weight]
        g = {weight: Fast(w, None, ((1.0, x, d),)) if is_fast(w) else d.T @ x, **({bias: d.sum(0)} if bias else {})}
    return tree.axpy(-lr, tree.detach(g) if first_order else g, moving)


def _layer(moving: Params) -> tuple[str, str | None]:
    """The names of the weight and the bias that move."""
    weights = [n for n, p in moving.items() if p.ndim == 2 and (is_fast(p) or not isinstance(p, Lazy))]
    biases = [n for n, p in moving.items() if p.ndim == 1]
    if len(weights) != 1 or len(biases) > 1 or len(moving) != 1 + len(biases):
        raise NotAHead("what moves is not a weight and a bias")
    return weights[0], biases[0] if biases else None


def _summed_slopes(
    loss: Supervised, support: Batch, x: Tensor, z: Tensor, *, bias: bool, lr: float, steps: int
) -> Tensor:
    """Σ_j D_j: [B, N]."""
    (rows, features), outputs, one = x.shape, z.shape[-1], float(bias)
    least = rows * (features + steps * outputs) <= 2 * steps * features * outputs  # of operations, by K
    kernel = x @ x.T + one if least and steps > 1 else None
    slope, total = _slope(loss, support, z), []
    while True:
        total.append(slope(z).reshape(rows, outputs))
        if len(total) == steps:
            return torch.stack(total).sum(0) if steps > 1 else total[0]
        d = total[-1]
        along = kernel @ d if kernel is not None else x @ (x.T @ d) + one * d.sum(0)
        z = z - lr * along.reshape(z.shape)


def _slope(loss: Supervised, support: Batch, z: Tensor) -> Callable[[Tensor], Tensor]:
    """Z -> D, the gradient of the mean loss with respect to Z, of its shape; it can be differentiated."""
    if loss.loss is cross_entropy and z.ndim == 2 and z.shape[:1] == support.y.shape == support.mask.shape:
        share = (support.mask / support.mask.sum().clamp_min(1))[:, None].to(z.dtype)
        of_label = torch.zeros_like(z).scatter(-1, support.y[:, None], -share)
        return lambda z: torch.addcmul(of_label, z.softmax(-1), share)
    of_logits = replace(loss, predict=lambda z, x: z)
    return lambda z: gradient(of_logits, z, support)[0]


class _Watching(TorchFunctionMode):
    """Looks for one call of `F.linear` with the head's own tensors, which are used nowhere else, and nothing after."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.weight, self.bias = weight, bias
        self.given: Tensor | None = None
        self.gave: Tensor | None = None

    def passed(self, predict: Predict, params: Params, x: Tensor) -> tuple[Tensor, Tensor]:
        """A pass of the model: the head's features [B, F], and what it gives [..., N].

        A body that draws random numbers gives other features in every step; what it has drawn is put back.
        """
        before = _generators(x)
        with self:
            z = predict(params, x)
        if not all(map(torch.equal, before, _generators(x))):
            torch.set_rng_state(before[0])
            if x.is_cuda:
                torch.cuda.set_rng_state(before[1], x.device)
            raise NotAHead("the model draws random numbers")
        if self.given is None or z is not self.gave:
            raise NotAHead("the model does not end in the layer that moves")
        return self.given.reshape(-1, self.given.shape[-1]), z

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in METADATA:
            return func(*args, **kwargs)
        if self.gave is not None:
            raise NotAHead("something is computed after the layer that moves")
        if torch.is_autocast_enabled(self.weight.device.type):
            raise NotAHead("products are in another precision")
        if not any(part is p for part in _parts((args, kwargs)) for p in (self.weight, self.bias) if p is not None):
            return func(*args, **kwargs)
        if func is not F.linear:
            raise NotAHead("what moves is used otherwise than as a linear layer")
        self._linear(*args, **kwargs)
        self.gave = func(*args, **kwargs)
        return self.gave

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
        if weight is not self.weight or (bias is not self.bias and self.bias is not None):
            raise NotAHead("what moves is not the weight and the bias of one linear layer")
        self.given = x


def _parts(given: Any) -> Iterator[Any]:
    """What is in tuples, lists and dicts."""
    if isinstance(given, tuple | list | dict):
        for part in given.values() if isinstance(given, dict) else given:
            yield from _parts(part)
    else:
        yield given


def _generators(x: Tensor) -> list[Tensor]:
    """Where the generators are that a model on this tensor's device draws from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(x.device)] if x.is_cuda else [])]
