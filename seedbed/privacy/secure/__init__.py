"""Secure aggregation: the server learns the sum of what clients send, and nothing else of it.

Read in this order: `fixed_point` (numbers as integers that can be added in any order), `shamir` and `keys` (the
primitives), `protocol` (what is agreed on, and the messages), `client`, `server`, `together` (all of it in one
process), and `additive` (the other form, with several servers).
"""

from seedbed.privacy.secure.additive import AdditiveServer, split
from seedbed.privacy.secure.client import SecureClient
from seedbed.privacy.secure.fixed_point import Grid
from seedbed.privacy.secure.protocol import Aborted, Plan, Refused
from seedbed.privacy.secure.server import SecureServer
from seedbed.privacy.secure.together import secure, secure_sum

__all__ = [
    "Aborted",
    "AdditiveServer",
    "Grid",
    "Plan",
    "Refused",
    "SecureClient",
    "SecureServer",
    "secure",
    "secure_sum",
    "split",
]
