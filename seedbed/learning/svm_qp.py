"""The dual of a multi-class support vector machine: a quadratic program, solved for many tasks at once and exactly
differentiated.

    minimise ½ Σ_k α_kᵀ K α_k − ⟨Y, α⟩   over α [N, W]   subject to   α ≤ C·Y  and  Σ_k α_k = 0

Crammer and Singer, JMLR 2001, in the form of Lee, Maji, Ravichandran and Soatto, CVPR 2019, equation 10. Its optimality
(KKT) conditions, with multipliers ν [N] of the equalities and Z [N, W] of the inequalities, and the slack S = C·Y − α:

    Kα − Y + Z + ν1ᵀ = 0,    α1 = 0,    S ≥ 0,  Z ≥ 0,    S∘Z = 0

The Hessian is K for each class apart, and the equalities tie a row's classes to each other only: every linear system
here is one of `coupled`'s.

Shapes: N examples, W classes; every tensor may have more dimensions in front, the tasks.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from seedbed.learning import class_block_solver
from seedbed.learning.class_block_solver import BlockFactors

BACKOFF = 0.995  # the part of the way to the nearest bound that a step may go
GAP_TOLERANCE = 1e-30  # a mean of S∘Z below which a task is left as it is, while others may go on


def svm_dual(kernel: Tensor, y: Tensor, real: Tensor, *, c: float = 0.1, iterations: int = 15) -> Tensor:
    """The dual variables α at the optimum, [..., N, W], differentiable in the kernel (any number of times).

    Solved by a primal-dual interior point method (Mehrotra, SIAM J. Optim. 1992: a predictor, then a corrector by the
    same factors), in double precision whatever the kernel's, with as many iterations for all tasks, so that it can be
    stacked: 15 leave KKT residuals below 1e-8 as long as C·max K is below about 1e3.

    Args:
        kernel: [..., N, N] positive definite inner products of the examples. If it were singular, the optimum would
            not be unique and had no derivative.
        y: [..., N, W] one-hot labels.
        real: [..., N, W] 1 where a variable takes part; 0 holds it at 0: an example that is padding, a class that the
            task does not have. What takes no part changes nothing.
        c: C.
    """
    alpha, _ = _Dual.apply(kernel.double(), y.double(), real.double(), c, iterations)  # type: ignore[no-untyped-call]
    found: Tensor = alpha.to(kernel.dtype)
    return found


class InteriorPoint(NamedTuple):
    """Where the interior point method is."""

    alpha: Tensor  # [..., N, W]
    nu: Tensor  # [..., N, 1]
    slack: Tensor  # [..., N, W]  > 0
    z: Tensor  # [..., N, W]  > 0


def interior_point(kernel: Tensor, y: Tensor, real: Tensor, *, c: float, iterations: int) -> InteriorPoint:
    """The optimum and its multipliers. Arguments as of `svm_dual`; nothing here is to be differentiated through."""
    p = _inside(kernel, y, real, c)
    for _ in range(iterations):
        factors = class_block_solver.factor_blocks(kernel, p.z / p.slack, real)
        gap = _gap(p.slack, p.z, real)
        predicted = _newton(factors, kernel, y, real, p, p.slack * p.z)
        ahead = _moved(p, predicted, _room(p, predicted, real))
        centring = (_gap(ahead.slack, ahead.z, real) / gap.clamp_min(GAP_TOLERANCE)) ** 3 * gap
        corrected = _newton(factors, kernel, y, real, p, p.slack * p.z + predicted.slack * predicted.z - centring)
        p = _moved(p, corrected, torch.where(gap > GAP_TOLERANCE, _room(p, corrected, real, BACKOFF), 0.0))
    return p


def kkt_residual(kernel: Tensor, y: Tensor, real: Tensor, p: InteriorPoint, *, c: float) -> Tensor:
    """The largest violation of any of the KKT conditions, for each task: [...]."""
    rows = real.amax(-1)
    found = (
        (kernel @ p.alpha - y + p.z + p.nu) * real,
        p.alpha.sum(-1, keepdim=True) * rows[..., None],
        (c * y - p.alpha - p.slack) * real,
        p.slack * p.z * real,
        p.slack.clamp_max(0) * real,
        p.z.clamp_max(0) * real,
    )
    return torch.stack([x.abs().amax((-2, -1)) for x in found]).amax(0)


class _Dual(torch.autograd.Function):
    """α as a function of K, by the implicit function theorem at the optimum.

    Where a bound is active, α stays at it; the free variables obey (Kα + ν1ᵀ)_free = Y_free and α1 = 0. So a change dK
    moves them by dα = −P(dK·α), with P the solution of that linear system, which is symmetric: the backward of G is
    −(PG)αᵀ, made symmetric as K is. It costs one solve, and autograd can go through it again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(kernel: Tensor, y: Tensor, real: Tensor, c: float, iterations: int) -> tuple[Tensor, Tensor]:
        p = interior_point(kernel, y, real, c=c, iterations=iterations)
        return p.alpha, real * (p.slack > p.z).to(real.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        alpha, free = output
        ctx.mark_non_differentiable(free)
        ctx.save_for_backward(inputs[0], alpha, free)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        kernel, alpha, free = ctx.saved_tensors
        factors = class_block_solver.factor_blocks(kernel, torch.zeros_like(free), free)
        moved, _ = class_block_solver.solve_blocks(factors, gradients[0], torch.zeros_like(alpha[..., :1]))
        product = -moved @ alpha.mT
        return (product + product.mT) / 2, None, None, None, None


def _inside(kernel: Tensor, y: Tensor, real: Tensor, c: float) -> InteriorPoint:
    """A strictly feasible point: a for the right class, −a over the others, and ν so low that Z ≥ 1.

    a = ½√(C·min(C, 1/max K)) lies between half the bound and the scale of a hard margin's solution.
    """
    largest = kernel.diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None]
    size = (c / largest.clamp_min(1 / c)).sqrt() / 2
    others = (real - y).clamp_min(0)
    count = others.sum(-1, keepdim=True)
    alpha = size * torch.where(count > 0, y - others / count.clamp_min(1), 0.0)
    slack = torch.where(real > 0, c * y - alpha, 1.0)
    pull = y - kernel @ alpha
    nu = torch.where(real > 0, pull, torch.inf).amin(-1, keepdim=True)
    nu = torch.where(nu.isinf(), 0.0, nu) - 1
    return InteriorPoint(alpha, nu, slack, torch.where(real > 0, pull - nu, 1.0))


def _newton(
    factors: BlockFactors, kernel: Tensor, y: Tensor, real: Tensor, p: InteriorPoint, product: Tensor
) -> InteriorPoint:
    """The Newton step that brings S∘Z down by `product`, and all else to where it must be."""
    residual = kernel @ p.alpha - y + p.z + p.nu
    alpha, nu = class_block_solver.solve_blocks(factors, product / p.slack - residual, -p.alpha.sum(-1, keepdim=True))
    return InteriorPoint(alpha, nu, -alpha, real * (p.z * alpha - product) / p.slack)


def _room(p: InteriorPoint, step: InteriorPoint, real: Tensor, backoff: float = 1.0) -> Tensor:
    """How much of a step, at most 1, leaves S and Z positive (times `backoff`): [..., 1, 1]."""
    s, z = (torch.where(real * d < 0, -x / d, torch.inf) for x, d in ((p.slack, step.slack), (p.z, step.z)))
    return (backoff * torch.minimum(s, z).amin((-2, -1), keepdim=True)).clamp_max(1)


def _moved(p: InteriorPoint, step: InteriorPoint, length: Tensor) -> InteriorPoint:
    return InteriorPoint(*(a + length * b for a, b in zip(p, step, strict=True)))


def _gap(slack: Tensor, z: Tensor, real: Tensor) -> Tensor:
    """The mean of S∘Z: [..., 1, 1]."""
    return (real * slack * z).sum((-2, -1), keepdim=True) / real.sum((-2, -1), keepdim=True).clamp_min(1)
