"""Clip a client's whole contribution to a bound, which limits how much one client can change the sum."""

import torch
from torch import Tensor

from seedbed import tree
from seedbed.lowrank.factored_matrix import Factored, LongestRow
from seedbed.tree import Tree

MIN_SHORTENING = 1e-12  # form a factored matrix if C/norm is below this, or lost/C above it


def clip_contribution(value: Tree, bound: float | Tensor) -> tuple[Tree, Tensor]:
    """value·min(1, C/‖value‖), with the L2 norm over all leaves, and whether ‖value‖ ≤ C (1 or 0), [].

    A value that is not finite becomes zero; zero stays zero. Norms are computed in double precision, whatever the
    leaves' type. Clipped values are scaled by eight roundings more, so that rounding cannot carry them over C. Scaling
    is relative to the largest number: C/‖value‖ itself may be too small for a float to hold all its digits.

    A factored matrix (`seedbed.lowrank.factored_matrix`) stays factored. Its norm is an upper bound from sums over Gram
    matrices; with a few hundred rows in single precision the bound is 1e-5 too long. The matrix is formed where no
    bound exists or the bound is loose.
    """
    longest: list[LongestRow | None] = [_longest(x, bound) for x in tree.leaves(value)]
    leaves = [
        tree.form_unformed(x) if known is None else x for x, known in zip(tree.leaves(value), longest, strict=True)
    ]
    value = tree.with_leaves(value, leaves)
    lengths = list(zip(leaves, longest, strict=True))
    largest = torch.stack([_largest(x, known) for x, known in lengths]).max()
    unit = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
    length = torch.stack([_square(x, known, unit) for x, known in lengths]).sum().sqrt()  # in units
    bound = bound - sum(known.lost for known in longest if known is not None)
    norm = unit * length
    within = norm <= bound
    shortened = bound / torch.where(within, 1.0, length)
    finite = norm.isfinite() & largest.isfinite()

    def shorten(x: Tensor) -> Tensor:
        factor = shortened * (1 - 8 * torch.finfo(x.dtype).eps)
        short = x * (factor / unit) if isinstance(x, Factored) else (x.double() / unit * factor).to(x.dtype)
        return torch.where(finite, torch.where(within, x, short), torch.zeros_like(x))

    return tree.map(shorten, value), within.to(leaves[0].dtype)


def _longest(x: Tensor, bound: float | Tensor) -> LongestRow | None:
    """The norm bound of a factored matrix that can stay factored; None for any other leaf."""
    known = x.longest() if isinstance(x, Factored) else None
    if known is None or known.norm * MIN_SHORTENING > float(bound) or known.lost > MIN_SHORTENING * float(bound):
        return None
    return known


def _largest(x: Tensor, known: LongestRow | None) -> Tensor:
    """The largest absolute number of x, or a bound on it: []."""
    if known is not None:
        return torch.tensor(known.norm, dtype=torch.float64, device=x.device)
    return (x.detach().abs().max() if x.numel() else x.new_zeros(())).double()


def _square(x: Tensor, known: LongestRow | None, unit: Tensor) -> Tensor:
    """‖x‖² in units² : []."""
    return ((x.double() if known is None else _largest(x, known)) / unit).square().sum()
