"""A client's whole contribution, shortened to a bound: what makes it possible to say how much one client can change."""

import torch
from torch import Tensor

from seedbed import tree
from seedbed.lowrank.factored_matrix import Factored, LongestRow
from seedbed.tree import Tree

MIN_SHORTENING = 1e-12  # a factored matrix that is to become shorter than by this, or loses as much of it, is formed


def clip_contribution(value: Tree, bound: float | Tensor) -> tuple[Tree, Tensor]:
    """value·min(1, C/‖value‖), the norm over all leaves together; and whether it was within C [] (1 or 0).

    A value that is not finite contributes zero; one of zero stays zero. Norms are in double precision, whatever the
    leaves are, and what is shortened is shortened by eight roundings more, so that no rounding carries it over C. It is
    shortened in units of its largest number: C/‖value‖ itself may be too small for a float to hold all its digits.

    A factored matrix (`seedbed.lowrank.factored_matrix`) stays one. It counts with an upper bound on its norm, from
    sums over Gram matrices, which a few hundred rows in single precision make 1e-5 longer than it is. Where that bound
    cannot be given, or is loose, the matrix is formed.
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
    """Of a factored matrix that need not be formed; of any other leaf None."""
    known = x.longest() if isinstance(x, Factored) else None
    if known is None or known.norm * MIN_SHORTENING > float(bound) or known.lost > MIN_SHORTENING * float(bound):
        return None
    return known


def _largest(x: Tensor, known: LongestRow | None) -> Tensor:
    """The largest of its numbers, or a bound on them: []."""
    if known is not None:
        return torch.tensor(known.norm, dtype=torch.float64, device=x.device)
    return (x.detach().abs().max() if x.numel() else x.new_zeros(())).double()


def _square(x: Tensor, known: LongestRow | None, unit: Tensor) -> Tensor:
    """‖x‖² in these units: []."""
    return ((x.double() if known is None else _largest(x, known)) / unit).square().sum()
