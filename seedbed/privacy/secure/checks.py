"""What a client checks of the roster that the server hands on, before it deals a share."""

from collections.abc import Iterable, Mapping, Sequence

from seedbed.privacy.secure import keys
from seedbed.privacy.secure.secagg_protocol import (
    AdvertisedKeys,
    ClientAbort,
    ClientId,
    SecAggPlan,
    is_client,
    keys_statement,
)


def check_roster(
    plan: SecAggPlan, roster: Sequence[AdvertisedKeys], own: AdvertisedKeys, identities: Mapping[ClientId, bytes]
) -> None:
    """Refuse a roster that is too small or too large, malformed, or that was tampered with.

    Args:
        own: this client's keys, as it sent them.
        identities: everybody's public signing keys, where keys are signed.
    """
    least = max(plan.min_cohort, plan.roster)
    if len(roster) < least:
        raise ClientAbort(f"a sum over {len(roster)} clients says too much of each: the least is {least}")
    if len(roster) > plan.grid.clients:
        raise ClientAbort(f"{len(roster)} clients may overflow the sum: the plan's grid is for {plan.grid.clients}")
    malformed = [place for place, k in enumerate(roster) if not is_well_formed(k)]
    if malformed:
        raise ClientAbort(f"the roster's entry {malformed[0]} is no client's keys")
    public = [key for k in roster for key in (k.sealing, k.masking)]
    if len({k.client for k in roster}) < len(roster) or len(set(public)) < len(public):
        raise ClientAbort("the roster holds a client or a key twice")
    if own not in roster:
        raise ClientAbort("the roster does not hold this client's own keys as it sent them")
    if plan.malicious_server:
        for k in roster:
            check_signature(plan, k, identities)


def is_well_formed(sent: object) -> bool:
    """By its types and lengths; `keys.is_public` says whether a key can be used."""
    return (
        isinstance(sent, AdvertisedKeys)
        and is_client(sent.client)
        and all(isinstance(key, bytes) and len(key) == 32 for key in (sent.sealing, sent.masking))
        and isinstance(sent.signature, bytes)
    )


def check_signature(plan: SecAggPlan, sent: AdvertisedKeys, identities: Mapping[ClientId, bytes]) -> None:
    identity = identities.get(sent.client)
    if identity is None:
        raise ClientAbort(f"client {sent.client} has no known identity")
    if not keys.verify_signature(
        identity, sent.signature, keys_statement(plan, sent.client, sent.sealing, sent.masking)
    ):
        raise ClientAbort(f"the keys of client {sent.client} are not signed by it")


def client_ids(named: Iterable[object]) -> frozenset[ClientId]:
    """A set of clients that the server names."""
    found = list(named)
    if not all(is_client(c) for c in found):
        raise ClientAbort("what should name clients holds something else")
    return frozenset(c for c in found if isinstance(c, int))
