"""Differential privacy around any algorithm whose messages are summed: clip, noise, account, and stop in time."""

from seedbed.privacy.differential.accountant import Gaussian, epsilon, noise_for
from seedbed.privacy.differential.central import Adaptive, private, public
from seedbed.privacy.differential.distributed_noise import Distributed
from seedbed.privacy.differential.ledger import Ledger, charged
from seedbed.privacy.differential.local_noise import LocallyNoised
from seedbed.privacy.differential.mechanisms import Banded, Independent, Local, TreeAggregation
from seedbed.privacy.differential.noise import Noise, new_key

__all__ = [
    "Adaptive",
    "Banded",
    "Distributed",
    "Gaussian",
    "Independent",
    "Ledger",
    "Local",
    "LocallyNoised",
    "Noise",
    "TreeAggregation",
    "charged",
    "epsilon",
    "new_key",
    "noise_for",
    "private",
    "public",
]
