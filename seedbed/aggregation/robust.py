"""What robust rules share: messages as rows, how many of them may be hostile, and steps before a rule.

A rule sees every message of a round, whole: all leaves are laid side by side to one row, so that distances and norms
are over all of a message, whatever its structure. A message that is not finite is no message: it is set aside before
any rule. Every client counts the same unless `weighted` is asked for, because a weight is what a client says of itself.

Shapes: n messages, P numbers of a message.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from seedbed import tree
from seedbed.errors import InputError
from seedbed.tree import Tree

Rule = Callable[[Tensor, Tensor], Tensor]  # rows [n, P], shares [n] that sum to 1 -> [P]
Step = Callable[[Tensor], Tensor]  # rows [n, P] -> rows [n, P]
Hostile = int | float  # how many: a count, or a fraction of the messages that count, rounded up

COLUMN_BLOCK = 2**16  # coordinates of all messages that are looked at in double precision at once


class TooFewMessages(InputError):
    """A round has too few messages for the rule that is to reduce them."""


class Robust:
    """A reducer that needs each message: steps, one after another, and then a rule.

    Args:
        steps: each changes the messages and keeps their number.
        weighted: clients count by their weights; False: all the same.
    """

    linear = False

    def __init__(self, name: str, rule: Rule, *, steps: tuple[Step, ...] = (), weighted: bool = False):
        self.name, self.rule, self.steps, self.weighted = name, rule, steps, weighted

    def __call__(self, stacked: Tree, weights: Tensor) -> Tree:
        """
        Raises:
            TooFew: fewer messages, or fewer finite ones, than the rule needs.
        """
        leaves = tree.leaves(stacked)
        if not leaves:
            return stacked
        rows = flattened(stacked)
        rows = rows if rows.is_floating_point() else rows.double()
        good = torch.isfinite(rows).all(1)
        if not good.all():
            rows, weights = rows[good], weights[good]
        if not len(rows):
            raise TooFewMessages(f"{self.name} has no message with finite numbers to reduce")
        shares = weights.double() if self.weighted else torch.ones(len(rows), dtype=torch.float64, device=rows.device)
        for step in self.steps:
            rows = step(rows)
        return unflattened(self.rule(rows, shares / shares.sum()), stacked)

    def __repr__(self) -> str:
        return self.name


def chain_rules(*parts: Robust) -> Robust:
    """Steps before a rule: chain(nnm(), trimmed_mean()). All but the last must be steps."""
    *before, last = parts
    steps = tuple(step for part in before for step in part.steps)
    return Robust("+".join(map(str, parts)), last.rule, steps=(*steps, *last.steps), weighted=last.weighted)


def max_byzantine(f: Hostile, n: int, name: str, least: Callable[[int], int]) -> int:
    """How many of n messages a rule is to withstand.

    Args:
        least: how many messages the rule needs to withstand so many.
    Raises:
        TooFew: n is less than that.
    """
    if not (f >= 0 if isinstance(f, int) else 0 <= f < 0.5):
        raise InputError(f"{name} with f={f}: give a count from 0 up, or a fraction from 0 to below 0.5")
    count = f if isinstance(f, int) else math.ceil(f * n - 1e-9)
    if n < least(count):
        raise TooFewMessages(
            f"{name} with f={f} needs at least {least(count)} messages a round to withstand {count} hostile ones, but "
            f"has {n}: lower f, or ask more clients (cohort)"
        )
    return count


def by_columns(f: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """f, [n, k] -> [..., k], on the columns of rows [n, P] in double precision, some at a time: [..., P]."""
    found = [f(part.double()) for part in torch.split(rows, COLUMN_BLOCK, 1)]
    return torch.cat(found, -1).to(rows.dtype)


def weighted_rows(rows: Tensor, shares: Tensor) -> Tensor:
    """Σ share·row: [n, P], [n] -> [P], or [m, n] -> [m, P]. Shares sum to 1: nothing finite overflows on the way."""
    return by_columns(lambda part: shares @ part, rows)


def distances(rows: Tensor) -> Tensor:
    """‖x_i − x_j‖²: [n, n], in double precision, infinite where it overflows."""
    n = len(rows)
    pairs = torch.stack([torch.pdist(part.double()).square() for part in torch.split(rows, COLUMN_BLOCK, 1)]).sum(0)
    i, j = torch.triu_indices(n, n, 1, device=rows.device)
    found = pairs.new_zeros(n, n)
    found[i, j] = found[j, i] = pairs
    return found


def row_norms(rows: Tensor) -> Tensor:
    """‖x_i‖: [n], in double precision."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norms


def median_of(ordered: Tensor) -> Tensor:
    """The median of n values in order, the mean of the middle two where n is even: [n, ...] -> [...]."""
    n = len(ordered)
    return ordered[(n - 1) // 2] / 2 + ordered[n // 2] / 2


def flattened(stacked: Tree) -> Tensor:
    """Leaves [n, ...] side by side: [n, P]."""
    return torch.cat([leaf.reshape(len(leaf), -1) for leaf in tree.leaves(stacked)], 1)


def unflattened(row: Tensor, stacked: Tree) -> Tree:
    """[P] -> a tree like those that were stacked; whole numbers are rounded."""
    leaves = tree.leaves(stacked)
    parts = torch.split(row, [leaf[0].numel() for leaf in leaves])

    def shaped(part: Tensor, leaf: Tensor) -> Tensor:
        return (part if leaf.is_floating_point() else part.round()).reshape(leaf.shape[1:]).to(leaf.dtype)

    return tree.with_leaves(stacked, [shaped(*pair) for pair in zip(parts, leaves, strict=True)])
