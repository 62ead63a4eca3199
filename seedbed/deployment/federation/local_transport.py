"""Transport between processes of one machine over a Unix socket; the file's permissions control access.

Frames form a stream, and each header states its frame's length. An invalid header closes the connection before memory
is allocated. Connections between machines must be encrypted: see docs/federation.md.
"""

import queue
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

from seedbed.deployment.federation.node import Node
from seedbed.deployment.federation.transport import Address
from seedbed.deployment.wire import FRAME_HEADER, FrameRefused
from seedbed.deployment.wire.frames import FrameHeader

FRAME_TIMEOUT = 30.0  # seconds for the rest of a frame after its first byte
CONNECTIONS, WAITING = 256, 1024  # limits: connected nodes; frames that the server has not read yet


class LocalTransport:
    """The server's end of the socket.

    Args:
        path: the socket, whose folder is created; a socket left by a killed server is replaced.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_socket():
            path.unlink()
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(path))
        self._listening.listen(CONNECTIONS)
        self._peers: dict[Address, socket.socket] = {}
        self._frames: queue.Queue[tuple[Address, bytes]] = queue.Queue(WAITING)
        threading.Thread(target=self._accept, daemon=True).start()

    def send(self, address: Address, frames: Sequence[bytes], *, urgent: bool = True) -> None:
        peer = self._peers.get(address)
        try:
            for frame in frames if peer is not None else ():
                peer.sendall(frame)  # type: ignore[union-attr]
        except OSError:
            self._drop(address)

    def receive(self, seconds: float) -> tuple[Address, bytes] | None:
        try:
            return self._frames.get(timeout=max(seconds, 0.0)) if seconds > 0 else self._frames.get_nowait()
        except queue.Empty:
            return None

    def now(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        self._listening.close()
        for address in list(self._peers):
            self._drop(address)

    def _accept(self) -> None:
        for address in count():
            try:
                peer, _ = self._listening.accept()
            except OSError:
                return
            if len(self._peers) >= CONNECTIONS:
                peer.close()
                continue
            self._peers[address] = peer
            threading.Thread(target=self._listen, args=(address, peer), daemon=True).start()

    def _listen(self, address: Address, peer: socket.socket) -> None:
        with suppress(OSError, FrameRefused):
            while True:
                self._frames.put((address, receive_frame(peer)))
        self._drop(address)

    def _drop(self, address: Address) -> None:
        peer = self._peers.pop(address, None)
        if peer is not None:
            peer.close()


def run_local_node(node: Node, path: Path, *, pause: float = 0.2) -> None:
    """Run a node for the life of its process: connect, greet, answer, and reconnect after `pause` seconds."""
    while True:
        with suppress(OSError, FrameRefused), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
            server.connect(str(path))
            server.sendall(b"".join(node.hello()))
            while True:
                for answer in node.answer(receive_frame(server)):
                    server.sendall(answer)
        time.sleep(pause)


def receive_frame(peer: socket.socket) -> bytes:
    """Wait for a frame.

    Raises:
        OSError: the connection was closed, or a frame was not completed in time.
        FrameRefused: the header is not valid.
    """
    peer.settimeout(None)
    first = _exactly(peer, 1)
    peer.settimeout(FRAME_TIMEOUT)
    head = first + _exactly(peer, FRAME_HEADER.size - 1)
    return head + _exactly(peer, FrameHeader(head).length - FRAME_HEADER.size)


def _exactly(peer: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = peer.recv(size - len(data))
        if not piece:
            raise ConnectionError("the connection was closed")
        data += piece
    return bytes(data)
