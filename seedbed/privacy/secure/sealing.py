"""A client's two shares for one holder: sealed, with a commitment to each that everybody may read.

The holder sees at once that its shares are not those committed to; the server sees at once which of the shares that
come back is false, and from whom. So reconstruction never has to search for a liar among honest shares. A share is
521 random bits, of which its hash tells nothing.
"""

import hashlib

from seedbed.privacy.secure import keys, shamir

COMMITMENT = 16  # bytes; a false share with a commitment's hash takes 2¹²⁸ tries
SIZE = 2 * COMMITMENT + keys.NONCE + 2 * shamir.SHARE_BYTES + keys.TAG
SELF_MASK, MASKING_KEY = 0, 1  # which share


def seal_shares(key: bytes, shares: tuple[bytes, bytes], about: bytes) -> bytes:
    """Both commitments, then both shares encrypted; all of it authenticated."""
    commitments = b"".join(commit(share) for share in shares)
    return commitments + keys.encrypt(key, b"".join(shares), about + commitments)


def open_shares(key: bytes, sealed: bytes, about: bytes) -> tuple[bytes, bytes] | None:
    """Both shares; None where they were altered, or are not those committed to."""
    commitments, rest = sealed[: 2 * COMMITMENT], sealed[2 * COMMITMENT :]
    content = keys.decrypt(key, rest, about + commitments)
    if content is None or len(content) != 2 * shamir.SHARE_BYTES:
        return None
    shares = content[: shamir.SHARE_BYTES], content[shamir.SHARE_BYTES :]
    return shares if b"".join(commit(share) for share in shares) == commitments else None


def is_committed(sealed: bytes, which: int, share: object) -> bool:
    """Whether the share is the one that its dealer committed to."""
    commitment = sealed[which * COMMITMENT : (which + 1) * COMMITMENT]
    return isinstance(share, bytes) and len(share) == shamir.SHARE_BYTES and commit(share) == commitment


def commit(share: bytes) -> bytes:
    return hashlib.sha256(b"share" + share).digest()[:COMMITMENT]
