"""A client's two shares for one holder: encrypted, with a public commitment to each.

The holder detects at once a share that differs from its commitment. The server detects a false share that comes back,
and which client sent it, so reconstruction never has to search for liars among honest shares. A share is 521 random
bits, about which its hash reveals nothing.
"""

import hashlib

from seedbed.privacy.secure import keys, shamir

COMMITMENT = 16  # bytes; forging a share with the hash of a commitment takes 2¹²⁸ attempts
SIZE = 2 * COMMITMENT + keys.NONCE + 2 * shamir.SHARE_BYTES + keys.TAG
SELF_MASK, MASKING_KEY = 0, 1  # index of a share


def seal_shares(key: bytes, shares: tuple[bytes, bytes], about: bytes) -> bytes:
    """Both commitments, then both shares encrypted; all of it is authenticated."""
    commitments = b"".join(commit(share) for share in shares)
    return commitments + keys.encrypt(key, b"".join(shares), about + commitments)


def open_shares(key: bytes, sealed: bytes, about: bytes) -> tuple[bytes, bytes] | None:
    """Both shares; None if they were altered or do not match their commitments."""
    commitments, rest = sealed[: 2 * COMMITMENT], sealed[2 * COMMITMENT :]
    content = keys.decrypt(key, rest, about + commitments)
    if content is None or len(content) != 2 * shamir.SHARE_BYTES:
        return None
    shares = content[: shamir.SHARE_BYTES], content[shamir.SHARE_BYTES :]
    return shares if b"".join(commit(share) for share in shares) == commitments else None


def is_committed(sealed: bytes, which: int, share: object) -> bool:
    """Whether the share matches its dealer's commitment."""
    commitment = sealed[which * COMMITMENT : (which + 1) * COMMITMENT]
    return isinstance(share, bytes) and len(share) == shamir.SHARE_BYTES and commit(share) == commitment


def commit(share: bytes) -> bytes:
    return hashlib.sha256(b"share" + share).digest()[:COMMITMENT]
