"""The weighted mean over the clients that took part: Σ w_c·value_c / Σ w_c."""

from torch import Tensor

from seedbed import tree
from seedbed.tree import Tree


class Mean:
    linear = True

    def __call__(self, stacked: Tree, weights: Tensor) -> Tree:
        if len(weights) == 1 and bool(weights[0] > 0):
            return tree.index(stacked, 0)  # 1 times it: not copied
        return tree.weighted_sum(stacked, weights / weights.sum())

    def __repr__(self) -> str:
        return "mean"


mean = Mean()
