"""Messages between two peers: a status, optionally with an offer, authenticated by a key that the two share."""

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from seedbed import tree
from seedbed.deployment.federation.protocol import FederationProtocol, MessageSchema, refuse_weak
from seedbed.deployment.peers.peer_policy import PeerPolicy
from seedbed.deployment.wire import FRAME_CHUNK, FRAME_HEADER, Action, FrameAssembler, FrameRefused, Letter, seal_frames
from seedbed.deployment.wire.frames import MAC
from seedbed.federated import ClientId, ServerState
from seedbed.rounds.gossip import is_mixed

STATUS = struct.Struct("<QQqqq")
Offer = Mapping[str, Tensor]  # the mixed leaves of a state, by name


class PeerStatus(NamedTuple):
    """A peer's progress, as reported to one other peer."""

    session: int  # of the sender; larger after each start
    heard: int  # the receiver's session as far as the sender knows; 0: unknown
    at: int  # the sender's current round; all before it are closed
    has: int  # the round for which it holds the other's offer; -1: none
    counted: int  # the last round whose exchange with the receiver is in its state, on disk; -1: none


class StatusMessage(NamedTuple):
    """A message from a peer."""

    sender: ClientId
    status: PeerStatus
    round: int = -1  # of the offer
    payload: bytes | None = None  # None: no offer; empty: the sender only receives in this round


def mixed_part(state: ServerState) -> Offer:
    """The leaves of a peer's state that it offers."""
    return {name: leaf for name, leaf in tree.named_leaves(state).items() if is_mixed(leaf)}


def with_mixed_part(state: ServerState, offered: Offer) -> ServerState:
    """The state with these leaves replaced."""
    leaves = [offered.get(name, leaf) for name, leaf in tree.named_leaves(state).items()]
    return ServerState(*tree.with_leaves(state, leaves))


def fingerprint(plan: FederationProtocol, terms: PeerPolicy) -> bytes:
    """[32] bytes: digest of everything that all peers must agree on."""
    return hashlib.sha256(json.dumps([plan.parts, terms.binding], sort_keys=True).encode()).digest()


class PeerMessages:
    """Writes and reads one peer's messages.

    Args:
        plan: the protocol.
        terms: the peers' policy.
        own: this peer's number.
        keys: for each contact [32] bytes, shared only with it.
    """

    def __init__(self, plan: FederationProtocol, terms: PeerPolicy, own: ClientId, keys: Mapping[ClientId, bytes]):
        refuse_weak(keys)
        self.own, self._run, self._keys = own, plan.run, keys
        self.schema = fingerprint(plan, terms)
        self.mould = MessageSchema(mixed_part(plan.start))
        limits = {Action.STATUS: STATUS.size, Action.OFFER: self.mould.limit}
        self._assembler = FrameAssembler(keys.get, lambda action: limits.get(action, -1))

    @property
    def largest(self) -> int:
        """The largest size of a message's frames in bytes."""
        pieces = 2 + self.mould.limit // FRAME_CHUNK
        return STATUS.size + self.mould.limit + pieces * (FRAME_HEADER.size + MAC)

    def write(self, to: ClientId, status: PeerStatus, round: int = -1, payload: bytes | None = None) -> list[bytes]:
        """The frames of one message."""
        frames = self._seal(to, Action.STATUS, status.at, STATUS.pack(*status))
        return frames if payload is None else frames + self._seal(to, Action.OFFER, round, payload)

    def read(self, frames: Sequence[bytes]) -> StatusMessage:
        """Parse one message.

        Raises:
            FrameRefused: it is not from a contact, was altered, or belongs to other peers or other settings.
        """
        letters = [letter for frame in frames if (letter := self._assembler.take(frame)) is not None]
        if not letters or [letter.action for letter in letters] != [Action.STATUS, Action.OFFER][: len(letters)]:
            raise FrameRefused("a message must be a status, and at most an offer after it")
        sender = letters[0].client
        for letter in letters:
            if letter.run != self._run or letter.client != sender:
                raise FrameRefused(f"peer {letter.client} uses another run's name, or another peer's")
            if letter.schema != self.schema:
                raise FrameRefused(f"peer {sender} has other settings: give all peers the same")
        status = PeerStatus(*STATUS.unpack(letters[0].payload))
        return StatusMessage(sender, status, *((letters[1].round, letters[1].payload) if len(letters) > 1 else ()))

    def _seal(self, to: ClientId, action: Action, round: int, payload: bytes) -> list[bytes]:
        return seal_frames(Letter(self._run, round, 0, self.own, action, self.schema, payload), self._keys[to])
