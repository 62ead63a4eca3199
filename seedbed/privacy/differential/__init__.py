"""Differential privacy for any algorithm whose messages are summed: clip, noise, accountant, ledger."""

from seedbed.privacy.differential.accountant import Gaussian, epsilon, noise_for
from seedbed.privacy.differential.central import Adaptive, public_info, with_privacy
from seedbed.privacy.differential.distributed_noise import DistributedNoise
from seedbed.privacy.differential.ledger import Ledger, charge_rounds
from seedbed.privacy.differential.local_noise import LocallyNoised
from seedbed.privacy.differential.mechanisms import Banded, Independent, LocalPrivacy, TreeAggregation
from seedbed.privacy.differential.noise import Noise, new_key

__all__ = [
    "Adaptive",
    "Banded",
    "DistributedNoise",
    "Gaussian",
    "Independent",
    "Ledger",
    "LocalPrivacy",
    "LocallyNoised",
    "Noise",
    "TreeAggregation",
    "charge_rounds",
    "epsilon",
    "new_key",
    "noise_for",
    "public_info",
    "with_privacy",
]
