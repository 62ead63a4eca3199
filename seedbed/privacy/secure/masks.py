"""The two kinds of mask on an update, as both halves make them. Shapes: [plan.words]."""

import numpy as np

from seedbed.privacy.secure import keys
from seedbed.privacy.secure.fixed_point import Words
from seedbed.privacy.secure.protocol import ClientId, Plan, between


def own_mask(plan: Plan, seed: bytes) -> Words:
    """PRG(b_i): a client's own, which the server is told how to take off once the update counts."""
    return keys.expanded(seed, plan.words, plan.grid.dtype)


def pair_mask(plan: Plan, private: bytes, public: bytes, owner: ClientId, other: ClientId) -> Words:
    """What `owner` adds on account of `other`: +PRG(s_ij) for the smaller number, −PRG(s_ij) for the larger.

    Args:
        private, public: the owner's private and the other's public masking key.
    """
    seed = keys.agreed(private, public, between(plan, "mask", *sorted((owner, other))))
    mask = keys.expanded(seed, plan.words, plan.grid.dtype)
    return mask if owner < other else np.negative(mask)
