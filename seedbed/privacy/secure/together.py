"""The whole protocol in one process: what a simulation runs, and what the promises are proved on."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from seedbed import tree
from seedbed.errors import InputError
from seedbed.federated import Algorithm
from seedbed.privacy.secure.client import SecureClient
from seedbed.privacy.secure.fixed_point import Grid, Numbers, Words, add
from seedbed.privacy.secure.keys import new_identity
from seedbed.privacy.secure.protocol import ClientId, Plan, Refused
from seedbed.privacy.secure.server import SecureServer
from seedbed.tree import Tree


class Sum(NamedTuple):
    """The sum of those that stayed, in words, and who they are."""

    words: Words
    clients: frozenset[ClientId]


def secure_sum(
    plan: Plan,
    updates: Mapping[ClientId, Numbers],
    weights: Mapping[ClientId, float] | None = None,
    *,
    lost: Sequence[Collection[ClientId]] = ((), (), (), ()),
) -> Sum:
    """Run the protocol over these clients. One that refuses, because too few of its neighbours are left, is lost.

    Args:
        lost: who answers no more from stage 0 (keys), 1 (shares), 2 (masked), 3 (unmask) on.
    Raises:
        Aborted: too few are left.
    """
    identities = {c: new_identity() for c in updates} if plan.malicious_server else {}
    public = {c: pair[1] for c, pair in identities.items()}
    clients = {
        c: SecureClient(plan, c, identity=identities[c][0] if identities else None, identities=public) for c in updates
    }
    server = SecureServer(plan)

    def there(stage: int, asked: Collection[ClientId]) -> list[ClientId]:
        gone = {c for before in lost[: stage + 1] for c in before}
        return sorted(c for c in asked if c not in gone)

    for c in there(0, clients):
        server.receive_keys(clients[c].advertise())
    roster = server.roster()
    for c in there(1, clients):
        with suppress(Refused):
            server.receive_sealed(c, clients[c].share(roster))
    deliveries = server.deliveries()
    for c in there(2, deliveries):
        with suppress(Refused):
            server.receive_masked(clients[c].mask(deliveries[c], updates[c], 1.0 if weights is None else weights[c]))
    survivors = server.survivors()
    answering = there(3, survivors)
    if plan.malicious_server:
        for c in answering:
            with suppress(Refused):
                server.receive_signature(c, clients[c].confirm(survivors))
    asked = server.unmasking()
    for c in answering:
        with suppress(Refused):
            server.receive_shares(clients[c].unmask(asked))
    return Sum(server.total(), survivors)


def plain_sum(grid: Grid, updates: Mapping[ClientId, Numbers], weights: Mapping[ClientId, float]) -> Words:
    """The same sum without masks: bit for bit what `secure_sum` gives."""
    words = [grid.encode(update, weights[c]) for c, update in updates.items()]
    total = np.zeros_like(words[0])
    for each in words:
        add(total, each)
    return total


@dataclass(frozen=True)
class FixedPointMean:
    """The weighted mean by fixed-point integers: the same in any order, and the same masked or not.

    Attributes:
        masked: run the protocol of secure aggregation; False: only its arithmetic.
        neighbours: k of each client; None: the protocol's advice, about 2·log₂ of their number, at least 8.
        malicious_server: see `Plan`.
    """

    grid: Grid = field(default_factory=Grid)
    masked: bool = True
    neighbours: int | None = None
    malicious_server: bool = False
    linear = False  # as seen from outside: the parts of a sum are nobody's to see

    def __call__(self, stacked: Tree, weights: Tensor) -> Tree:
        leaves = [leaf.double().reshape(len(leaf), -1) for leaf in tree.leaves(stacked)]
        flat = torch.cat(leaves, 1).cpu().numpy()
        updates = dict(enumerate(flat))
        whole = self._relative(weights)
        if self.masked:
            total = secure_sum(self._plan(*flat.shape), updates, whole).words
        else:
            total = plain_sum(self.grid, updates, whole)
        mean = torch.split(torch.from_numpy(self.grid.decode(total)[0]), [leaf.shape[1] for leaf in leaves])
        parts = zip(mean, tree.leaves(stacked), strict=True)
        return tree.with_leaves(stacked, [part.to(leaf).reshape(leaf.shape[1:]) for part, leaf in parts])

    def _relative(self, weights: Tensor) -> dict[ClientId, float]:
        """Weights for the grid: cut by its cap, or without one in parts of the largest, which a simulation knows."""
        scale = 1.0 if self.grid.cap else float(weights.max())
        return {i: float(w) / scale for i, w in enumerate(weights)}

    def _plan(self, clients: int, length: int) -> Plan:
        k = min(clients - 1, self.neighbours or max(8, 2 * int(np.ceil(np.log2(max(clients, 2))))))
        threshold = 2 * k // 3 + 1
        # One process has no replays to fear: run, round and attempt tell sums of a federation apart.
        return Plan(
            "simulation", 0, 0, length, k, max(2, threshold), grid=self.grid, malicious_server=self.malicious_server
        )

    def __repr__(self) -> str:
        return "secure mean" if self.masked else "fixed-point mean"


def secure(algorithm: Algorithm, reduce: FixedPointMean | None = None) -> Algorithm:
    """The algorithm, its messages summed by secure aggregation.

    Raises:
        InputError: its messages are not reduced by a mean.
    """
    if not algorithm.reduce.linear:
        raise InputError(
            f"secure aggregation cannot compute {algorithm.reduce}: it only sees sums. Use reduce=mean, or leave "
            "secure aggregation out"
        )
    return replace(algorithm, reduce=reduce or FixedPointMean())
