"""Messages between peers over ZeroMQ, encrypted by its CURVE: who has none of the circle's keys gets no connection.

Each peer listens on one socket and has one more towards every contact. A lost connection is made again by ZeroMQ
itself; what was under way is lost, and said again by the peers (`peer`). A process group of `torch.distributed` is no
such thing: it does not outlive a rank.
"""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from seedbed.errors import InputError
from seedbed.federated import ClientId
from seedbed.peers.circle import Circle
from seedbed.wire.frames import LONGEST

WAITING = 16  # messages not yet taken by a peer's network, or not yet read, for each connection; more are dropped
LINGER = 2000  # milliseconds that last words have
DOOR = "inproc://zeromq.zap.01"  # where ZeroMQ asks who may come in: its protocol ZAP


class Network:
    """One peer's sockets.

    Args:
        contacts: with whom it exchanges.
        secret: [32]  its own.
        listen: host:port to listen on, where that is not its address in the circle.
    Raises:
        InputError: pyzmq is not there, or the address cannot be listened on.
    """

    def __init__(
        self, circle: Circle, own: ClientId, contacts: Sequence[ClientId], secret: bytes, listen: str | None = None
    ):
        zmq = _zmq()
        self._context = zmq.Context()
        self._door = _Door(self._context, {circle.keys[c] for c in contacts})
        identity = [zmq.utils.z85.encode(key) for key in (circle.keys[own], secret)]
        self._mouths: dict[ClientId, Any] = {}
        self._ear = self._socket(zmq.PULL, identity)
        self._ear.curve_server = True
        self._ear.maxmsgsize = LONGEST
        place = listen or circle.addresses[own]
        try:
            self._ear.bind(f"tcp://{place}")
        except zmq.ZMQError as error:
            self.close()
            raise InputError(
                f"cannot listen on {place} ({error.strerror}): another process may; where that is not this machine's "
                "own address, say which is by --listen 0.0.0.0:PORT"
            ) from error
        self._mouths = {c: self._mouth(circle, c, identity) for c in contacts}
        self._poller = zmq.Poller()
        self._poller.register(self._ear, zmq.POLLIN)

    def send(self, to: ClientId, frames: Sequence[bytes]) -> None:
        zmq = _zmq()
        with suppress(zmq.Again):  # it is not there, or does not read
            self._mouths[to].send_multipart(frames, zmq.NOBLOCK)

    def receive(self, seconds: float) -> Sequence[bytes] | None:
        if not self._poller.poll(1000 * seconds):
            return None
        frames: list[bytes] = self._ear.recv_multipart()
        return frames

    def now(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        """Last words have a moment to leave."""
        for socket in (self._ear, *self._mouths.values()):
            socket.close()
        self._context.term()  # the door ends with it
        self._door.join()

    def _mouth(self, circle: Circle, to: ClientId, identity: list[bytes]) -> Any:
        zmq = _zmq()
        mouth = self._socket(zmq.PUSH, identity)
        mouth.curve_serverkey = zmq.utils.z85.encode(circle.keys[to])
        mouth.immediate = True  # nothing is kept for who is not there
        mouth.connect(f"tcp://{circle.addresses[to]}")
        return mouth

    def _socket(self, kind: int, identity: list[bytes]) -> Any:
        socket = self._context.socket(kind)
        socket.curve_publickey, socket.curve_secretkey = identity
        socket.ipv6 = True
        socket.sndhwm = socket.rcvhwm = WAITING
        socket.reconnect_ivl = 100  # milliseconds
        socket.linger = LINGER
        return socket


class _Door(threading.Thread):
    """Answers ZeroMQ's question whether the owner of a key may connect."""

    def __init__(self, context: Any, keys: set[bytes]):
        super().__init__(daemon=True)
        self._zmq, self._keys = _zmq(), keys
        self._socket = context.socket(self._zmq.REP)
        self._socket.linger = 0
        self._socket.bind(DOOR)
        self.start()

    def run(self) -> None:
        with suppress(self._zmq.ZMQError):  # the context ends
            while True:
                version, request, _, _, _, mechanism, *credentials = self._socket.recv_multipart()
                known = mechanism == b"CURVE" and len(credentials) == 1 and credentials[0] in self._keys
                answer = (b"200", b"OK") if known else (b"400", b"unknown key")
                self._socket.send_multipart([version, request, *answer, b"", b""])
        self._socket.close()


def _zmq() -> Any:
    try:
        import zmq
        import zmq.utils.z85
    except ImportError as error:
        raise InputError("peers need pyzmq, which is not installed: pip install 'seedbed[peers]'") from error
    return zmq
