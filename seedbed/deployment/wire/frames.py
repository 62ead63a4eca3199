"""Frames: a header of fixed size, a chunk of a payload, and a MAC over both. All numbers are little-endian.

    header | magic 4 | protocol 2 | action 1 | 0 1 | client 4 | round 4 | attempt 4 | part 4 | parts 4 | total 8 |
           | run 32 | schema 32 | digest 32 |
    chunk  | FRAME_CHUNK bytes of the payload; the last part has the remainder |
    MAC    | HMAC-SHA256 over header and chunk, with the node's key: 32 |

`total` is the only length field in the header, and it is checked against a limit before memory is allocated. No content
is trusted before the MAC is verified; until then `client` only selects the key.
"""

import hashlib
import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from seedbed.errors import InputError

PROTOCOL, OLDEST = 1, 1  # this version, and the oldest one supported: at most one back
MAGIC = b"SEED"
FRAME_HEADER = struct.Struct("<4sHBxIIIIIQ32s32s32s")
IDENTITY = struct.Struct("<BIII32s32s")  # covered by a letter's digest, together with the payload
FRAME_CHUNK = 1 << 18  # payload bytes per frame
MAC = 32
MAX_FRAME = FRAME_HEADER.size + FRAME_CHUNK + MAC  # bytes of a frame
TEXT = 1024  # largest note in bytes


class FrameRefused(InputError):
    """A frame or its content is not as agreed. It has no effect; the text gives the reason."""


class Action(IntEnum):
    """The kind of a letter: 1 to 5 from server to node, 11 to 14 from node to server, 21 and 22 between peers."""

    WORK = 1  # train in a round: the server's payload, and the digest of the client's last counted letter
    COUNTED = 2  # the letter with this digest is in a committed round: commit the state pending with it
    NOTED = 3  # the letter has arrived; no need to send it again
    REFUSAL = 4  # the letter had no effect, and the reason
    MODEL = 5  # all rounds are over: the final model's payload, and the digest of the last counted letter
    HELLO = 11  # a client's greeting, with the hashes of its protocol
    REPLY = 12  # a round's message
    FAILED = 13  # a round's work failed, and the kind of error
    HELD = 14  # the final model is on the node's disk, and the pending state is committed
    STATUS = 21  # a peer's progress: what it has received from the other, and the last exchange that it counted
    OFFER = 22  # a peer's values to be mixed in a round


@dataclass(frozen=True)
class Letter:
    """A whole payload and its identity. The same letter always has the same bytes."""

    run: bytes  # [32]  digest of the run's name
    round: int
    attempt: int
    client: int
    action: Action
    schema: bytes  # [32]  fingerprint of the agreed protocol
    payload: bytes = field(repr=False)

    @property
    def identity(self) -> bytes:
        return IDENTITY.pack(self.action, self.client, self.round, self.attempt, self.run, self.schema)

    @property
    def digest(self) -> bytes:
        """[32] bytes: digest of identity and payload, equal only for equal letters."""
        return hashlib.sha256(self.identity + self.payload).digest()

    @property
    def note(self) -> str:
        """The payload as text."""
        return self.payload[:TEXT].decode(errors="replace")


def seal_frames(letter: Letter, key: bytes, *, protocol: int = PROTOCOL) -> list[bytes]:
    """Split a letter into authenticated frames."""
    parts, digest = _parts(len(letter.payload)), letter.digest
    frames = []
    for part in range(parts):
        head = FRAME_HEADER.pack(
            MAGIC, protocol, letter.action, letter.client, letter.round, letter.attempt, part, parts,
            len(letter.payload), letter.run, letter.schema, digest,
        )  # fmt: skip
        sealed = head + letter.payload[part * FRAME_CHUNK : (part + 1) * FRAME_CHUNK]
        frames.append(sealed + hmac.digest(key, sealed, "sha256"))
    return frames


class FrameHeader:
    """A parsed header.

    Raises:
        FrameRefused: no valid frame has such a header.
    """

    def __init__(self, data: bytes):
        if len(data) < FRAME_HEADER.size:
            raise FrameRefused(f"a frame of {len(data)} bytes is truncated: the header has {FRAME_HEADER.size} bytes")
        (magic, self.protocol, action, self.client, self.round, self.attempt, self.part, self.parts, self.total,
         self.run, self.schema, self.digest) = FRAME_HEADER.unpack_from(data)  # fmt: skip
        if magic != MAGIC:
            raise FrameRefused("this is not a frame of Seedbed: the sender may be another program")
        _refuse_protocol(self.protocol)
        if action not in set(Action):
            raise FrameRefused(f"action {action} is unknown in protocol {self.protocol}")
        self.action = Action(action)
        if self.parts != _parts(self.total) or self.part >= self.parts:
            raise FrameRefused(f"part {self.part} of {self.parts} does not fit a payload of {self.total} bytes")

    @property
    def of(self) -> tuple[Any, ...]:
        """The fields that all frames of a letter share."""
        return self.action, self.client, self.round, self.attempt, self.total, self.run, self.schema, self.digest

    @property
    def length(self) -> int:
        """Bytes of the whole frame."""
        return FRAME_HEADER.size + int(min(FRAME_CHUNK, self.total - self.part * FRAME_CHUNK)) + MAC


class FrameAssembler:
    """Assembles frames to letters.

    Args:
        keys: client number → key, or None if there is no such client.
        limit: largest payload in bytes for an action; -1: the action is not accepted.
    """

    def __init__(self, keys: Callable[[int], bytes | None], limit: Callable[[Action], int]):
        self._keys, self._limit = keys, limit
        self._open: dict[tuple[int, Action], _Pieces] = {}

    def take(self, data: bytes) -> Letter | None:
        """Process a frame. Returns the letter if this frame completes it, else None.

        Raises:
            FrameRefused: the frame was altered, has another protocol, is too long or not accepted. Nothing is stored.
        """
        head = FrameHeader(data)
        self._check(head, data)
        place = head.client, head.action
        pieces = self._open.get(place)
        if pieces is None or pieces.of != head.of:  # one open letter per client and action bounds the memory
            pieces = self._open[place] = _Pieces(head.of, bytearray(head.total), set())
        begin = head.part * FRAME_CHUNK
        pieces.payload[begin : begin + head.length - FRAME_HEADER.size - MAC] = data[FRAME_HEADER.size : -MAC]
        pieces.present.add(head.part)
        if len(pieces.present) < head.parts:
            return None
        del self._open[place]
        return _assemble(head, bytes(pieces.payload))

    def _check(self, head: FrameHeader, data: bytes) -> None:
        key = self._keys(head.client)
        if key is None:
            raise FrameRefused(f"client {head.client} is not registered: it has no key here")
        if len(data) != head.length:
            raise FrameRefused(f"a frame of {len(data)} bytes should have {head.length}: it was truncated or extended")
        limit = self._limit(head.action)
        if head.total > limit:
            raise FrameRefused(f"{head.action.name} of {head.total} bytes: at most {limit} are accepted")
        if not hmac.compare_digest(hmac.digest(key, data[:-MAC], "sha256"), data[-MAC:]):
            raise FrameRefused(
                f"the MAC of a frame in the name of client {head.client} is wrong: altered, or sent with another key"
            )


@dataclass
class _Pieces:
    """A letter with missing parts."""

    of: tuple[Any, ...]
    payload: bytearray
    present: set[int]


def _assemble(head: FrameHeader, payload: bytes) -> Letter:
    letter = Letter(head.run, head.round, head.attempt, head.client, head.action, head.schema, payload)
    if letter.digest != head.digest:
        raise FrameRefused(f"the parts of a {head.action.name} of client {head.client} do not match its digest")
    return letter


def _parts(total: int) -> int:
    return max(1, -(-total // FRAME_CHUNK))


def _refuse_protocol(number: int) -> None:
    if number < OLDEST:
        raise FrameRefused(
            f"protocol {number} is older than {OLDEST}, the oldest supported here: update Seedbed at the other end"
        )
    if number > PROTOCOL:
        raise FrameRefused(
            f"protocol {number} is newer than {PROTOCOL}, the newest supported here: update Seedbed on this side"
        )
