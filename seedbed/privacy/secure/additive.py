"""Additive secret sharing among several servers: no single server sees an update; all together learn only the sum.

The simplest multi-party computation: x = Σ_s x_s modulo a power of two. All shares but one are random, and each server
gets one share. Every server sums its shares, and the servers' sums are added. There is no second stage, and a lost
client costs nothing. It protects updates as long as one server does not collude with the others.
"""

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from seedbed.errors import InputError
from seedbed.privacy.secure import keys
from seedbed.privacy.secure.fixed_point import GridWords, add_modular

AdditiveShare = bytes | GridWords  # a 32-byte seed that the server expands, or the words themselves


def split_shares(words: GridWords, servers: int) -> list[AdditiveShare]:
    """Split an encoded update (`FixedPointGrid.encode`) into one share per server: a seed for all but the last.

    Each server beyond the first thus costs a client only 32 bytes.

    Raises:
        InputError: fewer than 2 servers.
    """
    if servers < 2:
        raise InputError(f"servers={servers}: a server with the only share sees the update; use 2 or more")
    seeds = [keys.new_secret() for _ in range(servers - 1)]
    rest = words.copy()
    for seed in seeds:
        np.subtract(rest, keys.expand_key(seed, len(words), words.dtype.type), out=rest)
    return [*seeds, rest]


class AdditiveServer:
    """One of the servers, for one sum."""

    def __init__(self, length: int, dtype: type[np.unsignedinteger]):
        self._length, self._dtype = length, dtype
        self._shares: dict[int, AdditiveShare] = {}

    def receive(self, client: int, share: AdditiveShare) -> None:
        """Store a client's first share; a share of another length or word type is refused.

        Raises:
            InputError: the share is neither a seed nor words of this sum.
        """
        good = len(share) == 32 if isinstance(share, bytes) else _fits(share, self._length, self._dtype)
        if not good:
            raise InputError(f"the share of client {client} is neither a seed nor {self._length} words: refused")
        self._shares.setdefault(client, share)

    @property
    def clients(self) -> frozenset[int]:
        """Clients whose share has arrived; only those present on all servers are summed."""
        return frozenset(self._shares)

    def total(self, clients: Collection[int], *, least: int = 3) -> GridWords:
        """The sum of these clients' shares.

        Raises:
            InputError: fewer than `least` clients, or a missing share.
        """
        missing = set(clients) - self.clients
        if missing or len(clients) < least:
            why = f"{sorted(missing)} sent no share" if missing else f"{len(clients)} clients, fewer than {least}"
            raise InputError(f"no sum over these clients: {why}")
        total = np.zeros(self._length, self._dtype)
        for client in clients:
            share = self._shares[client]
            add_modular(total, keys.expand_key(share, self._length, self._dtype) if isinstance(share, bytes) else share)
        return total


def combine_shares(totals: Iterable[GridWords]) -> GridWords:
    """Add the servers' sums; gives the sum of the updates' words."""
    first, *others = totals
    whole = first.copy()
    for other in others:
        add_modular(whole, other)
    return whole


def additive_sum(updates: Mapping[int, GridWords], servers: int) -> GridWords:
    """Run additive sharing in one process."""
    first = next(iter(updates.values()))
    all_servers = [AdditiveServer(len(first), first.dtype.type) for _ in range(servers)]
    for client, words in updates.items():
        for server, share in zip(all_servers, split_shares(words, servers), strict=True):
            server.receive(client, share)
    common = frozenset.intersection(*(server.clients for server in all_servers))
    return combine_shares(server.total(common) for server in all_servers)


def _fits(share: GridWords, length: int, dtype: type[np.unsignedinteger]) -> bool:
    return share.shape == (length,) and share.dtype == dtype
