"""Messages between peers over TCP, encrypted by `channel`: a peer that has none of the circle's keys is not let in.

Each peer listens on one port and has one connection more towards every contact. A lost connection is made again; what
was under way is lost, and said again by the peers (`peer`). A process group of `torch.distributed` is no such thing: it
does not outlive a rank.
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

WAITING = 4  # messages of a contact that are read ahead; as many of this peer's to it that are not sent yet
SOCKET_LINGER = 2.0  # seconds that last words have
RECONNECT_DELAY = 0.1  # seconds before a connection is tried again
STUCK = 30.0  # seconds that a message may take to leave
STRANGERS = 32  # connections at once whose owner has not shown a contact's key yet
DEFAULT_MAX_MESSAGE = 64 << 20  # bytes of a message, where none are said
MESSAGE_LENGTH = struct.Struct("<I")


class PeerNetwork:
    """One peer's connections.

    Args:
        contacts: with whom it exchanges.
        secret: [32]  its own.
        listen: host:port to listen on, where that is not its address in the circle.
        largest: bytes of the frames of a message, at most: a longer one is refused before it is read.
    Raises:
        InputError: the address cannot be listened on.
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
        self._come: queue.Queue[tuple[ClientId, bytes]] = queue.Queue()
        self._room = {c: threading.Semaphore(WAITING) for c in contacts}
        self._strangers: dict[socket.socket, str] = {}  # and where they come from; oldest first
        self._ears: dict[ClientId, socket.socket] = {}  # each contact's last connection to here
        self._change = threading.Lock()  # of the two
        self._closed = False
        self._ear = _listening(listen or circle.addresses[own])
        threading.Thread(target=self._accept, daemon=True).start()
        self._mouths = {c: _Mouth(own, secret, circle.keys[c], circle.addresses[c]) for c in contacts}

    def send(self, to: ClientId, frames: Sequence[bytes]) -> None:
        self._mouths[to].say(_packed(frames))

    def receive(self, seconds: float) -> Sequence[bytes] | None:
        """The next message; None after so many seconds without one."""
        try:
            sender, message = self._come.get(timeout=seconds) if seconds > 0 else self._come.get_nowait()
        except queue.Empty:
            return None
        self._room[sender].release()
        return _unpacked(message, self._limit)

    def now(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        """Last words have a moment to leave."""
        end = time.monotonic() + SOCKET_LINGER
        for mouth in self._mouths.values():
            mouth.close(end)
        self._closed = True
        with self._change:
            for stream in (self._ear, *self._strangers, *self._ears.values()):
                _end(stream)

    def _accept(self) -> None:
        while not self._closed:
            try:
                stream, (address, *_) = self._ear.accept()
            except OSError:  # closed; or no file descriptor is left for now
                time.sleep(RECONNECT_DELAY)
                continue
            with self._change:
                if len(self._strangers) >= STRANGERS:
                    self._make_room()
                self._strangers[stream] = address
            threading.Thread(target=self._listen, args=(stream,), daemon=True).start()

    def _make_room(self) -> None:
        """End the oldest stranger's connection, of the address that has most of them: turning new ones away would let
        silent ones keep contacts out."""
        [(busiest, _)] = Counter(self._strangers.values()).most_common(1)
        oldest = next(stream for stream, address in self._strangers.items() if address == busiest)
        del self._strangers[oldest]
        _end(oldest)

    def _listen(self, stream: socket.socket) -> None:
        """Read one connection's messages."""
        try:
            sender, channel = accept(stream, self._secret, self._keys.get)
            self._let_in(stream, sender)
            while True:
                self._room[sender].acquire()
                try:
                    message = channel.receive(self._limit)
                except BaseException:
                    self._room[sender].release()
                    raise
                self._come.put((sender, message))
        except OSError:
            pass  # the other end connects again
        finally:
            with self._change:
                self._strangers.pop(stream, None)
                self._ears = {c: one for c, one in self._ears.items() if one is not stream}
            stream.close()

    def _let_in(self, stream: socket.socket, sender: ClientId) -> None:
        """A contact needs one connection to here: the one before may be of a machine that has gone without a word."""
        with self._change:
            self._strangers.pop(stream, None)
            before, self._ears[sender] = self._ears.get(sender), stream
        if before is not None:
            _end(before)


class _Mouth:
    """Says messages to one contact, as long as it is there; others are dropped."""

    def __init__(self, own: ClientId, secret: bytes, other: bytes, address: str):
        self._identity, self._address = (own, secret, other), split_address(address)
        self._going: queue.Queue[bytes | None] = queue.Queue(WAITING)
        self._stream: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def say(self, message: bytes) -> None:
        with suppress(queue.Full):  # it does not read
            self._going.put_nowait(message)

    def close(self, end: float) -> None:
        with suppress(queue.Full):
            self._going.put(None, timeout=max(0.0, end - time.monotonic()))
        self._thread.join(max(0.0, end - time.monotonic()))
        if self._stream is not None:
            _end(self._stream)

    def _run(self) -> None:
        channel: Channel | None = None
        while (message := self._going.get()) is not None:
            for _ in range(2):  # a connection that has ended unseen is made again
                try:
                    channel = channel or self._connected()
                    channel.send(message)
                    break
                except OSError:
                    channel = None
                    self._drop()
        self._drop()

    def _connected(self) -> Channel:
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


def _listening(place: str) -> socket.socket:
    host, port = split_address(place)
    try:
        family, *_, at = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(at[:2], family=family, backlog=STRANGERS)
    except OSError as error:
        raise InputError(
            f"cannot listen on {place} ({error.strerror}): another process may; where that is not this machine's "
            "own address, say which is by --listen 0.0.0.0:PORT"
        ) from error


def _end(stream: socket.socket) -> None:
    """Also for a thread that waits for it."""
    with suppress(OSError):
        stream.shutdown(socket.SHUT_RDWR)
    stream.close()


def _most_frames(size: int) -> int:
    """Of messages of so many bytes: a status, and an offer in pieces."""
    return 2 + size // FRAME_CHUNK


def _packed(frames: Sequence[bytes]) -> bytes:
    return b"".join(MESSAGE_LENGTH.pack(len(frame)) + frame for frame in frames)


def _unpacked(message: bytes, limit: int) -> list[bytes]:
    """The frames of a message; none where it does not consist of frames."""
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
