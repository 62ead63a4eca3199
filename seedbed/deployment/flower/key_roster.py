"""The registered keys: the .pub files of a folder, kept up to date. A key whose file is removed is refused at once."""

import asyncio
import logging
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from seedbed.errors import InputError

CALLS_AT_ONCE = 4  # parallel calls of one key; further calls wait
RATE, BURST = 40.0, 80  # calls of one key: per second on average, and at once
REMARK_INTERVAL = 60.0  # seconds before a remark is repeated
FRESH = 2.0  # seconds in which another change of a folder may keep its time stamp
log = logging.getLogger("seedbed.gate")


class Caller:
    """One registered key and its use of the server.

    Args:
        name: of its .pub file.
        key: the public key.
    """

    def __init__(self, name: str, key: ec.EllipticCurvePublicKey):
        self.name, self.key = name, key
        self._slots = asyncio.Semaphore(CALLS_AT_ONCE)
        self._due = 0.0  # time from which its calls so far are within the rate
        self._spent, self._since = 0.0, time.monotonic()

    @asynccontextmanager
    async def turn(self, cost: int) -> AsyncIterator[None]:
        """Wait for a slot, and for the rate limit."""
        async with self._slots:
            now = time.monotonic()
            self._due = max(self._due, now) + cost / RATE
            await asyncio.sleep(max(0.0, self._due - now - BURST / RATE))
            yield

    def spends(self, size: int, letter: int) -> bool:
        """Whether this key may store `size` bytes: two letters per answer taken, plus one letter a minute."""
        now = time.monotonic()
        self._spent = max(0.0, self._spent - (now - self._since) / 60 * letter)
        self._since = now
        if self._spent + size > 2 * letter:
            return False
        self._spent += size
        return True

    def settle(self) -> None:
        """Reset the count: the server took an answer, so the next may be stored."""
        self._spent = 0.0


class KeyRoster:
    """The keys in a folder.

    Args:
        folder: of .pub files.
        register: called with each key (PEM) before its first call is admitted.
    Raises:
        InputError: a file does not contain a key that Flower supports.
    """

    def __init__(self, folder: Path, register: Callable[[bytes], object]):
        self._folder, self._register = folder, register
        self._callers: dict[bytes, Caller] = {}
        self._remarks: dict[str, float] = {}
        self._read_at = (-1, 0.0)
        for path in self._files():
            if _key(path) is None:
                raise InputError(f"{path} is not an elliptic-curve public key in OpenSSH's format: copy the member's "
                                 f"again, or remove the file")  # fmt: skip
        self.refresh()

    def find(self, header: bytes) -> Caller | None:
        """The caller with the key in a request's header, or None."""
        self.refresh()
        return self._callers.get(header)

    def find_key(self, pem: bytes) -> Caller | None:
        return self._callers.get(b64encode(pem))

    def refresh(self) -> None:
        """Update the keys if the folder has changed."""
        changed, now = self._folder.stat().st_mtime_ns, time.time()
        before, at = self._read_at
        if changed == before and at > changed / 1e9 + FRESH:
            return
        callers = {}
        for path in self._files():
            if (key := _key(path)) is None:
                self.now_and_then(f"{path} does not contain a public key", log.warning)
                continue
            pem = _pem(key)
            header = b64encode(pem)
            if header not in self._callers:
                self._register(pem)
            callers[header] = self._callers.get(header) or Caller(path.stem, key)
        self._callers, self._read_at = callers, (changed, now)

    def now_and_then(self, line: str, said: Callable[[str], object]) -> None:
        """Say this at most once a minute."""
        now = time.monotonic()
        if now >= self._remarks.get(line, 0.0):
            self._remarks = {text: until for text, until in self._remarks.items() if until > now}
            self._remarks[line] = now + REMARK_INTERVAL
            said(line)

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.pub"))


def verifies(key: ec.EllipticCurvePublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _key(path: Path) -> ec.EllipticCurvePublicKey | None:
    try:
        key = serialization.load_ssh_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, ec.EllipticCurvePublicKey) else None


def _pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """The key in the form that Flower's nodes send."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
