"""The mean in whole numbers: the same in whatever order messages arrive, and on whatever machine they are added up."""

from dataclasses import dataclass

from torch import Tensor

from seedbed import tree
from seedbed.privacy.secure.encoding import flatten, unflatten
from seedbed.privacy.secure.fixed_point import FixedPointGrid
from seedbed.privacy.secure.in_process import add_words
from seedbed.tree import Tree


@dataclass(frozen=True)
class FixedPointMean:
    """Σ w·x / Σ w on a grid: leaves [C, ...] and weights [C] -> leaves [...].

    Weights are in parts of the grid's cap, or without one of the largest of the round. Numbers beyond the grid are cut;
    who minds refuses them before.
    """

    grid: FixedPointGrid
    linear = False  # parts of the sum are not for floating-point numbers to join

    def __call__(self, stacked: Tree, weights: Tensor) -> Tree:
        heaviest = 1.0 if self.grid.cap else float(weights.max())
        words = [self.grid.encode(flatten(tree.index(stacked, i)), float(w) / heaviest) for i, w in enumerate(weights)]
        return unflatten(self.grid.decode(add_words(words))[0], tree.index(stacked, 0))
