"""The server half's transport over Flower's `Grid`: letters become messages, one at a time to each node.

A node looks for messages now and then, so that letters cost seconds: those that are not urgent are not sent (a node is
told what was counted with the next work), and a letter that a node has not answered yet is not sent again for a minute.
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
HELLO, LETTER = "query.hello", "train.letter"  # what a node can be asked
POLL = 0.25  # seconds between looks at what has come
NODES = 2.0  # seconds between looks at who is there
TTL = 3600.0  # seconds that Flower carries a message and its answer, at most
RESEND_DELAY = 60.0  # seconds after which a letter without an answer may be sent again: its node may have lost it
log = logging.getLogger("seedbed.gate")


@dataclass(frozen=True)
class PendingLetter:
    """A message that is on its way."""

    node: int
    frames: tuple[bytes, ...]
    until: float


class FlowerTransport:
    """Over a ServerApp's grid. Addresses are Flower's node ids."""

    def __init__(self, grid: Grid):
        self._grid = grid
        self._asked: dict[str, PendingLetter] = {}  # by message id
        self._greeted: set[int] = set()
        self._come: deque[tuple[Address, bytes]] = deque()
        self._looked = float("-inf")

    def send(self, address: Address, frames: Sequence[bytes], *, urgent: bool = True) -> None:
        asked = tuple(frames)
        on_its_way = any(
            a.node == address and a.frames == asked and self.now() < a.until - TTL + RESEND_DELAY
            for a in self._asked.values()
        )
        if urgent and not on_its_way:
            assert isinstance(address, int)
            self._push(address, LETTER, asked)

    def receive(self, seconds: float) -> tuple[Address, bytes] | None:
        end = self.now() + seconds
        while not self._come:
            self._greet()
            self._pull()
            if self._come or self.now() >= end:
                break
            time.sleep(min(POLL, max(0.0, end - self.now())))
        return self._come.popleft() if self._come else None

    def now(self) -> float:
        return time.monotonic()

    def _greet(self) -> None:
        """Ask every node that has come to say who it is."""
        if self.now() < self._looked + NODES:
            return
        self._looked = self.now()
        there = set(self._grid.get_node_ids())
        for node in sorted(there - self._greeted):
            self._push(node, HELLO, ())
        self._greeted = there

    def _push(self, node: int, kind: str, frames: tuple[bytes, ...]) -> None:
        content = RecordDict({RECORD: ConfigRecord({FRAMES: list(frames)})})
        [number] = self._grid.push_messages([Message(content, node, kind, ttl=TTL)])
        if number:
            self._asked[number] = PendingLetter(node, frames, self.now() + TTL)

    def _pull(self) -> None:
        for reply in self._answers():
            asked = self._asked.pop(reply.metadata.reply_to_message_id, None)
            if asked is None:
                continue
            if reply.has_error():
                self._greeted.discard(asked.node)  # gone, or its other half is: it is asked again who it is
            else:
                self._come.extend((asked.node, frame) for frame in frames_in(reply.content))
        self._asked = {number: asked for number, asked in self._asked.items() if self.now() < asked.until}

    def _answers(self) -> Iterable[Message]:
        """Take what has come. An answer that Flower cannot decode is dropped: any member can send one."""
        try:
            return self._grid.pull_messages(list(self._asked)) if self._asked else ()
        except InputError:
            raise
        except Exception as error:  # whatever its decoder raises; the next look finds the message gone
            log.warning("an answer cannot be decoded: %s: %s", type(error).__name__, error)
            return ()


def frames_in(content: RecordDict) -> list[bytes]:
    """The frames in a message; none if it has not the form of one."""
    record = content.config_records.get(RECORD) if isinstance(content, RecordDict) else None
    found = [] if record is None else record.get(FRAMES)
    return [frame for frame in found if isinstance(frame, bytes)] if isinstance(found, list) else []
