"""The mean in whole numbers: the same in whatever order messages arrive, and on whatever machine they are added up."""

from dataclasses import dataclass

from torch import Tensor

from seedbed import tree
from seedbed.privacy.secure.encoding import flat, unflat
from seedbed.privacy.secure.fixed_point import Grid
from seedbed.privacy.secure.in_process import added
from seedbed.tree import Tree


@dataclass(frozen=True)
class WholeMean:
    """Σ w·x / Σ w on a grid: leaves [C, ...] and weights [C] -> leaves [...].

    Weights are in parts of the grid's cap, or without one of the largest of the round. Numbers beyond the grid are cut;
    who minds refuses them before.
    """

    grid: Grid
    linear = False  # parts of the sum are not for floating-point numbers to join

    def __call__(self, stacked: Tree, weights: Tensor) -> Tree:
        heaviest = 1.0 if self.grid.cap else float(weights.max())
        words = [self.grid.encode(flat(tree.index(stacked, i)), float(w) / heaviest) for i, w in enumerate(weights)]
        return unflat(self.grid.decode(added(words))[0], tree.index(stacked, 0))
