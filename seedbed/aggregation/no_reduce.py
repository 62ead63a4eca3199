"""Every message as it is, for servers that need each of them; whose each one is, `Replies.clients` says."""

from torch import Tensor

from seedbed.tree import Tree


class NoReduce:
    linear = False

    def __call__(self, stacked: Tree, weights: Tensor) -> Tree:
        """Leaves [C, ...], clients in order of their numbers; the weights do not touch them."""
        return stacked

    def __repr__(self) -> str:
        return "each"


no_reduce = NoReduce()
