"""Rules that choose among the messages by their distances: Krum, Multi-Krum and Bulyan.

Blanchard, El Mhamdi, Guerraoui and Stainer, "Machine learning with adversaries: Byzantine tolerant gradient descent",
NeurIPS 2017, arXiv 1703.02757; El Mhamdi, Guerraoui and Rouault, "The hidden vulnerability of distributed learning in
Byzantium", ICML 2018, arXiv 1802.07927. Shapes: n messages, P numbers of a message.
"""

import torch
from torch import Tensor

from seedbed.aggregation.robust import Hostile, Robust, by_columns, distances, max_byzantine, median_of, weighted_rows


def krum(*, f: Hostile = 0.2, neighbours: int | None = None) -> Robust:
    """The message x_i whose n − f − 2 nearest others are nearest: argmin_i Σ_j ‖x_i − x_j‖². Needs n ≥ 2f + 3.

    Args:
        f: how many messages may be hostile: a count, or a fraction, rounded up.
        neighbours: how many others count; None: n − f − 2, the paper's. (ByzFL's Krum has n − f − 1.)
    """

    def rule(rows: Tensor, shares: Tensor) -> Tensor:
        k = max_byzantine(f, len(rows), "krum", lambda f: 2 * f + 3)
        return rows[_scores(distances(rows), k, neighbours).argmin()]

    return Robust("krum", rule)


def multi_krum(*, f: Hostile = 0.2, keep: int | None = None, neighbours: int | None = None) -> Robust:
    """The mean of the messages of the least Krum scores. Needs n ≥ 2f + 3.

    Args:
        keep: m, of how many; None: n − f.
    """

    def rule(rows: Tensor, shares: Tensor) -> Tensor:
        k = max_byzantine(f, len(rows), "multi_krum", lambda f: 2 * f + 3)
        m = len(rows) - k if keep is None else min(keep, len(rows))
        chosen = _scores(distances(rows), k, neighbours).argsort(stable=True)[:m]
        return weighted_rows(rows[chosen], shares.new_full((m,), 1 / m))

    return Robust("multi_krum", rule)


def bulyan(*, f: Hostile = 0.2) -> Robust:
    """θ = n − 2f messages chosen by Krum, one after another; of them, in each coordinate, the mean of the θ − 2f values
    that are nearest to their median. Needs n ≥ 4f + 3.
    """

    def rule(rows: Tensor, shares: Tensor) -> Tensor:
        n = len(rows)
        k = max_byzantine(f, n, "bulyan", lambda f: 4 * f + 3)
        apart, left = distances(rows), torch.arange(n, device=rows.device)
        chosen = []
        for _ in range(n - 2 * k):
            among = apart[left][:, left]
            # Departure: at least one neighbour, where the paper's n − f − 2 of those left would be none.
            best = _scores(among, k, max(1, len(left) - k - 2)).argmin()
            chosen.append(left[best])
            left = left[torch.arange(len(left), device=left.device) != best]
        return by_columns(lambda part: _around_the_median(part, n - 4 * k), rows[torch.stack(chosen)])

    return Robust("bulyan", rule)


def _scores(apart: Tensor, f: int, neighbours: int | None) -> Tensor:
    """Σ of the squared distances to the nearest others: [n, n] -> [n]."""
    n = len(apart)
    others = apart.masked_fill(torch.eye(n, dtype=torch.bool, device=apart.device), torch.inf)
    return others.sort(1).values[:, : min(n - 1, n - f - 2 if neighbours is None else neighbours)].sum(1)


def _around_the_median(part: Tensor, count: int) -> Tensor:
    """The mean of each column's values nearest to its median: [θ, k] -> [k]."""
    near = (part - median_of(part.sort(0).values)).abs().argsort(dim=0, stable=True)[:count]
    return (part.gather(0, near) / count).sum(0)
