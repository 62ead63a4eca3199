"""The mean in fixed-point arithmetic: independent of the order of messages and of the machine."""

from dataclasses import dataclass

from torch import Tensor

from seedbed import tree
from seedbed.privacy.secure.encoding import flatten, unflatten
from seedbed.privacy.secure.fixed_point import FixedPointGrid
from seedbed.privacy.secure.in_process import add_words
from seedbed.tree import Tree


@dataclass(frozen=True)
class FixedPointMean:
    """Σ w·x / Σ w on a fixed-point grid: leaves [C, ...] and weights [C] → leaves [...].

    Weights are fractions of the grid's cap, or, without a cap, of the round's largest weight. Numbers outside the grid
    are clipped; refuse them beforehand if that matters.
    """

    grid: FixedPointGrid
    linear = False  # partial sums must not be combined in floating point

    def __call__(self, stacked: Tree, weights: Tensor) -> Tree:
        heaviest = 1.0 if self.grid.cap else float(weights.max())
        words = [self.grid.encode(flatten(tree.index(stacked, i)), float(w) / heaviest) for i, w in enumerate(weights)]
        return unflatten(self.grid.decode(add_words(words))[0], tree.index(stacked, 0))
