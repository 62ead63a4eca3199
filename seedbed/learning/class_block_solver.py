"""Linear systems that have a block of their own for every class, tied together by a sum over classes.

    (K + diag(d_k)) x_k + ν = r_k  for each class k,    Σ_k x_k = e

is what a step of Newton's method comes to where scores are linear in the kernel K: for the dual of a support vector
machine (`quadratic`), and for softmax regression (`heads.logistic_head`). Eliminating the x_k leaves one system for ν,
so W + 1 systems of N × N are solved instead of one of (W + 1)N.

Shapes: N examples, W classes; every tensor may have more dimensions in front, the tasks.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class BlockFactors(NamedTuple):
    inverse: Tensor  # [..., W, N, N]  of K + diag(d_k) among the real variables of each class, 0 elsewhere
    schur: Tensor  # [..., N, N]  Cholesky factor of the system for ν


def factor_blocks(kernel: Tensor, d: Tensor, real: Tensor) -> BlockFactors:
    """What `solve` needs.

    Args:
        kernel: [..., N, N] positive semidefinite.
        d: [..., N, W] from 0 up; positive where the kernel is singular.
        real: [..., N, W] 1 where a variable takes part; the others are 0 in every solution.
    """
    both = real.mT[..., :, None] * real.mT[..., None, :]  # [..., W, N, N]
    own = torch.where(real > 0, d, 1.0).mT
    blocks = both * kernel[..., None, :, :] + torch.diag_embed(own)
    eye = torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device).expand_as(blocks)
    inverse = both * torch.cholesky_solve(eye, _cholesky(blocks))
    missing = 1 - real.amax(-1)
    return BlockFactors(inverse, _cholesky(inverse.sum(-3) + torch.diag_embed(missing)))


def solve_blocks(factors: BlockFactors, r: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """x [..., N, W] and ν [..., N, 1] for the right sides r [..., N, W] and e [..., N, 1]."""
    apart = _times(factors.inverse, r)
    nu = torch.cholesky_solve(apart.sum(-1, keepdim=True) - e, factors.schur)
    return apart - _times(factors.inverse, nu.expand_as(r)), nu


def _times(blocks: Tensor, x: Tensor) -> Tensor:
    """Column k of x [..., N, W] times block k of [..., W, N, N]."""
    return (blocks @ x.mT[..., None])[..., 0].mT


def _cholesky(matrix: Tensor) -> Tensor:
    """The lower factor. A matrix that has none gives numbers that mean nothing, not an error: it may be of a task of
    the stack that is padding."""
    lower: Tensor = torch.linalg.cholesky_ex(matrix).L
    return lower
