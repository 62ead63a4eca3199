"""The transport interface: anything that carries bytes in both directions. And a transport within one process.

A transport guarantees nothing: frames may be lost, duplicated, delayed, reordered or altered. The server resends, and
authenticates and checks everything itself. Encryption, and the control of connections, belong to the transport.
"""

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from typing import Protocol

from seedbed.deployment.federation.node import Node

Address = Hashable  # a node's return address; the server learns the client from the letters that come from it


class Transport(Protocol):
    """The interface that the server needs."""

    def send(self, address: Address, frames: Sequence[bytes], *, urgent: bool = True) -> None:
        """Send a letter's frames; an unreachable node is not an error.

        Args:
            urgent: the letter must arrive. A transport with a high cost per letter may drop others: their content is
                repeated with the next urgent letter.
        """
        ...

    def receive(self, seconds: float) -> tuple[Address, bytes] | None:
        """The next frame and its source; None after `seconds` without a frame."""
        ...

    def now(self) -> float:
        """Seconds on a monotonic clock."""
        ...


class InProcess:
    """Nodes in the server's process, with a clock that skips waiting: for tests and experiments.

    Args:
        nodes: by address. A node removed from `nodes` is unreachable; an added one greets the server.
    """

    def __init__(self, nodes: Mapping[Address, Node]):
        self.nodes = dict(nodes)
        self._incoming: deque[tuple[Address, bytes]] = deque()
        self._greeted: set[Address] = set()
        self._now = 0.0

    def send(self, address: Address, frames: Sequence[bytes], *, urgent: bool = True) -> None:
        node = self.nodes.get(address)
        if node is not None:
            self._incoming.extend((address, answer) for frame in frames for answer in node.answer(frame))

    def receive(self, seconds: float) -> tuple[Address, bytes] | None:
        if not self._incoming and seconds:
            self._now += seconds
            unknown = [a for a, node in self.nodes.items() if a not in self._greeted or not node.known]
            self._incoming.extend((a, frame) for a in unknown for frame in self.nodes[a].hello())
            self._greeted.update(unknown)
        return self._incoming.popleft() if self._incoming else None

    def now(self) -> float:
        return self._now
