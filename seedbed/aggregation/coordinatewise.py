"""Rules that look at each coordinate by itself: the median and the trimmed mean.

Yin, Chen, Kannan and Bartlett, "Byzantine-robust distributed learning: towards optimal statistical rates", ICML 2018,
arXiv 1803.01498, Definitions 1 and 2. Shapes: n messages, P numbers of a message.
"""

from torch import Tensor

from seedbed.aggregation.robust import Hostile, Robust, by_columns, max_byzantine, median_of


def median(*, weighted: bool = False) -> Robust:
    """The median of each coordinate, the mean of the middle two where their number is even. Withstands f < n/2.

    Args:
        weighted: the lower and the upper weighted median, meaned: at least half of the weight is on either side.
    """

    def rule(rows: Tensor, shares: Tensor) -> Tensor:
        if not weighted:
            return by_columns(lambda part: median_of(part.sort(0).values), rows)
        return by_columns(lambda part: _weighted_median(part, shares), rows)

    return Robust("median", rule, weighted=weighted)


def trimmed_mean(*, f: Hostile = 0.2, weighted: bool = False) -> Robust:
    """The mean of each coordinate without its f least and its f greatest values. Needs n ≥ 2f + 1; f = 0: the mean.

    Args:
        f: how many messages to trim on either side: a count, or a fraction, rounded up.
        weighted: what is left counts by the weights of its clients; how many are trimmed does not depend on them.
    """

    def rule(rows: Tensor, shares: Tensor) -> Tensor:
        n = len(rows)
        k = max_byzantine(f, n, "trimmed_mean", lambda f: 2 * f + 1)

        def trimmed(part: Tensor) -> Tensor:
            ordered, order = part.sort(0)
            left = shares[order[k : n - k]]
            return (left / left.sum(0) * ordered[k : n - k]).sum(0)

        return by_columns(trimmed, rows)

    return Robust("trimmed_mean", rule, weighted=weighted)


def _weighted_median(part: Tensor, shares: Tensor) -> Tensor:
    """[n, k], [n] -> [k]."""
    ordered, order = part.sort(0)
    reached = shares[order].cumsum(0)
    slack = 1e-12  # of sums that are a half but for rounding
    lower = (reached < 0.5 - slack).sum(0)
    upper = (reached < 0.5 + slack).sum(0).clamp_max(len(part) - 1)
    return ordered.gather(0, lower[None])[0] / 2 + ordered.gather(0, upper[None])[0] / 2
