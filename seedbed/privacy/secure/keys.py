"""Cryptographic primitives, all from the package `cryptography`: X25519, HKDF, AES-CTR for masks, AES-GCM for shares,
Ed25519 for identities.

Every random byte comes from the operating system. Every derived key is bound to its purpose: HKDF's info contains the
plan's digest, the pair of clients and the purpose.
"""

import secrets

import numpy as np
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from seedbed.privacy.secure.fixed_point import GridWords

NONCE, TAG = 12, 16  # bytes
ZEROS = bytes(1 << 18)  # the largest chunk of a stream


def new_secret() -> bytes:
    """32 random bytes: a private key, or the seed of a mask."""
    return secrets.token_bytes(32)


def public_of(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def is_public(key: object) -> bool:
    """Whether this is a usable X25519 public key: 32 bytes, and not a point of low order."""
    if not isinstance(key, bytes) or len(key) != 32 or key[31] > 127:
        return False
    try:
        X25519PrivateKey.from_private_bytes(bytes(32)).exchange(X25519PublicKey.from_public_bytes(key))
    except ValueError:  # the shared secret is zero, whatever the private key
        return False
    return True


def shared_key(private: bytes, public: bytes, info: bytes) -> bytes:
    """The 32-byte key that two clients share, from one's private and the other's public key."""
    secret = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)


def expand_key(seed: bytes, length: int, dtype: type[np.unsignedinteger]) -> GridWords:
    """Expand a seed, which must be used once, to a mask by AES-256 in counter mode: [length]."""
    stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(stream.update(bytes(length * np.dtype(dtype).itemsize)), dtype=dtype)


class KeyStream:
    """The mask of `expand_key`, chunk by chunk.

    Args:
        room: output buffer, shared by all streams of a sum; at least 16 bytes larger than the largest chunk.
    """

    def __init__(self, seed: bytes, room: bytearray):
        self._stream, self._room = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor(), room

    def words(self, count: int, dtype: type[np.unsignedinteger]) -> GridWords:
        """The next words; valid until the buffer is written again."""
        self._stream.update_into(memoryview(ZEROS)[: count * np.dtype(dtype).itemsize], self._room)
        return np.frombuffer(self._room, dtype, count)


def encrypt(key: bytes, content: bytes, about: bytes) -> bytes:
    """Encrypt and authenticate `content`, and authenticate `about` with it."""
    nonce = secrets.token_bytes(NONCE)
    return nonce + AESGCM(key).encrypt(nonce, content, about)


def decrypt(key: bytes, sealed: bytes, about: bytes) -> bytes | None:
    """The content; None if it or `about` was altered."""
    try:
        return AESGCM(key).decrypt(sealed[:NONCE], sealed[NONCE:], about)
    except (InvalidTag, ValueError):
        return None


def new_identity() -> tuple[bytes, bytes]:
    """An Ed25519 key pair for signing: (private, public), 32 bytes each."""
    key = Ed25519PrivateKey.generate()
    return key.private_bytes_raw(), key.public_key().public_bytes_raw()


def sign(identity: bytes, statement: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(identity).sign(statement)


def verify_signature(public: bytes, signature: object, statement: bytes) -> bool:
    if not isinstance(signature, bytes):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, statement)
    except (InvalidSignature, ValueError):
        return False
    return True
