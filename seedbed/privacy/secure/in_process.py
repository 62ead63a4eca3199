"""The whole protocol in one process: used by simulations and by the tests of its guarantees."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from seedbed.privacy.secure.fixed_point import FixedPointGrid, GridWords, Numbers, add_modular
from seedbed.privacy.secure.groups import Lost
from seedbed.privacy.secure.keys import new_identity
from seedbed.privacy.secure.secagg_client import SecureClient
from seedbed.privacy.secure.secagg_protocol import ClientAbort, ClientId, SecAggPlan
from seedbed.privacy.secure.secagg_server import SecureServer

NO_LOSSES: Lost = ((), (), (), ())


class SecureSum(NamedTuple):
    """The sum of the surviving clients' words, and these clients."""

    words: GridWords
    clients: frozenset[ClientId]


def secure_sum(
    plan: SecAggPlan,
    updates: Mapping[ClientId, Numbers],
    weights: Mapping[ClientId, float] | None = None,
    *,
    lost: Lost = NO_LOSSES,
) -> SecureSum:
    """Run the protocol over these clients' updates, encoded on the plan's grid. See `masked_sum`."""
    return masked_sum(
        plan, {c: plan.grid.encode(x, 1.0 if weights is None else weights[c]) for c, x in updates.items()}, lost
    )


def masked_sum(plan: SecAggPlan, words: Mapping[ClientId, GridWords], lost: Lost = NO_LOSSES) -> SecureSum:
    """Run the protocol over these clients' words. A client that aborts, such as for too few neighbours, counts as lost.

    Raises:
        RoundAborted: too few clients are left.
    """
    identities = {c: new_identity() for c in words} if plan.malicious_server else {}
    public = {c: pair[1] for c, pair in identities.items()}
    clients = {
        c: SecureClient(plan, c, identity=identities[c][0] if identities else None, identities=public) for c in words
    }
    server = SecureServer(plan, public)

    def present(stage: int, asked: Collection[ClientId]) -> list[ClientId]:
        gone = {c for before in lost[: stage + 1] for c in before}
        return sorted(c for c in asked if c not in gone)

    for c in present(0, clients):
        server.receive_keys(clients[c].advertise())
    roster = server.roster()
    for c in present(1, {k.client for k in roster}):
        with suppress(ClientAbort):
            server.receive_sealed(c, clients[c].share(roster))
    deliveries = server.deliveries()
    for c in present(2, deliveries):
        with suppress(ClientAbort):
            server.receive_masked(clients[c].mask_words(deliveries[c], words[c]))
    survivors = server.survivors()
    answering = present(3, survivors)
    if plan.malicious_server:
        for c in answering:
            with suppress(ClientAbort):
                server.receive_signature(c, clients[c].confirm(survivors))
    asked = server.unmasking()
    for c in answering:
        with suppress(ClientAbort):
            server.receive_shares(clients[c].unmask(asked))
    return SecureSum(server.total(), survivors)


def plain_sum(
    grid: FixedPointGrid, updates: Mapping[ClientId, Numbers], weights: Mapping[ClientId, float]
) -> GridWords:
    """The same sum without masks: bit-identical to `secure_sum`."""
    return add_words([grid.encode(update, weights[c]) for c, update in updates.items()])


def add_words(words: Sequence[GridWords]) -> GridWords:
    """Σ of words, modulo 2³² or 2⁶⁴."""
    total = np.zeros_like(words[0])
    for more in words:
        add_modular(total, more)
    return total
