"""Connections between peers: who may connect, what is refused before it is read, and what a contact can take."""

import errno
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from seedbed.deployment.peers import noise_channel
from seedbed.deployment.peers.address_book import AddressBook
from seedbed.deployment.peers.network import PeerNetwork
from seedbed.deployment.peers.noise_channel import FIRST, FRAME_LENGTH, Channel, NotLetIn, accept, connect
from seedbed.privacy.secure.keys import public_of

from .ports import free_ports

A, B, STRANGER = (bytes([i]) * 32 for i in (1, 2, 3))


OPEN: list[socket.socket] = []


def pair() -> tuple[socket.socket, socket.socket]:
    OPEN.extend(ends := socket.socketpair())
    return ends


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


class Recording:
    """A socket that keeps what is sent."""

    def __init__(self, stream: socket.socket):
        self._stream, self.sent = stream, b""
        self.recv, self.settimeout = stream.recv, stream.settimeout

    def sendall(self, data: bytes) -> None:
        self.sent += data
        self._stream.sendall(data)


def met(secret: bytes, other: bytes, number: int = 0, key: bytes | None = None) -> tuple[object, object, bytes]:
    """Both ends' channels, or why there is none; and what the first said. B knows A as peer 0 (by `key`)."""
    one, two = pair()
    known = {0: key or public_of(A)}
    ends: dict[str, object] = {}

    def answer() -> None:
        try:
            ends["b"] = accept(two, B, known.get)
        except OSError as why:
            ends["b"] = why
            two.close()

    thread = threading.Thread(target=answer)
    thread.start()
    recording = Recording(one)
    try:
        ends["a"] = connect(recording, number, secret, other)
    except OSError as why:
        ends["a"] = why
    thread.join()
    return ends["a"], ends["b"], recording.sent


def test_both_ends_hear_each_other() -> None:
    a, (number, b), _ = met(A, public_of(B))  # type: ignore[misc]
    assert number == 0
    for message in (b"", b"one", bytes(100_000)):
        a.send(message)
        assert b.receive(100_000) == message
        b.send(message)
        assert a.receive(100_000) == message


@pytest.mark.parametrize(
    ("secret", "other", "number"),
    [(STRANGER, public_of(B), 0), (A, public_of(STRANGER), 0), (A, public_of(B), 7), (A, bytes(32), 0)],
    ids=["another key", "another's key there", "not a contact", "low order"],
)
def test_who_has_not_the_right_keys_is_not_let_in(secret: bytes, other: bytes, number: int) -> None:
    if other == bytes(32):
        one, _ = pair()
        with pytest.raises(NotLetIn, match="invalid public key"):
            connect(one, number, secret, other)
        return
    a, b, _ = met(secret, other, number)
    assert isinstance(a, OSError)
    assert isinstance(b, NotLetIn)


def test_a_recorded_handshake_opens_nothing() -> None:
    """Played again, it is answered, but who plays it can say no word, so that it is not let in; each connection has
    keys of its own."""
    *_, first = met(A, public_of(B))
    for more in (b"", FRAME_LENGTH.pack(16) + bytes(16)):
        again = pair()
        again[0].sendall(first + more)
        with pytest.raises(ConnectionError, match="was altered"):
            accept(again[1], B, {0: public_of(A)}.get)
    assert met(A, public_of(B))[2] != first


@pytest.mark.parametrize("byte", [0, 4, 20, 36, FIRST.size - 1])
def test_an_altered_handshake(byte: int) -> None:
    *_, first = met(A, public_of(B))
    altered = bytearray(first[: FIRST.size])
    altered[byte] ^= 1
    ends = pair()
    ends[0].sendall(bytes(altered))
    with pytest.raises(NotLetIn):
        accept(ends[1], B, {0: public_of(A), 1: public_of(A)}.get)


def test_messages_out_of_order_altered_or_too_long() -> None:
    a, (_, b), _ = met(A, public_of(B))  # type: ignore[misc]
    frames: list[bytes] = []
    a.stream = type("Kept", (), {"sendall": lambda _, data: frames.append(data)})()
    for message in (b"one", b"two", b"six"):
        a.send(message)
    for wrong, why in (
        (frames[1], "altered"),
        (FRAME_LENGTH.pack(1 << 31), "at most"),
        (FRAME_LENGTH.pack(3) + b"abc", "at most"),
    ):
        near, far = pair()
        near.sendall(wrong)
        b.stream = far
        with pytest.raises(ConnectionError, match=why):
            b.receive(1000)


def test_a_contact_that_sends_without_end_takes_no_memory() -> None:
    """By its own right key: messages of 4 GB, messages of half a million empty frames, and 40 messages of 2 MB that are
    not read. Memory grows by less than 64 MB, and the other contact is heard."""
    keys = [public_of(secret) for secret in (A, B, STRANGER)]
    circle = AddressBook([f"127.0.0.1:{port}" for port in free_ports(3)], keys)
    largest = 2 << 20
    b = PeerNetwork(circle, 1, [0, 2], B, largest=largest)
    honest = PeerNetwork(circle, 2, [1], STRANGER)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    big = bytes(largest)
    try:
        for message in (None, struct.pack("<I", 0) * (largest // 4), struct.pack("<I", largest) + big):
            for _ in range(3 if message is None else 40):
                _said(circle, message)
        for _ in range(50):
            honest.send(1, [b"honest"])
            if b.receive(0.1) == [b"honest"]:
                break
        else:
            pytest.fail("the honest contact was not heard")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 64 << 10, f"{grown >> 10} MB"
    finally:
        b.close()
        honest.close()


def _said(circle: AddressBook, message: bytes | None) -> None:
    """A message from A to B, or the beginning of one of 4 GB, of which 8 MB follow."""
    with socket.create_connection(("127.0.0.1", int(circle.addresses[1].rpartition(":")[2]))) as stream:
        stream.settimeout(0.2)
        try:
            mine: Channel = connect(stream, 0, A, circle.keys[1])
            stream.settimeout(0.2)
            if message is None:
                stream.sendall(FRAME_LENGTH.pack(2**32 - 1) + bytes(8 << 20))
            else:
                mine.send(message)
        except OSError:
            pass


@pytest.mark.parametrize("end", ["responder", "initiator"])
def test_a_handshake_byte_by_byte_has_an_end(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it has HANDSHAKE seconds, not every byte."""
    monkeypatch.setattr(noise_channel, "HANDSHAKE", 0.3)
    near, far = pair()
    over = threading.Event()

    def dribble() -> None:
        while not over.wait(0.1):
            near.sendall(b"\0")

    thread = threading.Thread(target=dribble)
    thread.start()
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        accept(far, B, {0: public_of(A)}.get) if end == "responder" else connect(far, 0, A, public_of(B))
    assert time.monotonic() - begun < 3, "all 52 bytes take 5.2 s"
    over.set()
    thread.join()


@pytest.fixture
def network() -> Iterator[tuple[AddressBook, PeerNetwork, int]]:
    """B listens for A."""
    circle = AddressBook([f"127.0.0.1:{port}" for port in free_ports(2)], [public_of(A), public_of(B)])
    b = PeerNetwork(circle, 1, [0], B)
    yield circle, b, int(circle.addresses[1].rpartition(":")[2])
    b.close()


def hears(circle: AddressBook, b: PeerNetwork, word: bytes) -> bool:
    """Whether A comes in with this word."""
    a, end = PeerNetwork(circle, 0, [1], A), time.monotonic() + 10
    try:
        while time.monotonic() < end:
            a.send(1, [word])
            while (said := b.receive(0.1)) is not None:
                if said == [word]:
                    return True
        return False
    finally:
        a.close()


def test_strangers_that_say_nothing_do_not_keep_contacts_out(
    network: tuple[AddressBook, PeerNetwork, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More connections than are open to strangers at once, which never end by themselves."""
    monkeypatch.setattr(noise_channel, "HANDSHAKE", 600.0)
    circle, b, port = network
    OPEN.extend(socket.create_connection(("127.0.0.1", port)) for _ in range(80))
    assert hears(circle, b, b"here")


def test_a_contact_whose_machine_lost_power_comes_in_again(network: tuple[AddressBook, PeerNetwork, int]) -> None:
    """Its connections from before stay open here: nothing tells that nobody is at their other end."""
    circle, b, port = network
    for number in range(10):
        OPEN.append(stream := socket.create_connection(("127.0.0.1", port)))
        connect(stream, 0, A, circle.keys[1]).send(FRAME_LENGTH.pack(1) + b"%d" % number)
        assert b.receive(5) == [b"%d" % number]
    assert hears(circle, b, b"again")


def test_recordings_do_not_keep_their_owner_out(network: tuple[AddressBook, PeerNetwork, int]) -> None:
    circle, b, port = network
    OPEN.append(owner := socket.create_connection(("127.0.0.1", port)))
    recording = Recording(owner)
    recording.settimeout(5)
    connect(recording, 0, A, circle.keys[1])
    for _ in range(20):
        OPEN.append(stream := socket.create_connection(("127.0.0.1", port)))
        stream.sendall(recording.sent[: FIRST.size])
    assert hears(circle, b, b"owner")


def test_no_file_descriptor_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """It listens on."""
    left, accepting = [2], socket.socket.accept

    def accept_or_not(self: socket.socket) -> object:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.EMFILE, "Too many open files")
        return accepting(self)

    monkeypatch.setattr(socket.socket, "accept", accept_or_not)
    circle = AddressBook([f"127.0.0.1:{port}" for port in free_ports(2)], [public_of(A), public_of(B)])
    b = PeerNetwork(circle, 1, [0], B)
    try:
        assert hears(circle, b, b"here")
    finally:
        b.close()
