"""Messages between peers over TCP, encrypted by `noise_channel`: only peers in the address book can connect.

Each peer listens on one port, and opens one connection to every contact. A lost connection is reopened; messages lost
with it are resent by `peer`. A process group of `torch.distributed` does not suffice: it does not survive the loss of a
rank.
"""

import queue
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from seedbed.deployment.peers.address_book import AddressBook, split_address
from seedbed.deployment.peers.noise_channel import HANDSHAKE, Channel, accept, connect
from seedbed.deployment.wire.frames import FRAME_CHUNK, MAX_FRAME
from seedbed.errors import InputError
from seedbed.federated import ClientId

WAITING = 4  # queue length per contact: messages read ahead, and messages not sent yet
SOCKET_LINGER = 2.0  # seconds for sending the last messages
RECONNECT_DELAY = 0.1  # seconds before reconnecting
STUCK = 30.0  # seconds after which a send times out
STRANGERS = 32  # limit on connections that have not authenticated yet
DEFAULT_MAX_MESSAGE = 64 << 20  # bytes of a message, unless set
MESSAGE_LENGTH = struct.Struct("<I")


class PeerNetwork:
    """One peer's connections.

    Args:
        circle: the address book.
        own: this peer's number.
        contacts: the peers that it exchanges with.
        secret: [32] bytes, its own.
        listen: HOST:PORT to listen on, if that differs from its address in the book.
        largest: the largest size of a message's frames in bytes; a longer message is refused before it is read.
    Raises:
        InputError: the address cannot be used.
    """

    def __init__(
        self,
        circle: AddressBook,
        own: ClientId,
        contacts: Sequence[ClientId],
        secret: bytes,
        listen: str | None = None,
        *,
        largest: int = DEFAULT_MAX_MESSAGE,
    ):
        self._keys = {c: circle.keys[c] for c in contacts}
        self._secret, self._limit = secret, largest + MESSAGE_LENGTH.size * _most_frames(largest)
        self._arrived: queue.Queue[tuple[ClientId, bytes]] = queue.Queue()
        self._slots = {c: threading.Semaphore(WAITING) for c in contacts}
        self._strangers: dict[socket.socket, str] = {}  # connection → address; oldest first
        self._incoming: dict[ClientId, socket.socket] = {}  # each contact's latest connection to this peer
        self._change = threading.Lock()  # guards these two
        self._closed = False
        self._listener = _open_listener(listen or circle.addresses[own])
        threading.Thread(target=self._accept, daemon=True).start()
        self._senders = {c: _Sender(own, secret, circle.keys[c], circle.addresses[c]) for c in contacts}

    def send(self, to: ClientId, frames: Sequence[bytes]) -> None:
        self._senders[to].send(_pack(frames))

    def receive(self, seconds: float) -> Sequence[bytes] | None:
        """The next message; None after `seconds` without one."""
        try:
            sender, message = self._arrived.get(timeout=seconds) if seconds > 0 else self._arrived.get_nowait()
        except queue.Empty:
            return None
        self._slots[sender].release()
        return _unpack(message, self._limit)

    def now(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        """Close all connections, after a moment for the last messages."""
        end = time.monotonic() + SOCKET_LINGER
        for sender in self._senders.values():
            sender.close(end)
        self._closed = True
        with self._change:
            for stream in (self._listener, *self._strangers, *self._incoming.values()):
                _end(stream)

    def _accept(self) -> None:
        while not self._closed:
            try:
                stream, (address, *_) = self._listener.accept()
            except OSError:  # closed, or no file descriptor left for now
                time.sleep(RECONNECT_DELAY)
                continue
            with self._change:
                if len(self._strangers) >= STRANGERS:
                    self._make_room()
                self._strangers[stream] = address
            threading.Thread(target=self._listen, args=(stream,), daemon=True).start()

    def _make_room(self) -> None:
        """Close the oldest unauthenticated connection of the busiest address. Refusing new ones instead would let
        silent connections keep contacts out."""
        [(busiest, _)] = Counter(self._strangers.values()).most_common(1)
        oldest = next(stream for stream, address in self._strangers.items() if address == busiest)
        del self._strangers[oldest]
        _end(oldest)

    def _listen(self, stream: socket.socket) -> None:
        """Read the messages of one connection."""
        try:
            sender, channel = accept(stream, self._secret, self._keys.get)
            self._admit(stream, sender)
            while True:
                self._slots[sender].acquire()
                try:
                    message = channel.receive(self._limit)
                except BaseException:
                    self._slots[sender].release()
                    raise
                self._arrived.put((sender, message))
        except OSError:
            pass  # the other end connects again
        finally:
            with self._change:
                self._strangers.pop(stream, None)
                self._incoming = {c: one for c, one in self._incoming.items() if one is not stream}
            stream.close()

    def _admit(self, stream: socket.socket, sender: ClientId) -> None:
        """Keep one connection per contact: the earlier one may belong to a machine that has vanished."""
        with self._change:
            self._strangers.pop(stream, None)
            before, self._incoming[sender] = self._incoming.get(sender), stream
        if before is not None:
            _end(before)


class _Sender:
    """Sends messages to one contact while it is reachable; others are dropped."""

    def __init__(self, own: ClientId, secret: bytes, other: bytes, address: str):
        self._identity, self._address = (own, secret, other), split_address(address)
        self._outgoing: queue.Queue[bytes | None] = queue.Queue(WAITING)
        self._stream: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def send(self, message: bytes) -> None:
        with suppress(queue.Full):  # the contact does not read
            self._outgoing.put_nowait(message)

    def close(self, end: float) -> None:
        with suppress(queue.Full):
            self._outgoing.put(None, timeout=max(0.0, end - time.monotonic()))
        self._thread.join(max(0.0, end - time.monotonic()))
        if self._stream is not None:
            _end(self._stream)

    def _run(self) -> None:
        channel: Channel | None = None
        while (message := self._outgoing.get()) is not None:
            for _ in range(2):  # reconnect if the connection ended unnoticed
                try:
                    channel = channel or self._connect()
                    channel.send(message)
                    break
                except OSError:
                    channel = None
                    self._drop()
        self._drop()

    def _connect(self) -> Channel:
        try:
            self._stream = socket.create_connection(self._address, timeout=HANDSHAKE)
            self._stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            channel = connect(self._stream, *self._identity)
        except OSError:
            time.sleep(RECONNECT_DELAY)
            raise
        self._stream.settimeout(STUCK)
        return channel

    def _drop(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _open_listener(place: str) -> socket.socket:
    host, port = split_address(place)
    try:
        family, *_, at = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(at[:2], family=family, backlog=STRANGERS)
    except OSError as error:
        raise InputError(
            f"cannot listen on {place} ({error.strerror}): another process may use it; if this is not an address of "
            "this machine, give one with --listen 0.0.0.0:PORT"
        ) from error


def _end(stream: socket.socket) -> None:
    """Close a connection, and wake a thread that waits for it."""
    with suppress(OSError):
        stream.shutdown(socket.SHUT_RDWR)
    stream.close()


def _most_frames(size: int) -> int:
    """The largest number of frames in a message of this size: a status, and an offer in chunks."""
    return 2 + size // FRAME_CHUNK


def _pack(frames: Sequence[bytes]) -> bytes:
    return b"".join(MESSAGE_LENGTH.pack(len(frame)) + frame for frame in frames)


def _unpack(message: bytes, limit: int) -> list[bytes]:
    """The frames of a message; empty if it is malformed."""
    frames: list[bytes] = []
    at = 0
    while at + MESSAGE_LENGTH.size <= len(message) and len(frames) <= _most_frames(limit):
        (length,) = MESSAGE_LENGTH.unpack_from(message, at)
        at += MESSAGE_LENGTH.size
        frames.append(message[at : at + length])
        at += length
        if length > MAX_FRAME:
            return []
    return frames if at == len(message) else []
