"""Noise as a function of a secret key and its purpose. A round recomputed after a crash is thus the same release, not a
second one that would let an observer average the noise away.

Key (32 bytes) → HKDF-SHA256 with the purpose and its numbers → AES-256-CTR keystream → 64-bit words → uniform numbers
→ normal numbers by Box and Muller (1958), in double precision. Tails end at 8.6 deviations, with mass 2⁻⁵³ beyond.
"""

import os
import secrets
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from seedbed import tree
from seedbed.errors import InputError
from seedbed.temporary import fresh_name
from seedbed.tree import Tree

NoiseWords = npt.NDArray[np.uint64]
Normals = npt.NDArray[np.float64]
KEY_BYTES = 32


class Noise:
    """Random draws from a secret key; each purpose, with its numbers, has its own stream.

    >>> noise = Noise(bytes(32))
    >>> bool((noise.normal(3, "sum", 7) == noise.normal(3, "sum", 7)).all())
    True
    """

    def __init__(self, key: bytes):
        if len(key) != KEY_BYTES:
            raise InputError(f"a noise key has {KEY_BYTES} bytes, this one {len(key)}: make one by new_key()")
        self._key = key

    @property
    def fingerprint(self) -> str:
        """Identifies the key without revealing it."""
        return self._derive("fingerprint", ()).hex()[:32]

    def words(self, count: int, purpose: str, *numbers: int) -> NoiseWords:
        """[count] uniform 64-bit words."""
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        stream = Cipher(algorithms.AES(self._derive(purpose, numbers)), modes.CTR(bytes(16))).encryptor()
        return np.frombuffer(stream.update(bytes(8 * count)), np.uint64)

    def uniform(self, count: int, purpose: str, *numbers: int) -> Normals:
        """[count] uniform numbers in (0, 1], multiples of 2⁻⁵³."""
        drawn = (self.words(count, purpose, *numbers) >> np.uint64(11)) + np.uint64(1)
        return drawn.astype(np.float64) * 2.0**-53

    def normal(self, count: int, purpose: str, *numbers: int) -> Normals:
        """[count] standard normal numbers."""
        half = -(-count // 2)
        u = self.uniform(2 * half, purpose, *numbers)
        length, angle = np.sqrt(-2 * np.log(u[:half])), 2 * np.pi * u[half:]
        return np.concatenate([length * np.cos(angle), length * np.sin(angle)])[:count]

    def normal_like(self, like: Tree, purpose: str, *numbers: int) -> Tree:
        """A tree of standard normal numbers in double precision, with the shapes of `like`."""
        leaves = tree.leaves(like)
        drawn = torch.as_tensor(self.normal(sum(x.numel() for x in leaves), purpose, *numbers))
        parts = torch.split(drawn, [x.numel() for x in leaves])
        return tree.with_leaves(
            like, [part.reshape(x.shape).to(x.device) for part, x in zip(parts, leaves, strict=True)]
        )

    def bound(self, digest: bytes) -> "Noise":
        """The noise derived for a digest (`binding.digest_of`), independent of that for any other digest."""
        return Noise(self._derive(f"bound {digest.hex()}", ()))

    def of(self, purpose: str, *numbers: int) -> "Noise":
        """Derived noise with its own key, such as one client's."""
        return Noise(self._derive(purpose, numbers))

    def _derive(self, purpose: str, numbers: tuple[int, ...]) -> bytes:
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        info = purpose.encode() + b"\0" + b"".join(n.to_bytes(8, "big", signed=True) for n in numbers)
        return HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(self._key)


def new_key() -> bytes:
    """A secret key from the system's randomness."""
    return secrets.token_bytes(KEY_BYTES)


def key_file(path: Path) -> Noise:
    """The key in this file, created if missing; only its owner may read it.

    Raises:
        InputError: the file is not a key, or others may read it.
    """
    if not path.exists():
        with fresh_name(path, mode=0o600) as temporary:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(new_key().hex() + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    if path.stat().st_mode & 0o077:
        raise InputError(f"{path} is readable by others, and with it the noise can be removed: run chmod 600 {path}")
    try:
        return Noise(bytes.fromhex(path.read_text().strip()))
    except ValueError as error:
        raise InputError(f"{path} is not a noise key ({error}): restore it, or start another run") from error
