"""Property inference: does a client's data set have a property? Ganju, Wang, Yang, Gunter and Borisov, "Property
inference attacks on fully connected neural networks using permutation invariant representations", CCS 2018; Melis,
Song, De Cristofaro and Shmatikov, "Exploiting unintended feature leakage in collaborative learning", IEEE S&P 2019,
arXiv 1805.04049.

Departure: a linear classifier on the message itself, because all messages are updates of one model, whose units are
ordered. The result is a lower bound on such attacks. Shapes: S data sets, P numbers of a message.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class AreaUnderCurve(NamedTuple):
    """The area under the ROC curve with its 95 % interval: 0.5 is chance, 1 is perfect."""

    area: float
    low: float
    high: float


def train_property_classifier(known: Floats, has: Bools, seen: Floats, *, ridge: float = 0.1) -> Floats:
    """Scores of messages, high for the property: ridge regression on messages of known data sets, in the dual.

    Args:
        known: [S, P] messages of the attacker's own data sets.
        has: [S] whether each of them has the property.
        seen: [V, P] the victims' messages.
        ridge: penalty relative to the mean squared distance of the known messages from their mean.
    """
    middle = known.mean(0)
    a, b = known - middle, seen - middle
    gram = a @ a.T
    penalty = ridge * max(float(np.trace(gram)) / len(a), 1e-300)
    dual = np.linalg.solve(gram + penalty * np.eye(len(a)), np.where(has, 1.0, -1.0) - (2 * has.mean() - 1))
    return np.asarray(b @ (a.T @ dual))


def roc_area(scores: Floats, has: Bools) -> AreaUnderCurve:
    """The probability that a set with the property scores higher than one without; interval by Hanley and McNeil,
    Radiology 1982.

    >>> roc_area(np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, False, True, True])).area
    1.0
    """
    with_, without = scores[has], scores[~has]
    difference = with_[:, None] - without[None]
    area = float(((difference > 0) + 0.5 * (difference == 0)).mean())
    p, q = len(with_), len(without)
    # At 0 and 1 the formula gives no width: assume half a wrong pair.
    a = min(max(area, 0.5 / (p * q)), 1 - 0.5 / (p * q))
    both, other = a / (2 - a), 2 * a * a / (1 + a)
    variance = (a * (1 - a) + (p - 1) * (both - a * a) + (q - 1) * (other - a * a)) / (p * q)
    half = 1.96 * max(variance, 0.0) ** 0.5
    return AreaUnderCurve(area, max(0.0, area - half), min(1.0, area + half))
