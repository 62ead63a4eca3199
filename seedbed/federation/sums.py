"""The mean in whole numbers: the same in whatever order messages arrive, and on whatever machine they are added up."""

from dataclasses import dataclass

import torch
from torch import Tensor

from seedbed import tree
from seedbed.privacy.secure.fixed_point import Grid, add
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
        leaves = [leaf.double().reshape(len(leaf), -1) for leaf in tree.leaves(stacked)]
        heaviest = 1.0 if self.grid.cap else float(weights.max())
        total, *others = (
            self.grid.encode(row, float(w) / heaviest)
            for row, w in zip(torch.cat(leaves, 1).numpy(), weights, strict=True)
        )
        for words in others:
            add(total, words)
        mean = torch.split(torch.from_numpy(self.grid.decode(total)[0]), [leaf.shape[1] for leaf in leaves])
        parts = zip(mean, tree.leaves(stacked), strict=True)
        return tree.with_leaves(stacked, [part.to(leaf).reshape(leaf.shape[1:]) for part, leaf in parts])
