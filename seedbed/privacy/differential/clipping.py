"""A client's whole contribution, shortened to a bound: what makes it possible to say how much one client can change."""

import torch
from torch import Tensor

from seedbed import tree
from seedbed.tree import Tree


def clipped(value: Tree, bound: float | Tensor) -> tuple[Tree, Tensor]:
    """value·min(1, C/‖value‖), the norm over all leaves together; and whether it was within C [] (1 or 0).

    A value that is not finite contributes zero; one of zero stays zero. Norms are in double precision, whatever the
    leaves are, and what is shortened is shortened by eight roundings more, so that no rounding carries it over C. It is
    shortened in units of its largest number: C/‖value‖ itself may be too small for a float to hold all its digits.
    """
    leaves = tree.leaves(value)
    largest = torch.stack([x.detach().abs().max() if x.numel() else x.new_zeros(()) for x in leaves]).max().double()
    unit = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
    length = torch.stack([((x.double() / unit) ** 2).sum() for x in leaves]).sum().sqrt()  # in units
    norm = unit * length
    within = norm <= bound
    shortened = bound / torch.where(within, 1.0, length)
    finite = norm.isfinite() & largest.isfinite()

    def shorten(x: Tensor) -> Tensor:
        factor = shortened * (1 - 8 * torch.finfo(x.dtype).eps)
        kept = torch.where(within, x, (x.double() / unit * factor).to(x.dtype))
        return torch.where(finite, kept, torch.zeros_like(x))

    return tree.map(shorten, value), within.to(leaves[0].dtype)
