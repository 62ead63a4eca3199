"""An encrypted connection between two peers that know each other's public keys: Noise_KK_25519_ChaChaPoly_SHA256.

T. Perrin, "The Noise Protocol Framework", revision 34 (2018), noiseprotocol.org. KK: both static keys are known before.

    initiator  --  number of the initiator [4], e, es, ss, tag  -->  responder
    initiator  <-------------------  e, ee, se, tag  --------------  responder
    initiator  --  an empty message  ----------------------------->  responder

The third message protects the responder: what came before may be a replayed recording. Ephemeral keys give forward
secrecy. Every message has a length of 4 bytes that is checked against a limit before the message is read. (ZeroMQ,
used before, stores all parts of a message before any can be inspected.)
"""

import hashlib
import hmac
import struct
import time
from collections.abc import Callable
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from seedbed.privacy.secure.keys import new_secret, public_of

NOISE_NAME = b"Noise_KK_25519_ChaChaPoly_SHA256"  # 32 bytes: the initial h, unhashed
PROLOGUE = b"seedbed peers 3"
KEY, TAG = 32, 16
FIRST = struct.Struct(f"<I{KEY + TAG}s")
SECOND = KEY + TAG
FRAME_LENGTH = struct.Struct("<I")
HANDSHAKE = 10.0  # seconds for the whole handshake


class ByteStream(Protocol):
    """The socket methods that a channel uses."""

    def recv(self, size: int, /) -> bytes: ...

    def sendall(self, data: bytes, /) -> None: ...

    def settimeout(self, seconds: float | None, /) -> None: ...


class NotLetIn(ConnectionError):
    """The other end does not have the expected key."""


class Channel:
    """One end of a connection. Messages arrive complete and in order, or not at all."""

    def __init__(self, stream: ByteStream, sending: bytes, receiving: bytes):
        self.stream = stream
        self._sending, self._receiving = ChaCha20Poly1305(sending), ChaCha20Poly1305(receiving)
        self._sent = self._received = 0

    def send(self, message: bytes) -> None:
        sealed = self._sending.encrypt(_nonce(self._sent), message, None)
        self._sent += 1
        self.stream.sendall(FRAME_LENGTH.pack(len(sealed)) + sealed)

    def receive(self, limit: int, end: float | None = None) -> bytes:
        """The next message.

        Args:
            limit: the largest size of a message in bytes.
            end: deadline (`time.monotonic`); None: the stream's timeout.
        Raises:
            OSError: the connection ended; the message is too long or was altered.
        """
        (length,) = FRAME_LENGTH.unpack(exactly(self.stream, FRAME_LENGTH.size, end))
        if not TAG <= length <= limit + TAG:
            raise ConnectionError(f"a message of {length} bytes: at most {limit + TAG} are accepted")
        sealed = exactly(self.stream, length, end)
        try:
            message = self._receiving.decrypt(_nonce(self._received), sealed, None)
        except InvalidTag as error:
            raise ConnectionError("a message was altered") from error
        self._received += 1
        return message


def connect(stream: ByteStream, own: int, secret: bytes, other: bytes) -> Channel:
    """Open the initiator's end.

    Args:
        stream: a connected socket.
        own: the initiator's number.
        secret: [32] bytes, its own.
        other: [32] bytes, the responder's public key.
    Raises:
        OSError: the responder has another key, does not know this one, or does not answer.
    """
    end = time.monotonic() + HANDSHAKE
    stream.settimeout(HANDSHAKE)
    state, e = _Symmetric(own, public_of(secret), other), new_secret()
    state.mix_hash(public_of(e))
    state.mix_key(_dh(e, other))
    state.mix_key(_dh(secret, other))
    stream.sendall(FIRST.pack(own, public_of(e) + state.seal()))
    answer = exactly(stream, SECOND, end)
    state.mix_hash(answer[:KEY])
    state.mix_key(_dh(e, answer[:KEY]))
    state.mix_key(_dh(secret, answer[:KEY]))
    state.open(answer[KEY:])
    channel = Channel(stream, *state.split())
    channel.send(b"")
    stream.settimeout(None)
    return channel


def accept(stream: ByteStream, secret: bytes, key_of: Callable[[int], bytes | None]) -> tuple[int, Channel]:
    """Open the responder's end; returns the initiator's number and the channel.

    Args:
        stream: an accepted socket.
        secret: [32] bytes, its own.
        key_of: number → public key [32] of a peer that may connect, or None.
    Raises:
        OSError: the initiator may not connect, has another key, or does not answer.
    """
    end = time.monotonic() + HANDSHAKE
    number, first = FIRST.unpack(exactly(stream, FIRST.size, end))
    other = key_of(number)
    if other is None:
        raise NotLetIn(f"peer {number} is not a contact")
    state, e = _Symmetric(number, other, public_of(secret)), new_secret()
    state.mix_hash(first[:KEY])
    state.mix_key(_dh(secret, first[:KEY]))
    state.mix_key(_dh(secret, other))
    state.open(first[KEY:])
    state.mix_hash(public_of(e))
    state.mix_key(_dh(e, first[:KEY]))
    state.mix_key(_dh(e, other))
    stream.sendall(public_of(e) + state.seal())
    initiator, responder = state.split()
    channel = Channel(stream, responder, initiator)
    channel.receive(0, end)
    stream.settimeout(None)
    return number, channel


class _Symmetric:
    """Noise's symmetric state: the chaining key ck, the hash h of the transcript, and the key k."""

    def __init__(self, number: int, initiator: bytes, responder: bytes):
        self._ck = self._h = NOISE_NAME
        self._k = b""
        for data in (PROLOGUE + FRAME_LENGTH.pack(number), initiator, responder):
            self.mix_hash(data)

    def mix_hash(self, data: bytes) -> None:
        self._h = hashlib.sha256(self._h + data).digest()

    def mix_key(self, shared: bytes) -> None:
        self._ck, self._k = _two_keys(self._ck, shared)

    def seal(self) -> bytes:
        """Encrypt an empty message, which authenticates the transcript."""
        sealed = ChaCha20Poly1305(self._k).encrypt(_nonce(0), b"", self._h)
        self.mix_hash(sealed)
        return sealed

    def open(self, sealed: bytes) -> None:
        try:
            ChaCha20Poly1305(self._k).decrypt(_nonce(0), sealed, self._h)
        except InvalidTag as error:
            raise NotLetIn("the other end does not have the expected key") from error
        self.mix_hash(sealed)

    def split(self) -> tuple[bytes, bytes]:
        """The sending keys of initiator and responder."""
        return _two_keys(self._ck, b"")


def exactly(stream: ByteStream, size: int, end: float | None = None) -> bytes:
    """Read `size` bytes before `end`, if given; the stream's own timeout restarts with every byte."""
    data = bytearray()
    while len(data) < size:
        if end is not None:
            stream.settimeout(max(0.001, end - time.monotonic()))
        piece = stream.recv(min(size - len(data), 1 << 20))
        if not piece:
            raise ConnectionError("the connection was closed")
        data += piece
    return bytes(data)


def _two_keys(ck: bytes, material: bytes) -> tuple[bytes, bytes]:
    """Noise's HKDF with two outputs."""
    temporary = hmac.digest(ck, material, "sha256")
    first = hmac.digest(temporary, b"\x01", "sha256")
    return first, hmac.digest(temporary, first + b"\x02", "sha256")


def _dh(secret: bytes, public: bytes) -> bytes:
    try:
        return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:  # a point of low order
        raise NotLetIn("the other end sent an invalid public key") from error


def _nonce(number: int) -> bytes:
    return bytes(4) + number.to_bytes(8, "little")
