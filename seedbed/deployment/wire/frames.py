"""Frames: a head of fixed size, a piece of a payload, and a MAC over both. All numbers are little-endian.

    head  | magic 4 | protocol 2 | action 1 | 0 1 | client 4 | round 4 | attempt 4 | part 4 | parts 4 | total 8 |
          | run 32 | schema 32 | digest 32 |
    piece | CHUNK bytes of the payload; the last part what is left |
    MAC   | HMAC-SHA256 with the node's key over head and piece: 32 |

The head has no field that says how long something is but `total`, and that is checked against a limit before anything
is allocated. Nothing of a frame is believed before its MAC is found right; before that, `client` only chooses the key.
"""

import hashlib
import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from seedbed.errors import InputError

PROTOCOL, OLDEST = 1, 1  # this version's number, and the oldest that it understands: never more than one back
MAGIC = b"SEED"
FRAME_HEADER = struct.Struct("<4sHBxIIIIIQ32s32s32s")
IDENTITY = struct.Struct("<BIII32s32s")  # what a digest covers beside the payload
FRAME_CHUNK = 1 << 18  # bytes of a piece
MAC = 32
MAX_FRAME = FRAME_HEADER.size + FRAME_CHUNK + MAC  # bytes of a frame
TEXT = 1024  # bytes of a note, at most


class FrameRefused(InputError):
    """A frame or what it holds is not as agreed: it has no effect, and the message says why."""


class Action(IntEnum):
    """What a letter is: the first five go from server to node, the next from node to server, the last between peers."""

    WORK = 1  # do a round's work: what the server sends, and which of this client's letters was counted last
    COUNTED = 2  # the letter of this digest is in a committed round: what was kept with it may be kept
    NOTED = 3  # your letter has arrived; you need not send it again
    REFUSAL = 4  # your letter had no effect, and why
    MODEL = 5  # all rounds are over: what the server sends of the last model, and which letter was counted last
    HELLO = 11  # here is a client, and what it thinks was agreed
    REPLY = 12  # a round's message
    FAILED = 13  # a round's work could not be done, and why in a word
    HELD = 14  # the last model is here on disk, and what goes with the last letter that was counted
    STATUS = 21  # where a peer is, what it has of yours, and which exchange with you it counted last
    OFFER = 22  # what a peer gives to be mixed in a round


@dataclass(frozen=True)
class Letter:
    """A whole payload, and what it is. The same letter is always the same bytes."""

    run: bytes  # [32]  of which federation
    round: int
    attempt: int
    client: int
    action: Action
    schema: bytes  # [32]  the fingerprint of what was agreed
    payload: bytes = field(repr=False)

    @property
    def identity(self) -> bytes:
        return IDENTITY.pack(self.action, self.client, self.round, self.attempt, self.run, self.schema)

    @property
    def digest(self) -> bytes:
        """[32]  of the identity and the payload: equal for equal letters alone."""
        return hashlib.sha256(self.identity + self.payload).digest()

    @property
    def note(self) -> str:
        """A payload that is a text."""
        return self.payload[:TEXT].decode(errors="replace")


def seal_frames(letter: Letter, key: bytes, *, protocol: int = PROTOCOL) -> list[bytes]:
    """A letter in frames."""
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
    """A head taken apart. Raises Refused where no frame of ours could say so."""

    def __init__(self, data: bytes):
        if len(data) < FRAME_HEADER.size:
            raise FrameRefused(f"a frame of {len(data)} bytes is cut short: a head alone has {FRAME_HEADER.size}")
        (magic, self.protocol, action, self.client, self.round, self.attempt, self.part, self.parts, self.total,
         self.run, self.schema, self.digest) = FRAME_HEADER.unpack_from(data)  # fmt: skip
        if magic != MAGIC:
            raise FrameRefused("this is no frame of Seedbed: another program speaks here")
        _refuse_protocol(self.protocol)
        if action not in set(Action):
            raise FrameRefused(f"action {action} is none of protocol {self.protocol}")
        self.action = Action(action)
        if self.parts != _parts(self.total) or self.part >= self.parts:
            raise FrameRefused(f"part {self.part} of {self.parts} does not fit {self.total} bytes")

    @property
    def of(self) -> tuple[Any, ...]:
        """What all frames of a letter have in common."""
        return self.action, self.client, self.round, self.attempt, self.total, self.run, self.schema, self.digest

    @property
    def length(self) -> int:
        """Bytes of the whole frame."""
        return FRAME_HEADER.size + int(min(FRAME_CHUNK, self.total - self.part * FRAME_CHUNK)) + MAC


class FrameAssembler:
    """Takes frames, gives letters.

    Args:
        keys: a client's number -> its key, or None if there is no such client.
        limit: bytes that a payload of this action may have; -1: such a letter is not for us.
    """

    def __init__(self, keys: Callable[[int], bytes | None], limit: Callable[[Action], int]):
        self._keys, self._limit = keys, limit
        self._open: dict[tuple[int, Action], _Pieces] = {}

    def take(self, data: bytes) -> Letter | None:
        """The letter of which this was the last missing frame; None while others are missing.

        Raises:
            Refused: the frame was altered, is of another protocol, too long, or not for us. Nothing was kept of it.
        """
        head = FrameHeader(data)
        self._check(head, data)
        place = head.client, head.action
        pieces = self._open.get(place)
        if pieces is None or pieces.of != head.of:  # one open letter for each client and action: memory is bounded
            pieces = self._open[place] = _Pieces(head.of, bytearray(head.total), set())
        begin = head.part * FRAME_CHUNK
        pieces.payload[begin : begin + head.length - FRAME_HEADER.size - MAC] = data[FRAME_HEADER.size : -MAC]
        pieces.there.add(head.part)
        if len(pieces.there) < head.parts:
            return None
        del self._open[place]
        return _opened(head, bytes(pieces.payload))

    def _check(self, head: FrameHeader, data: bytes) -> None:
        key = self._keys(head.client)
        if key is None:
            raise FrameRefused(f"client {head.client} is not registered: it has no key here")
        if len(data) != head.length:
            raise FrameRefused(f"a frame of {len(data)} bytes should have {head.length}: it was cut or glued")
        limit = self._limit(head.action)
        if head.total > limit:
            raise FrameRefused(f"{head.action.name} of {head.total} bytes: at most {limit} are taken")
        if not hmac.compare_digest(hmac.digest(key, data[:-MAC], "sha256"), data[-MAC:]):
            raise FrameRefused(
                f"the MAC of a frame in the name of client {head.client} is wrong: altered, or not its own"
            )


@dataclass
class _Pieces:
    """A letter of which parts are missing."""

    of: tuple[Any, ...]
    payload: bytearray
    there: set[int]


def _opened(head: FrameHeader, payload: bytes) -> Letter:
    letter = Letter(head.run, head.round, head.attempt, head.client, head.action, head.schema, payload)
    if letter.digest != head.digest:
        raise FrameRefused(f"the parts of a {head.action.name} of client {head.client} do not make up what they say")
    return letter


def _parts(total: int) -> int:
    return max(1, -(-total // FRAME_CHUNK))


def _refuse_protocol(number: int) -> None:
    if number < OLDEST:
        raise FrameRefused(
            f"protocol {number} is older than {OLDEST}, the oldest understood here: update Seedbed at the other end"
        )
    if number > PROTOCOL:
        raise FrameRefused(
            f"protocol {number} is newer than {PROTOCOL}, the newest known here: update Seedbed on this side"
        )
