"""Secure aggregation: the server learns the sum of the clients' messages, and nothing else about them.

Reading order: `fixed_point` (numbers as integers that can be added in any order), `shamir` and `keys` (primitives),
`secagg_protocol` (the plan and the messages), `secagg_client`, `secagg_server`, `in_process` (all of it in one
process), `additive` (several servers instead of masks); then `encoding` and `noised_sum` (messages as words),
`mechanisms`, `groups`, and `sum_engine`: the engine wrapper that returns only sums.
"""

from seedbed.privacy.secure.additive import AdditiveServer, split_shares
from seedbed.privacy.secure.encoding import WeightedEncoding
from seedbed.privacy.secure.fixed_point import FixedPointGrid
from seedbed.privacy.secure.groups import assign_groups, lose_at_random
from seedbed.privacy.secure.in_process import secure_sum
from seedbed.privacy.secure.mechanisms import MaskedSums, PlainSums, SharedSums
from seedbed.privacy.secure.noised_sum import NoisedEncoding
from seedbed.privacy.secure.secagg_client import SecureClient
from seedbed.privacy.secure.secagg_protocol import ClientAbort, RoundAborted, SecAggPlan
from seedbed.privacy.secure.secagg_server import SecureServer
from seedbed.privacy.secure.sum_engine import SecureSumEngine

__all__ = [
    "AdditiveServer",
    "ClientAbort",
    "FixedPointGrid",
    "MaskedSums",
    "NoisedEncoding",
    "PlainSums",
    "RoundAborted",
    "SecAggPlan",
    "SecureClient",
    "SecureServer",
    "SecureSumEngine",
    "SharedSums",
    "WeightedEncoding",
    "assign_groups",
    "lose_at_random",
    "secure_sum",
    "split_shares",
]
