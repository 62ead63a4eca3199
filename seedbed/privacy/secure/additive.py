"""Additive secret sharing among several servers: no one of them sees an update, all together give only the sum.

The simplest multi-party computation: x = Σ_s x_s modulo a power of two, each share but one drawn at random, one share
to each server; every server adds up what it has, and the servers' sums are added. It needs no second stage, and a
client that is lost costs nothing; it protects as long as one of the servers does not collude with the others.
"""

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from seedbed.errors import InputError
from seedbed.privacy.secure import keys
from seedbed.privacy.secure.fixed_point import GridWords, add_modular

AdditiveShare = bytes | GridWords  # a seed of 32 bytes, expanded by the server, or the words themselves


def split_shares(words: GridWords, servers: int) -> list[AdditiveShare]:
    """An encoded update (`Grid.encode`) in shares, one for each server: a seed for all but the last.

    So that several servers cost a client 32 bytes each more than one.
    """
    if servers < 2:
        raise InputError(f"servers={servers}: whoever holds the only share sees the update; take 2 or more")
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
        """A client's first share counts; one of another length or kind of word is refused."""
        good = len(share) == 32 if isinstance(share, bytes) else _fits(share, self._length, self._dtype)
        if not good:
            raise InputError(f"the share of client {client} is neither a seed nor {self._length} words: refused")
        self._shares.setdefault(client, share)

    @property
    def clients(self) -> frozenset[int]:
        """From whom a share has come: servers add up those that all of them have."""
        return frozenset(self._shares)

    def total(self, clients: Collection[int], *, least: int = 3) -> GridWords:
        """The sum of these clients' shares.

        Raises:
            InputError: fewer than `least` clients, or one whose share never came.
        """
        missing = set(clients) - self.clients
        if missing or len(clients) < least:
            why = f"the shares of {sorted(missing)} never came" if missing else f"{len(clients)} are fewer than {least}"
            raise InputError(f"no sum over these clients: {why}")
        total = np.zeros(self._length, self._dtype)
        for client in clients:
            share = self._shares[client]
            add_modular(total, keys.expand_key(share, self._length, self._dtype) if isinstance(share, bytes) else share)
        return total


def combine_shares(totals: Iterable[GridWords]) -> GridWords:
    """The servers' sums -> the sum of the updates' words."""
    first, *others = totals
    whole = first.copy()
    for other in others:
        add_modular(whole, other)
    return whole


def additive_sum(updates: Mapping[int, GridWords], servers: int) -> GridWords:
    """All of it in one process."""
    first = next(iter(updates.values()))
    each = [AdditiveServer(len(first), first.dtype.type) for _ in range(servers)]
    for client, words in updates.items():
        for server, share in zip(each, split_shares(words, servers), strict=True):
            server.receive(client, share)
    common = frozenset.intersection(*(server.clients for server in each))
    return combine_shares(server.total(common) for server in each)


def _fits(share: GridWords, length: int, dtype: type[np.unsignedinteger]) -> bool:
    return share.shape == (length,) and share.dtype == dtype
