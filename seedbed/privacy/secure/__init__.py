"""Secure aggregation: the server learns the sum of what clients send, and nothing else of it.

Read in this order: `fixed_point` (numbers as integers that can be added in any order), `shamir` and `keys` (the
primitives), `protocol` (what is agreed on, and the messages), `client`, `server`, `together` (all of it in one
process), `additive` (the other form, with several servers); then `encoding` and `noised` (messages as words),
`forms`, `dealing`, and `summed`: the engine out of which only sums come.
"""

from seedbed.privacy.secure.additive import AdditiveServer, split
from seedbed.privacy.secure.encoding import Weighted
from seedbed.privacy.secure.fixed_point import Grid
from seedbed.privacy.secure.groups import dealt, losing
from seedbed.privacy.secure.in_process import secure_sum
from seedbed.privacy.secure.mechanisms import Masks, Shares, Unmasked
from seedbed.privacy.secure.noised_sum import Noised
from seedbed.privacy.secure.secagg_client import SecureClient
from seedbed.privacy.secure.secagg_protocol import Aborted, Plan, Refused
from seedbed.privacy.secure.secagg_server import SecureServer
from seedbed.privacy.secure.sum_engine import Summed

__all__ = [
    "Aborted",
    "AdditiveServer",
    "Grid",
    "Masks",
    "Noised",
    "Plan",
    "Refused",
    "SecureClient",
    "SecureServer",
    "Shares",
    "Summed",
    "Unmasked",
    "Weighted",
    "dealt",
    "losing",
    "secure_sum",
    "split",
]
