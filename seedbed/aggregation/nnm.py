"""Nearest-neighbour mixing: Allouah, Farhadkhani, Guerraoui, Gupta, Pinot and Stephan, "Fixing by mixing: a recipe for
optimal Byzantine ML under heterogeneity", AISTATS 2023, arXiv 2302.01772, Algorithm 2.
"""

from torch import Tensor

from seedbed.aggregation.robust import Hostile, Robust, distances, max_byzantine, weighted_rows


def nnm(*, f: Hostile = 0.2) -> Robust:
    """x_i ← the mean of the n − f messages nearest to x_i, itself among them: a step before another rule.

    Clients that are unlike by their data become alike, so that the rule after it tells liars from them. Needs
    n ≥ 2f + 1. By itself it ends in the mean of the mixed messages, which withstands nothing.

    Args:
        f: how many messages may be hostile: a count, or a fraction, rounded up.
    """

    def mixed(rows: Tensor) -> Tensor:
        n = len(rows)
        keep = n - max_byzantine(f, n, "nnm", lambda f: 2 * f + 1)
        near = distances(rows).argsort(dim=1, stable=True)[:, :keep]
        shares = near.new_zeros(n, n).double().scatter(1, near, 1 / keep)
        return weighted_rows(rows, shares)

    return Robust("nnm", weighted_rows, steps=(mixed,))
