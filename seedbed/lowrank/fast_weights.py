"""Fast weights in factored form: a dense layer after inner gradient steps that are differentiated through.

After j inner steps W_j = W − α·Σ_i D_iᵀX_i, with X_i the layer's input in step i and D_i the gradient at its output.
The layer computes x·Wᵀ − α·Σ_i (x·X_iᵀ)·D_i, and the outer gradient flows through X_i and D_i as through any tensor.
With respect to W it is again a sum of outer products, whose rows `GradRecorder` records. So neither W_j nor a gradient
of its shape is ever formed or stored.

Shapes: O outputs and I inputs of a layer, B rows of a batch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seedbed.lowrank.factored_matrix import GradRecorder, NotFactorable, UnformedMatrix, recorded_product, unformed_like

OuterTerms = tuple[tuple[float, Tensor, Tensor], ...]  # c, X [B, I] and D [B, O] of c·DᵀX


class FastWeights(UnformedMatrix):
    """W + Σ c·DᵀX, or the sum without W: [O, I].

    Args:
        like: a tensor with its shape, type and device.
        base: W; None: no base.
        terms: the outer products.
        calls: list that receives each call's input and output, [B, I] and [B, O]; None: not recorded.
    """

    base: GradRecorder | None
    terms: OuterTerms
    calls: list[tuple[Tensor, Tensor]] | None

    def __new__(
        cls,
        like: Tensor,
        base: GradRecorder | None,
        terms: OuterTerms,
        calls: list[tuple[Tensor, Tensor]] | None = None,
    ) -> "FastWeights":
        weights: FastWeights = unformed_like(cls, like.shape, like)
        weights.base, weights.terms, weights.calls = base, terms, calls
        return weights

    def dense(self) -> Tensor:
        raise NotFactorable

    def applied(self, x: Tensor) -> Tensor:
        """x·selfᵀ: [B, I] → [B, O]."""
        y = x.new_zeros(len(x), self.shape[0]) if self.base is None else recorded_product(x, self.base)
        if self.terms:
            inputs = torch.cat([inputs_of_term for _, inputs_of_term, _ in self.terms])
            slopes = torch.cat([slope for _, _, slope in self.terms])
            c = torch.cat([x.new_full((len(inputs_of_term),), c) for c, inputs_of_term, _ in self.terms])
            y = torch.addmm(y, (x @ inputs.T) * c, slopes)
        return y


def _of(x: Any) -> FastWeights:
    if isinstance(x, GradRecorder):
        return FastWeights(x, x, ())
    if not isinstance(x, FastWeights):
        raise NotFactorable
    return x


def _times(a: Any, b: Any) -> FastWeights:
    number, matrix = (b, a) if isinstance(a, UnformedMatrix) else (a, b)
    if not isinstance(number, int | float) or _of(matrix).base is not None:
        raise NotFactorable
    return FastWeights(matrix, None, tuple((number * c, x, d) for c, x, d in _of(matrix).terms))


def _plus(a: Any, b: Any) -> FastWeights:
    a, b = _of(a), _of(b)
    if a.base is not None and b.base is not None:
        raise NotFactorable
    return FastWeights(a, b.base if a.base is None else a.base, a.terms + b.terms)


def _detach(a: Any) -> FastWeights:
    if _of(a).base is not None:
        raise NotFactorable
    return FastWeights(a, None, tuple((c, x.detach(), d.detach()) for c, x, d in _of(a).terms))


def _linear(x: Any, weight: Any, bias: Any = None) -> Tensor:
    if not isinstance(weight, FastWeights) or isinstance(x, UnformedMatrix) or isinstance(bias, UnformedMatrix):
        raise NotFactorable
    inputs = x.reshape(-1, x.shape[-1])
    outputs = weight.applied(inputs)
    if weight.calls is not None:
        weight.calls.append((inputs, outputs))
    y: Tensor = outputs.reshape(*x.shape[:-1], -1)
    return y if bias is None else y + bias


FastWeights.known = {
    **dict.fromkeys((torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__), _plus),
    **dict.fromkeys((torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__), _times),
    **dict.fromkeys((torch.detach, Tensor.detach), _detach),
    F.linear: _linear,
}


def is_fast(leaf: Tensor) -> bool:
    """Whether a parameter is a factored layer whose steps can be differentiated through."""
    return isinstance(leaf, FastWeights | GradRecorder)


def fast_gradients(
    loss: Callable[[Sequence[Tensor]], Tensor], leaves: Sequence[Tensor], beside: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """The gradient of loss(leaves) [] with respect to each leaf, differentiable again, and the loss.

    Args:
        loss: of the leaves.
        leaves: parameters, factored or not.
        beside: other matrices that the loss uses.
    """
    calls: list[list[tuple[Tensor, Tensor]]] = [[] for _ in leaves]
    points = [_with_calls(leaf, own) for leaf, own in zip(leaves, calls, strict=True)]
    value = loss(points)
    plain = [point for point in points if not isinstance(point, FastWeights)]
    outputs = [y for own in calls for _, y in own]
    logs = {id(rows): rows for leaf in (*leaves, *beside) if is_fast(leaf) for rows in _logs(leaf)}
    for rows in logs.values():
        rows.listens = False
    try:
        grads = iter(torch.autograd.grad(value, [*plain, *outputs], create_graph=True, materialize_grads=True))
    finally:
        for rows in logs.values():
            rows.listens = True
    of_plain = [None if isinstance(point, FastWeights) else next(grads) for point in points]
    of_fast = [tuple((1.0, x, next(grads)) for x, _ in own) for own in calls]
    gradients = [
        FastWeights(leaf, None, terms) if g is None else g
        for leaf, g, terms in zip(leaves, of_plain, of_fast, strict=True)
    ]
    return gradients, value


def _with_calls(leaf: Tensor, calls: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The leaf as the point of differentiation, which records its calls."""
    if is_fast(leaf):
        return FastWeights(leaf, _of(leaf).base, _of(leaf).terms, calls)
    return leaf.view_as(leaf) if leaf.requires_grad else leaf.detach().requires_grad_()


def _logs(leaf: Tensor) -> list[Any]:
    base = _of(leaf).base
    return [] if base is None else [base.matrix.rows]
