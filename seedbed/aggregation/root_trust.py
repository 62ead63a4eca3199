"""FLTrust's rule: Cao, Fang, Liu and Gong, "FLTrust: Byzantine-robust federated learning via trust bootstrapping", NDSS
2021, arXiv 2012.13995, §4.2 and Algorithm 2. The algorithm around it: `algorithms.fltrust`.
"""

import torch
from torch import Tensor

from seedbed import tree
from seedbed.aggregation.robust import Robust, row_norms, weighted_rows
from seedbed.tree import Tree


def fltrust_rule(stacked: Tree, root: Tree) -> Tree:
    """Σ TS_i·(‖g_0‖/‖g_i‖)·g_i / Σ TS_i with TS_i = max(0, cos(g_i, g_0)).

    Zero where no message goes with the server's own at all, where the paper's quotient is 0/0.

    Args:
        stacked: messages g_i, leaves [C, ...].
        root: the server's own, g_0.
    """
    own = torch.cat([leaf.flatten() for leaf in tree.leaves(root)])

    def rule(rows: Tensor, shares: Tensor) -> Tensor:
        tiny = torch.finfo(torch.float64).tiny
        norms, mine = row_norms(rows).clamp_min(tiny), row_norms(own[None])[0]
        along = rows.double() @ own.double()
        trust = (along / norms / mine.clamp_min(tiny)).clamp(0, 1).nan_to_num(0)
        return weighted_rows(rows, trust / trust.sum().clamp_min(tiny) * mine / norms)

    first = tree.leaves(stacked)[0]
    return Robust("fltrust", rule)(stacked, torch.ones(len(first), device=first.device))
