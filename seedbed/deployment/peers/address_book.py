"""The address book: every peer's address and public key in one file, and each peer's own secret in another."""

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seedbed.errors import InputError
from seedbed.federated import ClientId
from seedbed.limits import from_json
from seedbed.privacy.secure.keys import new_secret, public_of, shared_key
from seedbed.serialization import explain_write_errors, fsync_folder, write_atomically

FILE, SECRET = "circle.json", "secret.key"
ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})")
PAIR = b"seedbed peers: frames"


def split_address(address: str) -> tuple[str, int]:
    """Split HOST:PORT, and remove brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


@dataclass(frozen=True)
class AddressBook:
    """All peers' addresses (HOST:PORT) and public keys [32], in the order of their numbers."""

    addresses: Sequence[str]
    keys: Sequence[bytes]

    def __post_init__(self) -> None:
        for address in self.addresses:
            match = ADDRESS.fullmatch(address)
            if match is None or not 0 < int(match[2]) < 65536:
                raise InputError(f"{address!r} is not the address of a peer: give HOST:PORT, as 10.0.0.7:7100")
        if len(set(self.addresses)) < len(self.addresses):
            raise InputError("two peers have the same address: give each its own port")

    def pairs(self, own: ClientId, secret: bytes) -> dict[ClientId, bytes]:
        """The keys [32] that this peer shares with each other peer, derived from its secret and the other's public
        key."""
        return {other: shared_key(secret, key, PAIR) for other, key in enumerate(self.keys) if other != own}

    def write(self, folder: Path) -> None:
        table = {"addresses": list(self.addresses), "keys": [_text(key) for key in self.keys]}
        write_atomically(folder / FILE, (json.dumps(table, indent=2) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> "AddressBook":
        """Read the address book.

        Raises:
            InputError: the file is missing or damaged.
        """
        path = folder / FILE
        try:
            table: Mapping[str, Sequence[str]] = from_json(path.read_text(encoding="utf-8"))
            return cls(tuple(table["addresses"]), tuple(_bytes(key) for key in table["keys"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} cannot be read ({error}): copy it again from the coordinator") from error


def write_peer_secret(folder: Path) -> bytes:
    """Write a new secret to a file that only its owner can read; returns the public key [32]."""
    secret, path = new_secret(), folder / SECRET
    with explain_write_errors(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(handle, _text(secret).encode() + b"\n")
            os.fsync(handle)
        finally:
            os.close(handle)
        fsync_folder(folder)
    return public_of(secret)


def read_peer_secret(folder: Path, public: bytes) -> bytes:
    """Read a peer's secret.

    Raises:
        InputError: the file is missing, or does not match the public key.
    """
    path = folder / SECRET
    try:
        secret = _bytes(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): copy it again from the coordinator") from error
    if public_of(secret) != public:
        raise InputError(f"{path} does not match this peer's public key in {FILE}: copy both again")
    return secret


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()


def _bytes(text: str) -> bytes:
    key = base64.b64decode(text, validate=True)
    if len(key) != 32:
        raise ValueError(f"a key of {len(key)} bytes")
    return key
