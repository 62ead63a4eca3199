"""The server's transport over Flower's `Grid`: each letter becomes one message to its node.

Nodes poll for messages, so a letter costs seconds. Letters that are not urgent are therefore not sent: a node learns
with the next work what was counted. An unanswered letter is not resent within a minute.
"""

import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from seedbed.deployment.federation.transport import Address
from seedbed.errors import InputError

RECORD, FRAMES = "letter", "frames"  # where a message holds its frames
HELLO, LETTER = "query.hello", "train.letter"  # message types
POLL = 0.25  # seconds between polls for answers
NODES = 2.0  # seconds between polls for new nodes
TTL = 3600.0  # seconds after which Flower drops a message and its answer
RESEND_DELAY = 60.0  # seconds before an unanswered letter may be resent, in case its node lost it
log = logging.getLogger("seedbed.gate")


@dataclass(frozen=True)
class PendingLetter:
    """A message without an answer so far."""

    node: int
    frames: tuple[bytes, ...]
    until: float


class FlowerTransport:
    """Transport over a ServerApp's grid. Addresses are Flower's node ids."""

    def __init__(self, grid: Grid):
        self._grid = grid
        self._pending: dict[str, PendingLetter] = {}  # by message id
        self._greeted: set[int] = set()
        self._arrived: deque[tuple[Address, bytes]] = deque()
        self._last_poll = float("-inf")

    def send(self, address: Address, frames: Sequence[bytes], *, urgent: bool = True) -> None:
        asked = tuple(frames)
        on_its_way = any(
            a.node == address and a.frames == asked and self.now() < a.until - TTL + RESEND_DELAY
            for a in self._pending.values()
        )
        if urgent and not on_its_way:
            assert isinstance(address, int)
            self._push(address, LETTER, asked)

    def receive(self, seconds: float) -> tuple[Address, bytes] | None:
        end = self.now() + seconds
        while not self._arrived:
            self._greet()
            self._pull()
            if self._arrived or self.now() >= end:
                break
            time.sleep(min(POLL, max(0.0, end - self.now())))
        return self._arrived.popleft() if self._arrived else None

    def now(self) -> float:
        return time.monotonic()

    def _greet(self) -> None:
        """Ask each new node for its greeting."""
        if self.now() < self._last_poll + NODES:
            return
        self._last_poll = self.now()
        online = set(self._grid.get_node_ids())
        for node in sorted(online - self._greeted):
            self._push(node, HELLO, ())
        self._greeted = online

    def _push(self, node: int, kind: str, frames: tuple[bytes, ...]) -> None:
        content = RecordDict({RECORD: ConfigRecord({FRAMES: list(frames)})})
        [number] = self._grid.push_messages([Message(content, node, kind, ttl=TTL)])
        if number:
            self._pending[number] = PendingLetter(node, frames, self.now() + TTL)

    def _pull(self) -> None:
        for reply in self._answers():
            asked = self._pending.pop(reply.metadata.reply_to_message_id, None)
            if asked is None:
                continue
            if reply.has_error():
                self._greeted.discard(asked.node)  # the node or its process is gone: greet it again
            else:
                self._arrived.extend((asked.node, frame) for frame in frames_in(reply.content))
        self._pending = {number: asked for number, asked in self._pending.items() if self.now() < asked.until}

    def _answers(self) -> Iterable[Message]:
        """Take the answers that have arrived. One that Flower cannot decode is dropped: any member can send such."""
        try:
            return self._grid.pull_messages(list(self._pending)) if self._pending else ()
        except InputError:
            raise
        except Exception as error:  # whatever the decoder raises; at the next poll the message is gone
            log.warning("an answer cannot be decoded: %s: %s", type(error).__name__, error)
            return ()


def frames_in(content: RecordDict) -> list[bytes]:
    """The frames in a message; empty if it has another structure."""
    record = content.config_records.get(RECORD) if isinstance(content, RecordDict) else None
    frames = [] if record is None else record.get(FRAMES)
    return [frame for frame in frames if isinstance(frame, bytes)] if isinstance(frames, list) else []
