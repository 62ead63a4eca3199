"""The seam under the server half: anything that carries bytes there and back may sit here. And the one in one process.

A transport promises nothing: frames may be lost, doubled, late, out of order or altered. The server half asks again,
and seals and checks everything itself; encryption, and who may connect at all, are the transport's.
"""

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from typing import Protocol

from seedbed.deployment.federation.node import Node

Address = Hashable  # where a node can be written to; the server learns whose it is from what comes from there


class Transport(Protocol):
    """What the server half needs."""

    def send(self, address: Address, frames: Sequence[bytes], *, urgent: bool = True) -> None:
        """Send a letter's frames; a node that is gone is no error.

        Args:
            urgent: it must get there. Where a letter costs much by itself, one that is not may be dropped: what it
                says is said again with the next that is.
        """
        ...

    def receive(self, seconds: float) -> tuple[Address, bytes] | None:
        """The next frame and where it came from, or None after so many seconds without one."""
        ...

    def now(self) -> float:
        """Seconds, on a clock that only goes forward."""
        ...


class InProcess:
    """Nodes in the server's own process, on a clock that jumps over waiting: for tests, and to try things out.

    Args:
        nodes: by address. A node that is taken out of it is gone; one that is put in says hello.
    """

    def __init__(self, nodes: Mapping[Address, Node]):
        self.nodes = dict(nodes)
        self._coming: deque[tuple[Address, bytes]] = deque()
        self._greeted: set[Address] = set()
        self._now = 0.0

    def send(self, address: Address, frames: Sequence[bytes], *, urgent: bool = True) -> None:
        node = self.nodes.get(address)
        if node is not None:
            self._coming.extend((address, answer) for frame in frames for answer in node.answer(frame))

    def receive(self, seconds: float) -> tuple[Address, bytes] | None:
        if not self._coming and seconds:
            self._now += seconds
            unknown = [a for a, node in self.nodes.items() if a not in self._greeted or not node.known]
            self._coming.extend((a, frame) for a in unknown for frame in self.nodes[a].hello())
            self._greeted.update(unknown)
        return self._coming.popleft() if self._coming else None

    def now(self) -> float:
        return self._now
